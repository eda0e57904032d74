"""What a wire is that clients speak to us: requests read into neutral ones, answers, streams and errors written back.

Each form is a folder's own files; here stands only what all of them share. A request that cannot be read raises Problem
`invalid_request` (or `malformed_json`), its field named in `fields["param"]`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jsonschema_rs
import msgspec

from tollway.domain.errors import Problem
from tollway.domain.llm import Completion, Delta, LlmRequest

T = TypeVar("T")

_AT = re.compile(r" - at `(?:key in )?(.*)`$")
_FIELD = re.compile(r"required field `(.*?)`")
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request gets that does not bound its output, and the most a tier or model may write, where it is known."""

    max_tokens_default: int
    output_tokens_max: Callable[[str], int | None]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What an answer that no vendor wrote is marked with: an id of hexadecimal digits, and when, epoch seconds."""

    id: str
    at: int


@dataclass(frozen=True, slots=True)
class Fault:
    """A refusal or failure to be told in a wire's form. `code` is Tollway's word for it, `param` the field at fault."""

    status: int
    code: str
    message: str
    param: str | None = None


class StreamWriter(Protocol):
    """Writes one streamed answer. What a vendor of the same form sent goes through `passed`, all else is rendered."""

    def passed(self, chunk: bytes) -> bytes:
        """The vendor's bytes, without what only Tollway asked for."""

    def rest(self) -> bytes:
        """What was held back of the vendor's bytes when they ended."""

    def deltas(self, deltas: Iterable[Delta]) -> bytes:
        """The events of these pieces; empty when there are none."""

    def end(self, completion: Completion) -> bytes:
        """The events after the last piece."""

    def broken(self, fault: Fault) -> bytes:
        """The event that ends a stream which cannot go on."""


class Inbound(Protocol):
    """One wire."""

    @property
    def form(self) -> str:
        """Its name, as in `Sent.form`."""

    def read(self, body: bytes, limits: Limits) -> LlmRequest:
        """The request. Raises Problem."""

    def answer(self, completion: Completion, request: LlmRequest, stamp: Stamp) -> bytes:
        """The body of a whole answer that no vendor wrote in this form."""

    def stream(self, request: LlmRequest, stamp: Stamp) -> StreamWriter:
        """What writes a streamed answer."""

    def error(self, fault: Fault) -> bytes:
        """The body of a refusal."""


def read_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """The top-level fields as they came. Raises Problem."""
    return decoded(_fields, body)


def decoded(decode: Callable[[bytes], T], body: bytes, prefix: str = "") -> T:
    """What `decode` makes of it. Raises Problem that names the field, beneath `prefix`."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise _misfit(str(error), prefix) from None
    except UnicodeDecodeError:
        raise Problem("malformed_json", "The body is not valid UTF-8.") from None
    except RecursionError:
        raise bad(prefix or "body", "is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise Problem("malformed_json", f"{error}. Send one JSON object in UTF-8.") from None


def bad(param: str, message: str) -> Problem:
    """The refusal of one field."""
    return Problem("invalid_request", f"{param}: {message}", fields={"param": param})


def bounded(param: str, asked: int | None, model: str, limits: Limits) -> int:
    """The bound of the output: what was asked, or the default, never beyond the model. Raises Problem."""
    limit = limits.output_tokens_max(model)
    if asked is None:
        return limits.max_tokens_default if limit is None else min(limits.max_tokens_default, limit)
    if asked < 1:
        raise bad(param, f"must be at least 1, not {asked}")
    if limit is not None and asked > limit:
        raise bad(param, f"is {asked}, but {model} writes at most {limit} tokens")
    return asked


def check_schema(schema: Any, param: str) -> dict[str, Any]:
    """The JSON Schema, if it is one. Raises Problem."""
    if not isinstance(schema, dict):
        raise bad(param, "must be a JSON Schema object")
    try:
        jsonschema_rs.meta.validate(schema)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise bad(param, f"is not a JSON Schema: {str(error).splitlines()[0][:300]}") from None
    return schema


def text_of(fields: Mapping[str, Any], name: str, otherwise: bytes) -> msgspec.Raw:
    """A field of the request as it came, to be told again in the answer."""
    found = fields.get(name)
    return found if isinstance(found, msgspec.Raw) else msgspec.Raw(otherwise)


def event(name: str, data: Any) -> bytes:
    """One server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))


def pieces_of(completion: Completion) -> list[Delta]:
    """A whole answer in pieces, for a stream that replays it."""
    pieces = [Delta("reasoning", completion.reasoning)] if completion.reasoning else []
    if completion.text:
        pieces.append(Delta("text", completion.text))
    for index, call in enumerate(completion.tool_calls):
        pieces.append(Delta("tool", index=index, id=call.id, name=call.name))
        if call.arguments:
            pieces.append(Delta("arguments", call.arguments, index))
    return pieces


def _misfit(message: str, prefix: str) -> Problem:
    at = _AT.search(message)
    path = at.group(1).removeprefix("$").strip(".") if at else ""
    text = message[: at.start()] if at else message
    named = _FIELD.search(text)
    if named:
        path, text = (f"{path}.{named.group(1)}" if path else named.group(1)), "is required"
    whole = ".".join(part for part in (prefix, path) if part)
    return bad(whole or "body", text[0].lower() + text[1:])
