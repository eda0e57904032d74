"""What goes wrong between a client and a Tollway server.

TollwayError
├── ApiError      the server said no, in a problem document
├── Unreachable   no server answered
└── RunFailed     the run that was waited for ended otherwise than `succeeded`
"""

import email.utils
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from tollway.domain.errors import TollwayError

if TYPE_CHECKING:
    from tollway.client.views import RunView

_EXCERPT_CHARS = 200


class ApiError(TollwayError):
    """The server refused, in an RFC 9457 document.

    `code` is the contract's word (`unexpected_answer` for what is no problem document), `errors` its
    `[{path, message}]`, `document` the whole of it, `retry_after_s` when it may be tried again, if it said so.
    """

    def __init__(self, document: Mapping[str, Any], *, status: int, retry_after_s: float | None = None) -> None:
        self.status = status
        self.document = dict(document)
        self.code = str(document.get("code", "unexpected_answer"))
        self.title = str(document.get("title", f"HTTP {status}"))
        self.detail = str(document.get("detail", ""))
        errors = document.get("errors")
        self.errors: list[dict[str, Any]] = (
            [e for e in errors if isinstance(e, dict)] if isinstance(errors, list) else []
        )
        self.retry_after_s = retry_after_s
        super().__init__(f"{self.title}: {self.detail}" if self.detail else self.title)


class Unreachable(TollwayError):
    """No answer came from the server at `url`; `reason` says what happened instead."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"no answer from {url}: {reason}")
        self.url = url
        self.reason = reason


class RunFailed(TollwayError):
    """The run ended, but did not succeed; `run` is how it ended."""

    def __init__(self, run: "RunView") -> None:
        why = f": {run.error.code}: {run.error.message}" if run.error else ""
        super().__init__(f"run {run.id} ended {run.state}{why}")
        self.run = run


def api_error(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error that an answer of 300 and above stands for."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        document = None
    if not isinstance(document, dict) or "code" not in document:
        excerpt = body[:_EXCERPT_CHARS].decode("utf-8", "replace").strip()
        document = {
            "title": "The answer is not Tollway's",
            "status": status,
            "detail": f"HTTP {status}: {excerpt or 'no body'}",
            "code": "unexpected_answer",
        }
    return ApiError(document, status=status, retry_after_s=retry_after_s(headers))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The pause the server asks for, from `retry-after-ms`, else from `Retry-After` in seconds or as a date."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) / scale)
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            continue
    return None
