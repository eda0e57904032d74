"""Adapters of the types that answers must fit, made once a type."""

from typing import Any

from pydantic import TypeAdapter

from tollway.domain.errors import LlmError

_adapters: dict[Any, TypeAdapter[Any]] = {}
_schemas: dict[Any, dict[str, Any]] = {}


def adapter_of(wanted: Any) -> TypeAdapter[Any]:
    """The adapter of a `returns=` type."""
    try:
        found = _adapters.get(wanted)
    except TypeError:  # an unhashable annotation
        return TypeAdapter(wanted)
    if found is None:
        found = _adapters[wanted] = TypeAdapter(wanted)
    return found


def schema_of(wanted: Any) -> dict[str, Any]:
    """The JSON Schema of a `returns=` type."""
    try:
        found = _schemas.get(wanted)
    except TypeError:
        return adapter_of(wanted).json_schema()
    if found is None:
        found = _schemas[wanted] = adapter_of(wanted).json_schema()
    return found


def parse(wanted: Any, text: str) -> Any:
    """A recorded answer as the wanted type; it fitted when it was recorded, so a failure here is a changed type."""
    try:
        return adapter_of(wanted).validate_json(text)
    except ValueError as error:
        raise LlmError("invalid_answer", f"the recorded answer does not fit {wanted!r} any more: {error}") from error
