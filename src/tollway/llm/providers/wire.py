"""What a vendor's wire is to the gateway, and the little that all vendors share: no form of any one of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from tollway.domain.errors import LlmError
from tollway.domain.llm import Completion, Delta, LlmRequest, Usage
from tollway.llm import estimate

_MESSAGE_CHARS_MAX = 300


class StreamDecoder(Protocol):
    """Makes pieces and, in the end, a completion of the bytes of a streamed answer."""

    @property
    def done(self) -> bool:
        """Whether the vendor said that the answer is whole."""

    def feed(self, data: bytes) -> list[Delta]:
        """The pieces in these bytes. Raises LlmError for the unreadable and for the vendor's own error."""

    def completion(self) -> Completion:
        """The answer so far; its usage is marked as estimated where the vendor has not told it."""


@dataclass(frozen=True, slots=True)
class Wire:
    """A vendor's form of asking and answering, bound to one provider.

    `encode` raises LlmError `refused` for a request that cannot be put in this form, `decode` `bad_response`.
    A body that holds `cache_mark` may write to the vendor's prompt cache, which may be dearer than plain input.
    """

    url: str
    headers: Mapping[str, str]
    encode: Callable[[LlmRequest, str], bytes]
    decode: Callable[[bytes, LlmRequest], Completion]
    stream: Callable[[LlmRequest], StreamDecoder]
    cache_mark: bytes = b""


class _ErrorObject(msgspec.Struct):
    message: str = ""
    type: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorObject | str | None = None
    message: str = ""


_decode_error = msgspec.json.Decoder(_ErrorBody).decode


def vendor_message(body: bytes) -> str:
    """What an error's body says, shortened to one line; empty if it says nothing readable."""
    try:
        given = _decode_error(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    inner = given.error.message if isinstance(given.error, _ErrorObject) else given.error
    return shorten(inner or given.message)


def shorten(text: str) -> str:
    """A vendor's words on one printable line of bounded length."""
    line = " ".join(text[: 4 * _MESSAGE_CHARS_MAX].split())
    return line if len(line) <= _MESSAGE_CHARS_MAX else line[: _MESSAGE_CHARS_MAX - 1] + "…"


def refused(message: str) -> LlmError:
    """The request itself is at fault; nothing was sent."""
    return LlmError("refused", message, final=True)


def unreadable(why: object) -> LlmError:
    """A successful answer that cannot be understood, and may well be billed."""
    return LlmError("bad_response", shorten(f"the provider's answer cannot be read: {why}")).charged()


def check_extra(extra: Mapping[str, Any], reserved: frozenset[str]) -> None:
    """Refuse extra fields that would change what was reserved or how the answer is read."""
    clash = sorted(reserved & extra.keys())
    if clash:
        raise refused(f"extra may not hold {', '.join(clash)}: Tollway sets it")


def to_json(body: dict[str, Any]) -> bytes:
    """The request's body; raises LlmError for values that have no JSON form."""
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise refused(shorten(f"the request is not JSON: {error}")) from None


def estimated(request: LlmRequest, text_chars: int) -> Usage:
    """The usage of an answer whose vendor did not tell it."""
    return Usage(estimate.input_tokens(request), (text_chars + 3) // 4, estimated=True)
