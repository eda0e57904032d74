"""The API as an ASGI app: the two hot routes first, by hand; everything else through FastAPI.

`start()` and `stop()` are the caller's, or ASGI's lifespan messages do the same; both may be called twice.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from tollway.domain.errors import PROBLEMS, DatabaseUnavailable, Problem
from tollway.ingress.batches import BatchBody
from tollway.ingress.budget_bodies import BudgetsBody
from tollway.ingress.context import ApiContext, make_context
from tollway.ingress.hot import RUN_PATH_CHARS, RUN_PREFIX, RUNS_PATH, Head, as_problem, read_wait
from tollway.ingress.openapi import build_openapi
from tollway.ingress.problems import Reply, draining, problem_reply, too_large
from tollway.ingress.readiness import Readiness
from tollway.ingress.replays import ReplayBody
from tollway.ingress.requests import answer_reply
from tollway.ingress.routes import alerts, budgets, bulk, dead_letters, llm, rungs, runs, shifts, system, tenants, usage
from tollway.ingress.services import ApiServices
from tollway.ingress.submission import RunBody
from tollway.ingress.waiting import wait_until_final
from tollway.ingress.wire.app import WireApp, on_the_wire
from tollway.ingress.wire.door import Door
from tollway.record.accept import Accepted, NewRun
from tollway.record.run_document import run_is_final

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_ROUTES = (bulk, dead_letters, runs, tenants, budgets, shifts, alerts, llm, system, usage, rungs)
_ANSWERED = "tollway.answered"
_ALWAYS = frozenset(("/healthz", "/readyz", "/metrics"))
_log = logging.getLogger(__name__)
_BODIES: tuple[type[msgspec.Struct], ...] = (
    RunBody,
    BatchBody,
    ReplayBody,
    bulk.BulkBody,
    dead_letters.DeadReplayBody,
    dead_letters.DeadDiscardBody,
    tenants.TenantBody,
    tenants.KeyBody,
    shifts.ShiftBody,
    BudgetsBody,
    rungs.RungsBody,
)


class Disconnected(Exception):
    """The client went away before its request was whole."""


class Api:
    """One API process' door."""

    def __init__(self, services: ApiServices) -> None:
        self.context = make_context(services)
        self.services = services
        self._framework = _framework(self.context)
        self._wire = None if self.context.wire is None else WireApp(self.context.wire)
        for kind in (Problem, DatabaseUnavailable, Exception):
            self._framework.add_exception_handler(kind, self._on_error)

    @property
    def door(self) -> Door | None:
        """The wire's door; None while it is off."""
        return self.context.wire

    async def start(self) -> None:
        """Read the settings and begin to listen for news. Raises DatabaseUnavailable."""
        self.services.run_news.start()
        await self.services.sync.start()
        self._begin_leases()
        self.context.gatekeeper.start()
        self.context.admission.start()

    def drain(self) -> None:
        """Take no new work and end the streams; what is under way is finished."""
        self.context.gatekeeper.drain()
        self.services.sync.drain()
        self.services.streams.stop()

    async def stop(self) -> None:
        """Drain and let go; a second stop is nothing."""
        self.drain()
        self.context.gatekeeper.stop()
        await self.context.board.stop()
        await self.services.accepts.drain()
        if self.services.wire is not None:
            await self.services.wire.calls.drain()
        await self.context.admission.stop()
        if self.services.guard is not None:
            await self.services.guard.stop()
        await self.services.sync.stop()
        self.services.run_news.stop()

    def _begin_leases(self) -> None:
        guard, sync, wire = self.services.guard, self.services.sync, self.services.wire
        if guard is None:
            return
        if wire is not None:
            guard.start(lambda: sync.process_id, lambda: sync.snapshot.budgets, wire.calls.settled)
        else:
            guard.start(lambda: sync.process_id, lambda: sync.snapshot.budgets)
        sync.on_processes(guard.registered)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI call."""
        kind = scope["type"]
        if kind == "http":
            try:
                await self._http(scope, receive, send)
            except Disconnected:
                return
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if self.services.options.wire_only and not (on_the_wire(path) or path in _ALWAYS):
            detail = f"This process serves the wire only; ask another API process for {path[:200]}."
            await _send(send, self.refusal(Problem("not_found", detail)))
        elif path == RUNS_PATH and method == "POST":
            await self._submit(scope, receive, send)
        elif len(path) == RUN_PATH_CHARS and path.startswith(RUN_PREFIX) and method in ("GET", "HEAD"):
            await self._read(scope, send)
        elif self._wire is not None and on_the_wire(path):
            await self._wire(scope, receive, send)
        else:
            await self._other(scope, receive, send)

    async def _submit(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = _head(scope)
        try:
            body = await _body(scope, receive, self.services.options.body_bytes_max)
            wait_s = None if head.prefer is None else read_wait(head.prefer)
            asked = self.context.hot.admit(head, body)
            run = asked.run
            accepted = await self.context.admission.accept(asked)
            if not accepted.replayed:
                self.context.told(run, accepted)
            if head.streams:
                await self._stream(accepted.run_id, accepted.replayed, send)
                return
            if wait_s is not None:
                reply = await self._wait(run, accepted, wait_s)
            elif accepted.replayed:
                reply = await self.context.hot.known(accepted.run_id)
            else:
                reply = await self.context.hot.fresh(run, accepted)
        except Exception as error:
            reply = self.refusal(error)
        await _send(send, reply)

    async def _wait(self, run: NewRun, accepted: Accepted, wait_s: float) -> Reply:
        run_id, replayed = accepted.run_id, accepted.replayed
        try:
            row = await wait_until_final(self.services.reads, self.services.run_news, run_id, wait_s)
        except DatabaseUnavailable:
            if replayed:
                raise
            row = None  # the run is accepted, whatever can be read of it
        if row is None and not replayed:
            return self.context.hot.accepted(run, accepted)
        final = row is not None and run_is_final(row)
        reply = await self.context.hot.known(run_id, 200 if final else 202)
        reply.headers = reply.headers if replayed else reply.headers[:2]
        reply.headers.append((b"preference-applied", b"wait=%d" % wait_s))
        return reply

    async def _stream(self, run_id: Any, replayed: bool, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
            (b"location", f"{RUN_PREFIX}{run_id}".encode()),
        ]
        if replayed:
            headers.append((b"idempotency-replayed", b"true"))
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        try:
            async for frame in self.services.streams.follow(run_id):
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        except OSError:
            return  # the client is gone; its run is not
        await send({"type": "http.response.body", "body": b""})

    async def _read(self, scope: Scope, send: Send) -> None:
        try:
            caller, run_id = self.context.hot.look_up(_head(scope), scope["path"][len(RUN_PREFIX) :])
            reply = self.context.hot.found(caller, run_id, await self.services.reads.run(run_id))
        except Exception as error:
            reply = self.refusal(error)
        await _send(send, reply)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the server leaves the body out
        try:
            await self._framework(scope, receive, send)
        except Exception:
            if _ANSWERED not in scope:  # an answer was cut short: the server must see that and close the connection
                raise

    def too_large(self) -> Problem:
        """The refusal of a body beyond the bound."""
        return too_large(self.services.options.body_bytes_max)

    async def _on_error(self, request: Request, error: Exception) -> Response:
        request.scope[_ANSWERED] = True
        return answer_reply(self.refusal(error))

    def refusal(self, error: BaseException) -> Reply:
        """What to answer to an error. Raises Disconnected: then there is nobody to answer."""
        if isinstance(error, Disconnected):
            raise error
        problem = draining() if isinstance(error, asyncio.CancelledError) else as_problem(error)
        if problem is None:
            _log.error("a request failed", exc_info=error)
            detail = "The request failed on our side and was logged; nothing can be said of its effect."
            problem = Problem("internal", detail)
        self.services.metrics.refusals.add(problem.code)
        return problem_reply(problem)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except Exception as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    raise
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def create_app(services: ApiServices) -> Api:
    """The API over these services."""
    return Api(services)


def _framework(context: ApiContext) -> FastAPI:
    app = FastAPI(title="Tollway", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.context = context
    app.state.readiness = Readiness(context)
    for routes in _ROUTES:
        app.include_router(routes.router)
    app.add_exception_handler(HTTPException, _on_http)
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(build_openapi(app, list(_BODIES)))
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return app


async def _on_http(request: Request, error: Exception) -> Response:
    """The framework's own refusals: no such route, or not with this method."""
    status = getattr(error, "status_code", 500)
    path, method = request.url.path[:200], request.scope["method"]
    if status == 404:
        problem = Problem("not_found", f"There is no route {path!r}; GET /docs lists them.")
    elif status == 405:
        headers = dict(getattr(error, "headers", None) or {})
        allowed = allowed_methods(request) or headers.get("Allow", "GET")
        detail = f"{path} does not take {method}; it takes {allowed}."
        problem = Problem("method_not_allowed", detail, headers={"Allow": allowed})
    else:
        problem = Problem("invalid_request", str(getattr(error, "detail", "")) or PROBLEMS["invalid_request"][1])
    return answer_reply(problem_reply(problem))


def allowed_methods(request: Request) -> str:
    """What a path takes, over all its routes and the hot ones."""
    found: set[str] = set()
    for routes in _ROUTES:
        for route in routes.router.routes:
            match, _ = route.matches({**request.scope, "method": "OPTIONS"})
            if match is not Match.NONE:
                found |= set(getattr(route, "methods", None) or ())
    if request.url.path == RUNS_PATH:
        found.add("POST")
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found))


def _head(scope: Scope) -> Head:
    head = Head()
    for name, value in scope["headers"]:
        head.take(name, value)
    return head


async def _body(scope: Scope, receive: Receive, bytes_max: int) -> bytes:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Disconnected
    body: bytes = message.get("body", b"")
    if len(body) > bytes_max:
        raise too_large(bytes_max)
    if not message.get("more_body"):
        return body
    parts, size = [body], len(body)
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > bytes_max:
            raise too_large(bytes_max)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        part = message.get("body", b"")
        size += len(part)
        if size > bytes_max:
            raise too_large(bytes_max)
        parts.append(part)
    return b"".join(parts)


async def _send(send: Send, reply: Reply) -> None:
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers})
    await send({"type": "http.response.body", "body": reply.body})
