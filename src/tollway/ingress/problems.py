"""Refusals as RFC 9457 answers, and the refusals that many routes share."""

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from tollway.domain.errors import Problem

Headers = list[tuple[bytes, bytes]]
PROBLEM_TYPE = b"application/problem+json"
JSON_TYPE = b"application/json"
_QUANTITY_MAX = 999_999_999_999_999  # the largest integer of a structured field

_json = msgspec.json.Encoder(enc_hook=str).encode


class Reply:
    """A whole answer: status, headers (content type and length included), body."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, status: int, body: bytes, headers: Headers | None = None, content_type: bytes = JSON_TYPE
    ) -> None:
        self.status = status
        self.body = body
        self.headers: Headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        if headers:
            self.headers += headers


def problem_reply(problem: Problem) -> Reply:
    """The problem as an answer."""
    headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    return Reply(problem.status, _json(problem.document()), headers, PROBLEM_TYPE)


def invalid(path: str, message: str) -> Problem:
    """422 for one place in the request."""
    return invalid_input([{"path": path, "message": message}])


def invalid_input(errors: list[dict[str, Any]]) -> Problem:
    """422 naming every place that does not fit; the detail tells the first."""
    first = errors[0]
    detail = f"{first['path']}: {first['message']}" if first["path"] else first["message"]
    more = len(errors) - 1
    if more:
        detail += f" (and {more} more)"
    return Problem("invalid_input", detail, fields={"errors": errors})


def unavailable(why: str, after_s: float = 1.0) -> Problem:
    """503 while the database cannot be reached."""
    detail = f"The database cannot be reached just now ({why or 'no answer'}); nothing was stored. Try again."
    return Problem("database_unavailable", detail, headers=retry_headers(after_s))


def draining() -> Problem:
    """503 while the process is shutting down."""
    detail = "This process is shutting down and takes no new work; try again, another one will answer."
    return Problem("draining", detail, headers=retry_headers(1.0))


def too_large(bytes_max: int) -> Problem:
    """413."""
    return Problem(
        "too_large", f"The body is larger than {bytes_max} bytes; send less, or raise server.body_bytes_max."
    )


def overloaded(policy: str, quantity: int, why: str) -> Problem:
    """429 when this process has more than it can do."""
    return limited("overloaded", Limit(policy, quantity), 1.0, f"{why} Try again after a second, or ask fewer at once.")


@dataclass(frozen=True, slots=True)
class Limit:
    """What a refusal names as its reason: the policy, how much it allows, and per how many seconds, if it is a rate."""

    policy: str
    quantity: float
    window_s: int | None = None


def limited(code: str, limit: Limit, after_s: float, detail: str, **fields: Any) -> Problem:
    """429 with when to come again and the RateLimit fields, or a 403 of the same kind.

    After draft-ietf-httpapi-ratelimit-headers: quantities are whole numbers.
    """
    headers = retry_headers(after_s)
    window = "" if limit.window_s is None else f";w={limit.window_s}"
    headers["RateLimit-Policy"] = f'"{limit.policy}";q={min(math.ceil(limit.quantity), _QUANTITY_MAX)}{window}'
    headers["RateLimit"] = f'"{limit.policy}";r=0;t={math.ceil(after_s)}'
    return Problem(code, detail, fields=fields, headers=headers)


def retry_headers(after_s: float) -> dict[str, str]:
    """When to come again, in the three forms clients read."""
    return {"Retry-After": str(math.ceil(after_s)), "retry-after-ms": str(math.ceil(after_s * 1000))}
