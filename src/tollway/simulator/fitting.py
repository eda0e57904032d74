"""A JSON value that fits a JSON Schema, and that says something about the prompt where the schema lets it.

Knows the keywords that answers of language models are asked for in: type, enum, const, properties, required, items,
prefixItems, anyOf, oneOf, allOf, $ref, and the bounds and common formats of strings, numbers and arrays.
"""

import math
from collections import OrderedDict
from typing import Any

import msgspec

from tollway.simulator.choosing import Chooser
from tollway.simulator.words import words

_DEPTH_MAX = 40
_VALUES_MAX = 20_000
_STRING_CHARS_MAX = 100_000
_OPTIONAL_DEPTH_MAX = 6
_SCHEMAS_KEPT = 256
_EXCERPT_WORDS = 8
_FORMATS = {
    "date": "2026-01-15",
    "date-time": "2026-01-15T09:30:00Z",
    "time": "09:30:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "uri": "https://example.com/page",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "01890a5d-ac96-774b-bcce-b302099a8057",
}


class UnfitSchema(ValueError):
    """No value was found for a schema; the message says where."""


class Fitter:
    """One schema, decoded, with its choices prepared."""

    def __init__(self, schema: bytes) -> None:
        """Raises UnfitSchema if it is no JSON object or boolean."""
        try:
            self._root: Any = msgspec.json.decode(schema)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UnfitSchema(f"it cannot be read: {error}") from None
        if not isinstance(self._root, (dict, bool)):
            raise UnfitSchema("a schema is an object")
        self._choosers: dict[int, Chooser] = {}

    def fit(self, text: str, fingerprint: int) -> Any:
        """A value for this schema, about `text`; equal arguments give equal values. Raises UnfitSchema."""
        try:
            return _Fit(self._root, self._choosers, text, fingerprint).value(self._root, 0)
        except (TypeError, AttributeError, LookupError, ValueError, ArithmeticError) as error:
            raise error if isinstance(error, UnfitSchema) else UnfitSchema(f"malformed: {error}") from None


class Fitters:
    """The fitters of the schemas seen lately, by their bytes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Fitter] = OrderedDict()

    def of(self, schema: bytes) -> Fitter:
        """The schema's fitter; raises UnfitSchema."""
        fitter = self._kept.get(schema)
        if fitter is None:
            fitter = self._kept[schema] = Fitter(schema)
            if len(self._kept) > _SCHEMAS_KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(schema)
        return fitter


class _Fit:
    """One value in the making; every leaf takes a chance of its own, derived from the fingerprint."""

    def __init__(self, root: Any, choosers: dict[int, Chooser], text: str, fingerprint: int) -> None:
        self._root = root
        self._choosers = choosers
        self._text = text
        self._chance = fingerprint
        self._values = 0

    def value(self, schema: Any, depth: int) -> Any:
        self._values += 1
        if self._values > _VALUES_MAX:
            raise UnfitSchema(f"it takes more than {_VALUES_MAX} values")
        if depth > _DEPTH_MAX:
            raise UnfitSchema(f"it requires values nested deeper than {_DEPTH_MAX}")
        if schema is True or schema == {}:
            return self._excerpt()
        if schema is False:
            raise UnfitSchema("nothing fits `false`")
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._choose(schema["enum"])
        if "$ref" in schema:
            return self.value({**self._resolve(schema["$ref"]), **_without(schema, "$ref")}, depth + 1)
        if "allOf" in schema:
            return self.value(self._all(schema), depth + 1)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._any(schema, keyword, depth)
        return self._typed(schema, depth)

    def _typed(self, schema: dict[str, Any], depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        if kind == "object" or (kind is None and "properties" in schema):
            return self._object(schema, depth)
        if kind == "array" or (kind is None and ("items" in schema or "prefixItems" in schema)):
            return self._array(schema, depth)
        if kind == "string" or kind is None:
            return self._string(schema)
        if kind in ("integer", "number"):
            return self._number(schema, whole=kind == "integer")
        if kind == "boolean":
            return self._next() % 2 == 0
        if kind == "null":
            return None
        raise UnfitSchema(f"unknown type {kind!r}")

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        wanted = [name for name in properties if depth <= _OPTIONAL_DEPTH_MAX or name in required]
        wanted += [name for name in required if name not in properties]
        return {name: self.value(properties.get(name, True), depth + 1) for name in wanted}

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        prefix = schema.get("prefixItems", [])
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", math.inf)
        items = schema.get("items", True)
        values = [self.value(item, depth + 1) for item in prefix]
        usual = 0 if depth > _OPTIONAL_DEPTH_MAX or prefix or items is False else 1
        count = min(most, max(least, usual))
        tries = 0
        while len(values) < count:
            value = self.value(items, depth + 1)
            tries += 1
            if schema.get("uniqueItems") and value in values:
                value = self._another(items, values, tries)
            values.append(value)
        return values

    def _another(self, items: Any, values: list[Any], tries: int) -> Any:
        """A value for a list whose items must differ, when the obvious one is taken."""
        options = self._resolve(items["$ref"]) if isinstance(items, dict) and "$ref" in items else items
        if isinstance(options, dict) and "enum" in options:
            left = [option for option in options["enum"] if option not in values]
            if left:
                return left[self._next() % len(left)]
        for _ in range(64):
            self._text = words(self._next() + tries, _EXCERPT_WORDS)
            value = self.value(items, _OPTIONAL_DEPTH_MAX)
            if value not in values:
                return value
        raise UnfitSchema("no further unique item found")

    def _string(self, schema: dict[str, Any]) -> str:
        given = _FORMATS.get(schema.get("format", ""))
        if given is not None:
            return given
        text = self._excerpt()
        least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        if least > _STRING_CHARS_MAX:
            raise UnfitSchema(f"it requires a string longer than {_STRING_CHARS_MAX} characters")
        if len(text) < least:
            text += " " + words(self._next(), least)
            text = text[:least]
        return text if len(text) <= most else text[:most]

    def _number(self, schema: dict[str, Any], *, whole: bool) -> int | float:
        step = schema.get("multipleOf") or (1 if whole else None)
        low, high = _bounds(schema, whole=whole)
        share = (self._next() % 9973) / 9973
        if step is None:
            value = low + (high - low) * (0.1 + 0.8 * share)
            rounded = round(value, 2)
            return rounded if low < rounded < high else value
        first, last = math.ceil(low / step), math.floor(high / step)
        first += "exclusiveMinimum" in schema and first * step <= low
        last -= "exclusiveMaximum" in schema and last * step >= high
        if first > last:
            raise UnfitSchema(f"no number lies between {low} and {high} in steps of {step}")
        found = (first + int((last - first + 1) * share)) * step
        return int(found) if whole else found

    def _any(self, schema: dict[str, Any], keyword: str, depth: int) -> Any:
        """The first branch that can be fitted; null only if nothing else is."""
        around = _without(schema, keyword)
        branches = [branch for branch in schema[keyword] if branch is not False]
        nulls = [branch for branch in branches if isinstance(branch, dict) and branch.get("type") == "null"]
        others = [branch for branch in branches if branch not in nulls]
        order = [*nulls, *others] if depth > _OPTIONAL_DEPTH_MAX else [*others, *nulls]
        problem = UnfitSchema(f"{keyword} has no branch")
        for branch in order:
            try:
                return self.value(_joined(around, {} if branch is True else branch), depth + 1)
            except UnfitSchema as error:
                problem = error
        raise problem

    def _all(self, schema: dict[str, Any]) -> dict[str, Any]:
        result = _without(schema, "allOf")
        for part in schema["allOf"]:
            hops = 0
            while isinstance(part, dict) and "$ref" in part and hops < _DEPTH_MAX:
                part = {**self._resolve(part["$ref"]), **_without(part, "$ref")}  # noqa: PLW2901
                hops += 1
            result = _joined(result, {} if part is True else part)
        return result

    def _resolve(self, ref: str) -> dict[str, Any]:
        if not ref.startswith("#"):
            raise UnfitSchema(f"the reference {ref!r} leads out of the schema")
        found: Any = self._root
        for part in ref[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            found = found[int(name)] if isinstance(found, list) else found.get(name)
            if found is None:
                raise UnfitSchema(f"the reference {ref!r} leads nowhere")
        return {} if found is True else found

    def _choose(self, options: list[Any]) -> Any:
        if not options:
            raise UnfitSchema("an enum has no value")
        chooser = self._choosers.get(id(options))
        if chooser is None:
            # The list lives as long as this fitter's schema, so its identity is a safe key.
            chooser = self._choosers[id(options)] = Chooser(options)
        return chooser.choose(self._text, self._next())

    def _excerpt(self) -> str:
        line = self._text.strip().rpartition("\n")[2]
        return " ".join(line.split()[-_EXCERPT_WORDS:]) or words(self._next(), _EXCERPT_WORDS)

    def _next(self) -> int:
        self._chance = (self._chance * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
        return self._chance >> 8


def _bounds(schema: dict[str, Any], *, whole: bool) -> tuple[float, float]:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if above is not None:
        low = above if low is None else max(low, above)
    if below is not None:
        high = below if high is None else min(high, below)
    step = schema.get("multipleOf") or 1
    if low is None and high is None and not whole:
        return 0, 100 * step if "multipleOf" in schema else 1  # most numbers asked of models are shares
    if low is None:
        low = 0 if high is None or high > 0 else high - 100 * step
    if high is None:
        high = low + 100 * step
    if low > high:
        raise UnfitSchema(f"no number is at least {low} and at most {high}")
    return low, high


def _without(schema: dict[str, Any], keyword: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != keyword}


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    result = {**one, **other}
    if "properties" in one and "properties" in other:
        result["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        result["required"] = list(dict.fromkeys([*one["required"], *other["required"]]))
    return result
