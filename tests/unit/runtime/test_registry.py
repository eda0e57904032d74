"""The registry: what may be an agent, what is published of it, and what is refused with a remedy."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
from pydantic import BaseModel

import tollway
from tollway.domain.errors import ConfigError
from tollway.runtime.registry import Registry


class Ticket(BaseModel):
    """An input."""

    text: str
    urgent: bool = False


def test_an_agent_is_known_by_its_function(agents: Registry) -> None:
    """Without options the name is the function's, and the defaults are those of the contract."""

    @tollway.agent
    async def triage(run: tollway.Run, ticket: Ticket) -> Literal["yes", "no"]:
        return "yes"

    spec = agents.get("triage")
    assert spec is not None
    assert (spec.name, spec.version, spec.tier, spec.lane) == ("triage", "1", "fast", "standard")
    assert (spec.timeout_s, spec.max_attempts, spec.requires, spec.priority_s) == (120.0, 3, (), 0.0)
    assert spec.function is triage
    assert agents.all() == [spec]
    assert agents.get("other") is None


def test_options_are_kept(agents: Registry) -> None:
    """What the decorator is told stands in the registration."""

    @tollway.agent(
        name="shop.triage", version="7", tier="powerful", lane="batch", timeout=5, max_attempts=9,
        requires=["sap"], priority_s=-60,
    )  # fmt: skip
    async def function(run: tollway.Run) -> None: ...

    spec = agents.get("shop.triage")
    assert spec is not None
    assert (spec.version, spec.tier, spec.lane) == ("7", "powerful", "batch")
    assert (spec.timeout_s, spec.max_attempts, spec.requires, spec.priority_s) == (5.0, 9, ("sap",), -60.0)


def test_types_at_both_ends_are_published(agents: Registry) -> None:
    """Input and output become JSON Schemas: a model's, a plain type's, anything's where no hint is given."""

    @tollway.agent
    async def typed(run: tollway.Run, ticket: Ticket) -> list[int]:
        return []

    @tollway.agent
    async def untyped(run, given):
        return given

    @tollway.agent
    async def alone(run: tollway.Run) -> None: ...

    typed_spec, untyped_spec, alone_spec = agents.all()
    schema = typed_spec.input_schema()
    assert (schema["type"], schema["required"]) == ("object", ["text"])
    assert typed_spec.output_schema() == {"items": {"type": "integer"}, "type": "array"}
    assert untyped_spec.input_schema() == untyped_spec.output_schema() == {}
    assert not alone_spec.takes_input
    assert alone_spec.input_schema() == alone_spec.output_schema() == {"type": "null"}


def plain(run: tollway.Run) -> None: ...


async def no_run() -> None: ...


async def too_many(run: tollway.Run, one: int, two: int) -> None: ...


async def keyword_only(run: tollway.Run, *, given: int) -> None: ...


async def unknown_hint(run: tollway.Run, given: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


async def not_json(run: tollway.Run, given: Callable[[], int]) -> None: ...


async def odd_output(run: tollway.Run) -> object.__class__: ...  # type: ignore[name-defined]


async def fine(run: tollway.Run) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "remedy"),
    [
        (plain, {}, "async function"),
        (no_run, {}, r"\(run\) or \(run, input\)"),
        (too_many, {}, r"\(run\) or \(run, input\)"),
        (keyword_only, {}, r"\(run\) or \(run, input\)"),
        (unknown_hint, {}, "cannot be resolved"),
        (not_json, {}, "JSON cannot carry"),
        (odd_output, {}, "JSON cannot carry"),
        (fine, {"name": 'quo"ted'}, "no quotes"),
        (fine, {"name": "back\\slash"}, "no quotes"),
        (fine, {"name": "line\nbreak"}, "printable"),
        (fine, {"name": "x" * 129}, "1 to 128"),
        (fine, {"timeout": 0}, "positive"),
        (fine, {"timeout": float("inf")}, "positive"),
        (fine, {"timeout": float("nan")}, "positive"),
        (fine, {"max_attempts": 0}, "1 to 100"),
        (fine, {"max_attempts": 101}, "1 to 100"),
        (fine, {"priority_s": 90_000}, "at most a day"),
        (fine, {"priority_s": float("nan")}, "at most a day"),
        (fine, {"version": ""}, "1 to 128"),
    ],
)
def test_what_cannot_be_an_agent_is_refused(
    agents: Registry, function: Any, options: dict[str, Any], remedy: str
) -> None:
    """A fault is told at import, with what to do about it, and nothing is registered."""
    with pytest.raises(ConfigError, match=remedy):
        tollway.agent(**options)(function)
    assert agents.all() == []


def test_a_name_is_taken_once(agents: Registry) -> None:
    """Another function of the same name is refused by naming the first; the same one, imported again, replaces it."""
    tollway.agent(name="one")(fine)
    tollway.agent(name="one", version="2")(fine)
    assert [spec.version for spec in agents.all()] == ["2"]

    async def other(run: tollway.Run) -> None: ...

    with pytest.raises(ConfigError, match=r"test_registry\.fine already; give one of them another name="):
        tollway.agent(name="one")(other)
