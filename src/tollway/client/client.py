"""`Client`: every verb of the HTTP contract as a method, retried where that is safe."""

import asyncio
import math
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self, Unpack
from urllib.parse import quote

import msgspec

from tollway.client.batch import submit_all
from tollway.client.errors import ApiError, RunFailed
from tollway.client.events import follow
from tollway.client.options import ReplayOptions, RunFilter, RunSpec, SubmitOptions, TenantSettings
from tollway.client.revisions import revise
from tollway.client.transport import Call, ClientOptions, Transport, check_finite, encode, encode_settings
from tollway.client.usage import PATH, RUNS_PATH, UsageFilter, fetch_usage, fetch_usage_csv
from tollway.client.views import RunEvent, RunView, StepView, as_event, as_run, as_step

PAGE_RUNS = 200
_WAIT_HEADER_MAX_S = 60
_BULK_PATIENCE_S = 600.0


class Page(msgspec.Struct, frozen=True):
    """One page of a list; `next` is the cursor of the following one, None at the end."""

    items: list[dict[str, Any]]
    next: str | None = None


class Client:
    """A Tollway server, over HTTP.

    `url` and `api_key` default to TOLLWAY_URL and TOLLWAY_API_KEY; `tenant` is whom an admin key acts for. Methods
    raise ApiError for a refusal and Unreachable when nobody answers. Safe for concurrent use by many tasks of one loop.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        tenant: str | None = None,
        *,
        options: ClientOptions | None = None,
    ) -> None:
        self._transport = Transport(url, api_key, tenant, options or ClientOptions())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._transport.url

    async def close(self) -> None:
        """Close every connection; a second call does nothing."""
        await self._transport.close()

    async def submit(
        self,
        agent: str,
        input: Any = None,
        *,
        idempotency_key: str | None = None,
        wait_s: float = 0,
        **options: Unpack[SubmitOptions],
    ) -> RunView:
        """Submit a run; once this returns it is accepted and will not be lost.

        Retried under one idempotency key, so never doubled. With `wait_s` (at most 60 at once) the answer is held
        until the run ends or the time is over: look at `final`.
        """
        headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
        held_s = min(wait_s, _WAIT_HEADER_MAX_S)
        if held_s > 0:
            headers["prefer"] = f"wait={math.ceil(held_s)}"
        body = encode({"agent": agent, "input": input, **_given(options)})
        answer = await self._transport.send(Call("POST", "/v1/runs", headers=headers, body=body, wait_s=held_s))
        return as_run(answer.json())

    async def submit_many(self, runs: Iterable[RunSpec]) -> Sequence[RunView | ApiError]:
        """Submit many runs in few requests; the results stand in the order of `runs`, refusals among them as values.

        Runs refused for now (429, 503) are tried again for `retry_for_s`; each has an idempotency key, so none doubles.
        """
        return await submit_all(self._transport, [_given(run) for run in runs])

    async def get(self, run_id: str) -> RunView:
        """The run as it stands."""
        return as_run(await self.call("GET", f"/v1/runs/{quote(run_id, safe='')}"))

    async def wait(self, run_id: str, timeout_s: float | None = None) -> RunView:
        """The run once it has ended. Raises TimeoutError after `timeout_s`; the run goes on."""
        async with asyncio.timeout(timeout_s):
            async with aclosing(self.events(run_id)) as events:
                async for _ in events:
                    pass
            return await self.get(run_id)

    async def result(self, run_id: str, timeout_s: float | None = None) -> Any:
        """The run's output. Raises RunFailed when it ended otherwise, TimeoutError after `timeout_s`."""
        run = await self.wait(run_id, timeout_s)
        if not run.succeeded:
            raise RunFailed(run)
        return run.output

    def events(self, run_id: str, after: int = 0) -> AsyncGenerator[RunEvent, None]:
        """The run's events beyond `after`, live, up to its final one; a cut stream is resumed where it broke."""
        return follow(self._transport, run_id, after)

    async def past_events(self, run_id: str) -> Sequence[RunEvent]:
        """The events recorded so far."""
        return [as_event(item) async for item in self._all(f"/v1/runs/{quote(run_id, safe='')}/events")]

    async def steps(self, run_id: str) -> Sequence[StepView]:
        """The run's steps so far, in the order of their numbers."""
        return [as_step(item) async for item in self._all(f"/v1/runs/{quote(run_id, safe='')}/steps")]

    async def cancel(self, run_id: str) -> RunView:
        """Cancel a run: a queued one at once, a running one soon. ApiError `run_final` when it has ended."""
        return as_run(await self.call("POST", f"/v1/runs/{quote(run_id, safe='')}/cancel"))

    async def cancel_many(
        self, filter: RunFilter, *, confirm: int | None = None, snapshot: bool | str | None = None
    ) -> dict[str, Any]:
        """Cancel the live runs that match: first without `confirm` to learn the count, then with it.

        `snapshot=True` asks for one with the count; given back with it, runs accepted since are left alone.
        """
        return await self._act("/v1/runs/cancel", {"filter": dict(filter)}, confirm, snapshot)

    async def replay(
        self,
        run_id: str,
        *,
        input: Any = msgspec.UNSET,
        input_patch: Mapping[str, Any] | None = None,
        from_step: int | None = None,
        from_failed_step: bool = False,
    ) -> RunView:
        """A new run with the input of an old one, or another `input`, or the old one with a JSON merge patch.

        Steps before `from_step` are taken over, or with `from_failed_step` all that are finished.
        """
        body: dict[str, Any] = {} if input is msgspec.UNSET else {"input": input}
        if input_patch is not None:
            body["input_patch"] = dict(input_patch)
        if from_step is not None:
            body["from_step"] = from_step
        if from_failed_step:
            body["from"] = "failed_step"
        path = f"/v1/runs/{quote(run_id, safe='')}/replay"
        return as_run(await self.call("POST", path, body, repeatable=False))

    async def dead_letters(self, **filters: str) -> AsyncIterator[dict[str, Any]]:
        """Dead runs that nobody has dealt with, grouped by the fingerprint of their error."""
        async for group in self._all("/v1/dead-letters", list(filters.items())):
            yield group

    async def dead_letter_runs(self, fingerprint: str, **filters: str) -> AsyncIterator[dict[str, Any]]:
        """The dead runs of one group, newest first, each with the step that failed and what it cost."""
        async for letter in self._all(f"/v1/dead-letters/{quote(fingerprint, safe='')}", list(filters.items())):
            yield letter

    async def replay_dead_letters(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        confirm: int | None = None,
        snapshot: bool | str | None = None,
        **how: Unpack[ReplayOptions],
    ) -> dict[str, Any]:
        """Replay dead runs by id, or by filter: first without `confirm` to learn the count, then with it."""
        body = _chosen(ids, filter)
        if how.pop("from_failed_step", False):
            body["from"] = "failed_step"
        return await self._act("/v1/dead-letters/replay", {**body, **how}, confirm, snapshot)

    async def discard_dead_letters(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        confirm: int | None = None,
        snapshot: bool | str | None = None,
    ) -> dict[str, Any]:
        """Take dead runs off the list without a replay, by id or by filter as above; they stay dead."""
        return await self._act("/v1/dead-letters/discard", _chosen(ids, filter), confirm, snapshot)

    async def _act(
        self, path: str, body: dict[str, Any], confirm: int | None, snapshot: bool | str | None
    ) -> dict[str, Any]:
        """Count, or act on what was counted; a count may be asked again, an action not."""
        if confirm is not None:
            body["confirm"] = confirm
        if snapshot is not None:
            body["snapshot"] = snapshot
        held_s = 0.0 if confirm is None and "ids" not in body else _BULK_PATIENCE_S
        answer = await self._transport.send(Call("POST", path, body=encode(body), repeatable=False, wait_s=held_s))
        done: dict[str, Any] = answer.json()
        return done

    async def put_tenant(self, tenant_id: str, **settings: Unpack[TenantSettings]) -> dict[str, Any]:
        """Create a tenant or change its settings; they hold for every request after this one."""
        tenant: dict[str, Any] = await self.call("PUT", f"/v1/tenants/{quote(tenant_id, safe='')}", dict(settings))
        return tenant

    async def tenant_use(self, tenant_id: str) -> dict[str, Any]:
        """What a tenant has queued and running now, the tokens it used, and its limits."""
        use: dict[str, Any] = await self.call("GET", f"/v1/tenants/{quote(tenant_id, safe='')}/use")
        return use

    async def tenants(self) -> AsyncIterator[dict[str, Any]]:
        """Every tenant with its settings."""
        async for tenant in self._all("/v1/tenants"):
            yield tenant

    async def routes(self) -> Sequence[dict[str, Any]]:
        """Every LLM route: its limits, what is leased and used of them, its breaker and latency."""
        return [route async for route in self._all("/v1/routes")]

    async def prices(self) -> Sequence[dict[str, Any]]:
        """Every LLM route with what its calls cost now, where that price comes from, and when it changes next."""
        return [price async for price in self._all("/v1/prices")]

    async def alerts(self, **filters: str) -> AsyncIterator[dict[str, Any]]:
        """Alerts, newest first; filters are `tenant`, `kind`, `since` (RFC 3339) and `open` (`true`)."""
        async for alert in self._all("/v1/alerts", filters.items()):
            yield alert

    async def shifts(self) -> Sequence[dict[str, Any]]:
        """The tier shifts in force, in their order."""
        return [shift async for shift in self._all("/v1/shifts")]

    async def put_shifts(self, shifts: Sequence[Mapping[str, str]]) -> Sequence[dict[str, Any]]:
        """Replace all tier shifts: each `{tenant?, agent?, task_type?, from_tier, to_tier}`. Returns those in force."""
        answer: dict[str, Any] = await self.call("PUT", "/v1/shifts", [dict(shift) for shift in shifts])
        return list(answer["items"])

    async def budgets(self, tenant_id: str) -> Sequence[dict[str, Any]]:
        """A tenant's budgets as they stand in their present period."""
        return [budget async for budget in self._all(f"/v1/tenants/{quote(tenant_id, safe='')}/budgets")]

    async def put_budgets(self, tenant_id: str, budgets: Sequence[Mapping[str, Any]]) -> Sequence[dict[str, Any]]:
        """Replace a tenant's budgets: each `{period, hard_usd?, soft_usd?, agent?, lane?, task_type?, key?, timezone?,
        on_hard?, ladder?, interactive_share?}`. Returns them as they stand."""
        path = f"/v1/tenants/{quote(tenant_id, safe='')}/budgets"
        answer: dict[str, Any] = await self.call("PUT", path, {"budgets": [dict(budget) for budget in budgets]})
        return list(answer["items"])

    async def usage(self, *group_by: str, **asked: Unpack[UsageFilter]) -> dict[str, Any]:
        """Calls, tokens, money and savings, all rows under `items`, by any of the groups that usage has."""
        return await fetch_usage(self._transport, PATH, group_by, asked)

    async def usage_runs(self, *group_by: str, **asked: Unpack[UsageFilter]) -> dict[str, Any]:
        """Ended runs by agent (and `tenant`), with percentiles of their calls and cost."""
        return await fetch_usage(self._transport, RUNS_PATH, group_by, asked)

    async def usage_csv(self, *group_by: str, **asked: Unpack[UsageFilter]) -> bytes:
        """Usage as a table in CSV."""
        return await fetch_usage_csv(self._transport, group_by, asked)

    async def keys(self, tenant_id: str) -> AsyncIterator[dict[str, Any]]:
        """A tenant's API keys, revoked ones included, without their secrets."""
        async for key in self._all(f"/v1/tenants/{quote(tenant_id, safe='')}/keys"):
            yield key

    async def create_key(self, tenant_id: str, name: str, scopes: Sequence[str]) -> dict[str, Any]:
        """A new API key; its `key` is shown this once."""
        path = f"/v1/tenants/{quote(tenant_id, safe='')}/keys"
        body = {"name": name, "scopes": list(scopes)}
        key: dict[str, Any] = await self.call("POST", path, body, repeatable=False)
        return key

    async def revoke_key(self, tenant_id: str, key_id: str) -> None:
        """Revoke an API key; every request after this one is refused."""
        await self.call("DELETE", f"/v1/tenants/{quote(tenant_id, safe='')}/keys/{quote(key_id, safe='')}")

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Sequence[tuple[str, str]] = (),
        repeatable: bool = True,
    ) -> Any:
        """Any route of the API: its JSON, or None for an empty answer. For what has no method of its own.

        Raises ValueError for a number in the body that is not finite.
        """
        payload = None if body is None else encode_settings(body)
        answer = await self._transport.send(Call(method, path, list(query), body=payload, repeatable=repeatable))
        return answer.json() if answer.body else None

    async def revise(self, path: str, change: Callable[[Any], Any]) -> Any:
        """Read a document, put what `change` makes of it, and again if somebody else changed it meanwhile.

        For routes that answer with an `ETag`: budgets, their rungs, tier shifts. Returns the document as it stands.
        Raises ApiError `precondition_failed` when others were quicker each time.
        """
        return await revise(self._transport, path, change)

    async def page(self, *, limit: int = PAGE_RUNS, cursor: str | None = None, **filters: Unpack[RunFilter]) -> Page:
        """One page of runs, newest first, as documents."""
        query = [("limit", str(limit)), *_filter_query(filters)]
        return await self._page("/v1/runs", query, cursor)

    async def list(self, *, page_size: int = PAGE_RUNS, **filters: Unpack[RunFilter]) -> AsyncIterator[RunView]:
        """The runs that match, newest first, page by page as they are asked for."""
        async for item in self._all("/v1/runs", [("limit", str(page_size)), *_filter_query(filters)]):
            yield as_run(item)

    async def _page(self, path: str, query: Iterable[tuple[str, str]], cursor: str | None) -> Page:
        here = [*query, ("cursor", cursor)] if cursor else [*query]
        return msgspec.convert(await self.call("GET", path, query=here), Page)

    async def _all(self, path: str, query: Iterable[tuple[str, str]] = ()) -> AsyncIterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            page = await self._page(path, query, cursor)
            for item in page.items:
                yield item
            cursor = page.next
            if cursor is None:
                return


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; None is not given, except as an input. Raises ValueError for what is not finite."""
    for name, value in options.items():
        if isinstance(value, float) and name != "input":
            check_finite(value, name)
    return {name: value for name, value in options.items() if value is not None or name == "input"}


def _filter_query(filters: RunFilter) -> Iterable[tuple[str, str]]:
    for name, value in filters.items():
        if name == "metadata" and isinstance(value, Mapping):
            yield from ((f"metadata.{key}", str(wanted)) for key, wanted in value.items())
        elif value is not None:
            yield name, str(value)


def _chosen(ids: Sequence[str] | None, filter: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of the ids, or all that fit the filter."""
    return {"ids": list(ids)} if ids is not None else {"filter": dict(filter or {})}
