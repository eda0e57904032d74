"""A JSON Schema in the subset that Gemini takes, made once per schema.

No references, one type, in capitals as the vendor names it, no unions but anyOf.

What the subset cannot say is left out, never guessed: the answer is checked against the whole schema afterwards.
"""

from functools import lru_cache
from typing import Any

import msgspec

_DEPTH_MAX = 24
_KEPT = frozenset(
    ("title", "description", "format", "nullable", "minItems", "maxItems", "minLength", "maxLength", "pattern",
     "minimum", "maximum", "required", "propertyOrdering")
)  # fmt: skip
_FORMATS = frozenset(("date-time", "enum", "float", "double", "int32", "int64"))


def subset(schema: dict[str, Any]) -> msgspec.Raw:
    """The schema as Gemini takes it; remembered for the 256 used last. Raises TypeError for what is not JSON."""
    return _subset(msgspec.json.encode(schema))


@lru_cache(maxsize=256)
def _subset(encoded: bytes) -> msgspec.Raw:
    root = msgspec.json.decode(encoded)
    return msgspec.Raw(msgspec.json.encode(_made(root, root, 0)))


def _made(node: Any, root: dict[str, Any], depth: int) -> dict[str, Any]:
    node = _resolved(node, root)
    if not isinstance(node, dict) or depth > _DEPTH_MAX:
        return {"type": "STRING"}
    made = {key: value for key, value in node.items() if key in _KEPT}
    if made.get("format") not in _FORMATS:
        made.pop("format", None)
    kind, nullable = _kind(node)
    branches = [branch for branch in node.get("anyOf") or node.get("oneOf") or () if branch != {"type": "null"}]
    nullable = nullable or {"type": "null"} in (node.get("anyOf") or node.get("oneOf") or ())
    if len(branches) == 1:
        made = {**_made(branches[0], root, depth + 1), **made}
    elif branches:
        made["anyOf"] = [_made(branch, root, depth + 1) for branch in branches]
    elif kind is not None:
        made["type"] = kind.upper()
    if kind == "object":
        properties = node.get("properties") or {}
        made["properties"] = {name: _made(child, root, depth + 1) for name, child in properties.items()}
        made["required"] = [name for name in node.get("required") or () if name in properties]
        made = {key: value for key, value in made.items() if value or key not in ("properties", "required")}
    elif kind == "array":
        made["items"] = _made(node.get("items", {}), root, depth + 1)
    values = [node["const"]] if "const" in node else node.get("enum") or ()
    if values and all(isinstance(value, str) for value in values):
        made |= {"type": "STRING", "enum": list(values)}
    if nullable:
        made["nullable"] = True
    return made or {"type": "STRING"}


def _kind(node: dict[str, Any]) -> tuple[str | None, bool]:
    """The one type of a node, and whether it may be null too."""
    given = node.get("type")
    if isinstance(given, list):
        others = [one for one in given if one != "null"]
        return (others[0] if others else None), "null" in given
    if given is None and "properties" in node:
        return "object", False
    return given, False


def _resolved(node: Any, root: dict[str, Any]) -> Any:
    """The node with what it refers to, and all that it must fit at once, laid into it."""
    hops = 0
    while isinstance(node, dict) and isinstance(node.get("$ref"), str) and hops < _DEPTH_MAX:
        target: Any = root
        for name in node["$ref"].removeprefix("#").split("/")[1:]:
            target = target.get(name, {}) if isinstance(target, dict) else {}
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
        hops += 1
    if isinstance(node, dict) and node.get("allOf"):
        whole: dict[str, Any] = {key: value for key, value in node.items() if key != "allOf"}
        for part in node["allOf"]:
            more = _resolved(part, root)
            properties = {**whole.get("properties", {}), **more.get("properties", {})}
            required = [*whole.get("required", ()), *more.get("required", ())]
            whole = {**more, **whole}
            if properties:
                whole |= {"properties": properties, "required": list(dict.fromkeys(required))}
        return whole
    return node
