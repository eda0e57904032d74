"""JSON Schemas in the form vendors accept for structured output, made once per schema and kept as JSON.

A root that is no object is wrapped as `{"value": …}`; OpenAI's strict mode wants every object closed and every
property required, which is added where it is missing, and given up for schemas it cannot express (free-form objects).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

WRAPPED = "value"
_CHILDREN = ("items", "additionalProperties", "not")
_CHILD_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
_CHILD_MAPS = ("properties", "$defs", "definitions", "patternProperties")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A schema to send: `plain` as an object at its root, `strict` if it can be told so, and whether it was wrapped."""

    plain: msgspec.Raw
    strict: msgspec.Raw | None
    wrapped: bool


class _Wrapper(msgspec.Struct):
    value: msgspec.Raw


_unwrap = msgspec.json.Decoder(_Wrapper).decode


def prepare(schema: dict[str, Any]) -> Prepared:
    """The forms of a schema; remembered for the 256 used last. Raises TypeError for what is not JSON."""
    return _prepare(msgspec.json.encode(schema))


def unwrap(text: str) -> str:
    """The value within a wrapped answer; an answer that is none stays as it is, for the caller to refuse."""
    try:
        return bytes(_unwrap(text).value).decode()
    except (msgspec.DecodeError, UnicodeError):
        return text


@lru_cache(maxsize=256)
def _prepare(encoded: bytes) -> Prepared:
    schema = _rooted(msgspec.json.decode(encoded))
    wrapped = schema.get("type") != "object"
    if wrapped:
        definitions: dict[str, Any] = {key: schema.pop(key) for key in ("$defs", "definitions") if key in schema}
        properties: dict[str, Any] = {WRAPPED: schema}
        schema = {"type": "object", "properties": properties, "required": [WRAPPED], **definitions}
    plain = msgspec.Raw(msgspec.json.encode(schema))
    strict = msgspec.Raw(msgspec.json.encode(_closed(schema))) if _strictable(schema) else None
    return Prepared(plain, strict, wrapped)


def _rooted(schema: dict[str, Any]) -> dict[str, Any]:
    """A root that only refers to one of its definitions becomes that definition."""
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        target = schema.get("$defs", {}).get(reference.removeprefix("#/$defs/"))
        if isinstance(target, dict):
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            return {**target, **rest}
    return schema


def _strictable(node: Any) -> bool:
    if not isinstance(node, dict):
        return True
    if "patternProperties" in node or node.get("additionalProperties") not in (None, False):
        return False
    if node.get("type") == "object" and "properties" not in node:
        return False
    return all(_strictable(child) for child in _children(node))


def _children(node: dict[str, Any]) -> list[Any]:
    children = [node[key] for key in _CHILDREN if key in node]
    for key in _CHILD_LISTS:
        children += node.get(key, ())
    for key in _CHILD_MAPS:
        children += node.get(key, {}).values()
    return children


def _closed(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    made: dict[str, Any] = {}
    for key, value in node.items():
        if key in _CHILDREN:
            made[key] = _closed(value)
        elif key in _CHILD_LISTS:
            made["anyOf" if key == "oneOf" else key] = [_closed(child) for child in value]
        elif key in _CHILD_MAPS:
            made[key] = {name: _closed(child) for name, child in value.items()}
        elif key not in ("default", "discriminator"):
            made[key] = value
    if "properties" in made:
        made["required"] = list(made["properties"])
        made["additionalProperties"] = False
    return made
