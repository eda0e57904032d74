"""Answers that fit a schema: judged by an independent validator, and by whether they make sense."""

import json
from enum import StrEnum
from typing import Any

import jsonschema_rs
import pytest
from pydantic import BaseModel, Field

from tollway.simulator.choosing import Chooser
from tollway.simulator.fitting import Fitter, Fitters, UnfitSchema


class Kind(StrEnum):
    """Intents as the examples name them."""

    CARD_ARRIVAL = "card_arrival"
    LOST_CARD = "lost_or_stolen_card"
    EXCHANGE_RATE = "exchange_rate"
    PIN_BLOCKED = "pin_blocked"


class Leaf(BaseModel):
    """A nested part."""

    name: str = Field(min_length=3, max_length=12)
    score: float = Field(ge=0, lt=1)
    next: "Leaf | None" = None


class Verdict(BaseModel):
    """Something of everything."""

    kind: Kind
    sure: bool
    count: int = Field(gt=2, le=4)
    leaf: Leaf
    tags: list[Kind] = Field(min_length=2, max_length=3)
    note: str | None = None
    either: int | str = 1
    table: dict[str, int] = {}


SCHEMAS: list[Any] = [
    True,
    {},
    Verdict.model_json_schema(),
    {"type": "object"},
    {"type": ["null", "integer"], "minimum": 10, "maximum": 10},
    {"type": "integer", "multipleOf": 7, "exclusiveMinimum": 7},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
    {"type": "integer", "maximum": -5},
    {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 3, "uniqueItems": True},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
    {"type": "string", "format": "date-time"},
    {"type": "string", "minLength": 300, "maxLength": 310},
    {"const": {"x": 1}},
    {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    {"oneOf": [{"type": "integer", "minimum": 5, "maximum": 3}, {"type": "string"}]},
    {"allOf": [{"$ref": "#/$defs/a"}, {"properties": {"y": {"type": "null"}}, "required": ["y"]}],
     "$defs": {"a": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}},
    {"type": "object", "required": ["loose"], "additionalProperties": True},
    {"$defs": {"n": {"type": "object", "properties": {"down": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
@pytest.mark.parametrize("mark", [0, 1, 123_456_789])
def test_what_is_made_fits(schema: Any, mark: int) -> None:
    """An independent validator accepts the value for every schema, whatever the chance."""
    value = Fitter(json.dumps(schema).encode()).fit("My card has not arrived yet", mark)
    jsonschema_rs.validator_for(schema).validate(value)


def test_a_pydantic_model_takes_the_answer() -> None:
    """What `returns=Model` asks for can be parsed by the model, with a sensible choice in it."""
    fitter = Fitter(json.dumps(Verdict.model_json_schema()).encode())
    verdict = Verdict.model_validate(fitter.fit("Classify: My card has not arrived yet", 7))
    assert verdict.kind is Kind.CARD_ARRIVAL


@pytest.mark.parametrize(
    "schema",
    [
        b"[]",
        b"{",
        b'{"enum": []}',
        b'{"type": "integer", "minimum": 2, "maximum": 1}',
        b'{"type": "colour"}',
        b'{"$ref": "#/$defs/none"}',
        b'{"$ref": "https://example.com/schema"}',
        b'{"$ref": "#"}',
        b'{"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}',
        b'{"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}',
        b'{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}',
        b'{"type": "array", "minItems": 1000000000}',
        b'{"type": "string", "minLength": 1000000000}',
        b'{"type": "object", "properties": 5}',
        b'{"type": "array", "uniqueItems": true, "minItems": 2, "items": {"const": 1}}',
        b'{"multipleOf": 0, "type": "string", "minLength": "x"}',
    ],
)
def test_a_schema_nothing_fits_is_refused(schema: bytes) -> None:
    """P11: an impossible, endless or malformed schema is an error in bounded time and memory."""
    with pytest.raises(UnfitSchema):
        Fitter(schema).fit("text", 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Classify: I still have not received my new card, when will it arrive?", "card_arrival"),
        ("my card was stolen!", "lost_or_stolen_card"),
        ("The answer is pin_blocked, they said", "pin_blocked"),
        (
            "Of card_arrival, lost_or_stolen_card, exchange_rate, pin_blocked.\nWhat is your rate?",
            "exchange_rate",
        ),
    ],
)
def test_a_choice_follows_the_text(text: str, value: str) -> None:
    """A literal mention wins; a text that lists the options is judged by what else it says."""
    assert Chooser([kind.value for kind in Kind]).choose(text, 1) == value


def test_a_choice_without_a_clue_depends_on_the_chance_alone() -> None:
    """With nothing to go by, all values are chosen, and the same chance chooses the same."""
    chooser = Chooser(["x", "y", 3])
    assert {chooser.choose("???", mark) for mark in range(30)} == {"x", "y", 3}
    assert chooser.choose("know 3 of them", 0) == 3


def test_a_schema_is_prepared_once() -> None:
    """Equal schema bytes share one fitter, and only the latest are kept."""
    fitters = Fitters()
    first = fitters.of(b'{"type":"null"}')
    assert fitters.of(b'{"type":"null"}') is first
    for n in range(300):
        fitters.of(b'{"const":%d}' % n)
    assert fitters.of(b'{"type":"null"}') is not first
