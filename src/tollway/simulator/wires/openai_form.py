"""What all of OpenAI's operations share: how bodies are read, errors and headers."""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from tollway.simulator.buckets import Gauges
from tollway.simulator.neutral import BadAsk, ErrorKind

_ERRORS: dict[ErrorKind, tuple[str, str | None]] = {
    "bad_request": ("invalid_request_error", None),
    "not_found": ("invalid_request_error", "unknown_url"),
    "too_large": ("invalid_request_error", "request_too_large"),
    "rate_limited": ("rate_limit_error", "rate_limit_exceeded"),
    "server_error": ("server_error", None),
}

_json = msgspec.json.encode

T = TypeVar("T")


def read(decode: Callable[[bytes], T], body: bytes) -> T:
    """The body as what it should be. Raises BadAsk."""
    try:
        return decode(body)
    except RecursionError:
        raise BadAsk("The JSON body of your request is nested too deeply.") from None
    except msgspec.ValidationError as error:
        raise BadAsk(f"Invalid request: {error}") from None
    except msgspec.DecodeError as error:
        raise BadAsk(f"We could not parse the JSON body of your request: {error}") from None
    except UnicodeDecodeError:
        raise BadAsk("We could not parse the JSON body of your request: it is not UTF-8") from None


class OpenAIForm:
    """The part of `Wire` that is the same for every operation."""

    def error(self, kind: ErrorKind, message: str, field: str | None = None) -> bytes:
        """An error object."""
        name, code = _ERRORS[kind]
        return _json({"error": {"message": message, "type": name, "param": field, "code": code}})

    def headers(self, n: int) -> bytes:
        """The request id."""
        return b"x-request-id: req_sim%d\r\n" % n

    def limit_headers(self, gauges: Gauges) -> bytes:
        """`x-ratelimit-*`; resets as durations."""
        return b"".join(
            b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n"
            % (name, gauge.limit, name, gauge.remaining, name, duration(gauge.reset_s))
            for name, gauge in ((b"requests", gauges.requests), (b"tokens", gauges.tokens))
            if gauge is not None
        )


def duration(seconds: float) -> bytes:
    """Seconds in the vendor's form: 12ms, 1.5s, 6m0s."""
    millis = round(seconds * 1000)
    if millis < 1000:
        return b"%dms" % millis
    minutes, rest = divmod(millis / 1000, 60)
    return (b"%dm" % minutes if minutes else b"") + b"%gs" % round(rest, 3)
