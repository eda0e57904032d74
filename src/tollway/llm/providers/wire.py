"""What a vendor's wire is to the gateway, and the little that all vendors share: no form of any one of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from tollway.domain.errors import LlmError
from tollway.domain.llm import Completion, LlmRequest, Usage
from tollway.llm import estimate
from tollway.llm.channel import Channel
from tollway.llm.providers import structured
from tollway.llm.providers.decoder import StreamDecoder
from tollway.llm.transport import TransportOptions

_MESSAGE_CHARS_MAX = 300
_TOKEN_CHARS_MAX = 8


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation of a vendor: where it is asked, in what form, and how its answer is read.

    `{model}` in `url`, and in the `stream_url` of a vendor that has another address for streams, stands for the model.
    `encode` raises LlmError `refused` for a request that cannot be put in this form, `decode` `bad_response`.
    """

    form: str
    url: str
    encode: Callable[[LlmRequest, str], bytes]
    decode: Callable[[bytes, LlmRequest], Completion]
    stream_url: str = ""


@dataclass(frozen=True, slots=True)
class Wire:
    """A vendor's way of asking and answering, bound to one provider: `text`, and `embeddings` if it has them.

    A body that holds `cache_mark` may write to the vendor's prompt cache, which may be dearer than plain input. With
    `emulates` an answer to a schema is asked for in words. `channel` makes the way to it where that is not ours.
    """

    headers: Mapping[str, str]
    text: Endpoint
    decoder: Callable[[LlmRequest], StreamDecoder]
    embeddings: Endpoint | None = None
    cache_mark: bytes = b""
    emulates: bool = False
    channel: Callable[[TransportOptions], Channel] | None = None

    @property
    def url(self) -> str:
        """An address of this provider; `path` tells where on it a request goes."""
        return self.text.url

    def path(self, request: LlmRequest, model: str) -> str:
        """Path and query to send the request to. Raises LlmError `refused` where the vendor has no such operation."""
        endpoint = self._endpoint(request)
        return _path(endpoint.stream_url if request.stream and endpoint.stream_url else endpoint.url, model)

    def encode(self, request: LlmRequest, model: str) -> bytes:
        """The body. Raises LlmError `refused` for a request that cannot be put in this form."""
        endpoint = self._endpoint(request)
        if self.emulates and request.schema is not None:
            request = structured.told(request)
        return endpoint.encode(request, model)

    def decode(self, body: bytes, request: LlmRequest) -> Completion:
        """The answer, with the vendor's own bytes where the request came over the wire. Raises LlmError."""
        endpoint = self._endpoint(request)
        if self.emulates and request.schema is not None:
            return structured.bare(endpoint.decode(body, structured.told(request)))
        completion = endpoint.decode(body, _unwrapped(request, endpoint))
        return completion if request.sent is None else replace(completion, body=body, form=endpoint.form)

    def stream(self, request: LlmRequest) -> StreamDecoder:
        """A decoder of the streamed answer."""
        if self.emulates and request.schema is not None:
            return structured.BareStream(self.decoder(structured.told(request)))
        return self.decoder(_unwrapped(request, self.text))

    def in_kind(self, request: LlmRequest) -> bool:
        """Whether the vendor's bytes, whole or streamed, are an answer in the form that the client spoke."""
        return passes(request, self._endpoint(request).form) and not (self.emulates and request.schema is not None)

    def _endpoint(self, request: LlmRequest) -> Endpoint:
        if not request.inputs:
            return self.text
        if self.embeddings is None:
            raise refused("this provider makes no embeddings")
        return self.embeddings


def passes(request: LlmRequest, form: str) -> bool:
    """Whether the client's own fields are sent on, because it spoke the vendor's form."""
    return request.sent is not None and request.sent.form == form


def resent(request: LlmRequest, ours: Mapping[str, Any], dropped: frozenset[str]) -> bytes:
    """The body the client sent, but for what is `ours` to say and what is `dropped`; the rest byte for byte."""
    given = request.sent.fields if request.sent is not None else {}
    return to_json({**{name: value for name, value in given.items() if name not in dropped}, **ours})


def plain(value: Any) -> Any:
    """A client's field as a value. Raises LlmError for what is not JSON."""
    if not isinstance(value, msgspec.Raw):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refused(shorten(f"a field of the request is not JSON: {error}")) from None


def _unwrapped(request: LlmRequest, endpoint: Endpoint) -> LlmRequest:
    """How to read the answer: a schema that the client itself sent was not wrapped by us."""
    if request.schema is not None and passes(request, endpoint.form):
        return replace(request, schema=None)
    return request


@lru_cache(maxsize=4096)
def _path(url: str, model: str) -> str:
    parts = urlsplit(url.replace("{model}", quote(model, safe="")))
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


class _ErrorObject(msgspec.Struct):
    message: str = ""


class _ErrorBody(msgspec.Struct):
    error: _ErrorObject | str | None = None
    message: str = ""


class _Detail(msgspec.Struct, rename="camel"):
    retry_delay: str = ""


class _Details(msgspec.Struct):
    details: list[_Detail] = []


class _Waiting(msgspec.Struct):
    error: _Details


_decode_error = msgspec.json.Decoder(_ErrorBody).decode
_decode_waiting = msgspec.json.Decoder(_Waiting).decode


def vendor_message(body: bytes) -> str:
    """What an error's body says, shortened to one line; empty if it says nothing readable."""
    try:
        given = _decode_error(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    inner = given.error.message if isinstance(given.error, _ErrorObject) else given.error
    return shorten(inner or given.message)


def vendor_wait(body: bytes) -> float | None:
    """Seconds after which an error's body says to come again, as Google's do (`retryDelay`: "1.5s")."""
    if b"retryDelay" not in body:
        return None
    try:
        told = [detail.retry_delay for detail in _decode_waiting(body).error.details]
        waits = [float(wait.removesuffix("s")) for wait in told if wait]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return None
    return next((wait_s for wait_s in waits if 0 <= wait_s < 86_400), None)


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


def estimated(request: LlmRequest, text_chars: int, pieces: int = 0) -> Usage:
    """The usage of an answer whose vendor did not tell it; of a stream, `pieces` is in how many parts it came."""
    return Usage(estimate.input_tokens(request), streamed_tokens(text_chars, pieces), estimated=True)


def streamed_tokens(text_chars: int, pieces: int) -> int:
    """The tokens of a text so far: vendors stream a token a piece, unless the pieces are too long for that."""
    return pieces if text_chars <= _TOKEN_CHARS_MAX * pieces else (text_chars + 3) // 4
