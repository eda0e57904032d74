"""What the framework's routes share: caller, body, pages and answers, with the same checks as the hot routes."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from fastapi import Request
from starlette.responses import Response

from tollway.domain.errors import Problem
from tollway.domain.ids import parse_id
from tollway.ingress.auth import Caller
from tollway.ingress.bodies import check_content_type, decode_body
from tollway.ingress.context import ApiContext
from tollway.ingress.hot import no_such_run
from tollway.ingress.problems import Reply, invalid, too_large
from tollway.record.run_document import RunRow, rfc3339, run_tenant

T = TypeVar("T")
LIMIT_DEFAULT = 50
LIMIT_MAX = 500


_encode = msgspec.json.Encoder(enc_hook=str).encode


def _told(value: Any) -> Any:
    """The value with its times as the contract writes them."""
    if isinstance(value, dict):
        return {name: _told(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_told(inner) for inner in value]
    return rfc3339(value) if isinstance(value, datetime) else value


def context(request: Request) -> ApiContext:
    """The API this request came to."""
    found: ApiContext = request.app.state.context
    return found


def identify(request: Request, scope: str) -> Caller:
    """The caller, who has the scope. Raises Problem."""
    authorization, tenant = request.headers.get("authorization"), request.headers.get("x-tollway-tenant")
    caller = context(request).authenticator.identify(
        None if authorization is None else authorization.encode("latin-1"),
        None if tenant is None else tenant.encode("latin-1"),
    )
    caller.require(scope)
    return caller


async def read_bytes(request: Request) -> bytes:
    """The whole body, never more of it than the bound. Raises Problem `too_large`."""
    bytes_max = context(request).services.options.body_bytes_max
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > bytes_max:
        raise too_large(bytes_max)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > bytes_max:
            raise too_large(bytes_max)
        parts.append(part)
    return b"".join(parts)


async def read_json(request: Request, decoder: "msgspec.json.Decoder[T]", *, optional: bool = False) -> T:
    """The body as the decoder's type; `optional` takes no body for an empty object. Raises Problem."""
    body = await read_bytes(request)
    if optional and not body.strip():
        body = b"{}"
    else:
        said = request.headers.get("content-type")
        check_content_type(None if said is None else said.encode("latin-1"))
    return decode_body(decoder, body, context(request).services.options.json_depth_max)


async def own_run(request: Request, caller: Caller) -> tuple[UUID, RunRow]:
    """The run the path names, when the caller may see it. Raises Problem `not_found`."""
    text = request.path_params["run_id"]
    run_id = parse_id(text)
    row = None if run_id is None else await context(request).services.reads.run(run_id)
    if run_id is None or row is None or not caller.may_see(run_tenant(row)):
        raise no_such_run(text)
    return run_id, row


def page_of(query: dict[str, str]) -> tuple[int, str | None]:
    """Take `limit` and `cursor` out of the query. Raises Problem `invalid_input`."""
    text = query.pop("limit", str(LIMIT_DEFAULT))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= LIMIT_MAX):
        raise invalid("limit", f"must be a whole number from 1 to {LIMIT_MAX}")
    return int(text), query.pop("cursor", None)


def id_page_of(query: dict[str, str]) -> tuple[int, UUID | None]:
    """The same where a cursor is the id of the last item shown. Raises Problem `invalid_input`."""
    limit, cursor = page_of(query)
    before = None if cursor is None else parse_id(cursor)
    if cursor is not None and before is None:
        raise bad_cursor()
    return limit, before


def query_of(request: Request) -> dict[str, str]:
    """The query's parameters, each at most once. Raises Problem `invalid_input`."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in found:
            raise invalid(name, "is given twice")
        if "\x00" in name or "\x00" in value:
            raise invalid(name.replace("\x00", ""), "holds the character NUL")
        found[name] = value
    return found


def refuse_unknown(names: Iterable[str], known: str) -> None:
    """Raise Problem `invalid_input` for a parameter nobody knows."""
    for name in names:
        raise invalid(name, f"is not known here; known are {known}")


def bad_cursor() -> Problem:
    """422 for a cursor that no list gave out."""
    return invalid("cursor", "is not one that a list gave out; leave it out to begin anew")


def answer(status: int, value: Any, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(_encode(_told(value)), status, headers, media_type="application/json")


def answer_bytes(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer that is put together already."""
    return Response(body, status, headers, media_type="application/json")


def answer_reply(reply: Reply) -> Response:
    """A hot route's reply as the framework's."""
    response = Response(reply.body, reply.status)
    response.raw_headers = reply.headers
    return response


def items_bytes(items: Iterable[bytes], cursor: str | None) -> bytes:
    """A list of documents that are JSON already."""
    return b'{"items":[%b],"next":%b}' % (b",".join(items), _encode(cursor))
