"""Batches of submits, as `{"runs": […]}` or as NDJSON: every item is accepted or refused for itself, in order."""

import asyncio
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tollway.domain.errors import DatabaseUnavailable
from tollway.ingress.auth import Caller
from tollway.ingress.bodies import check_content_type, decode_body
from tollway.ingress.context import ApiContext
from tollway.ingress.hot import as_problem
from tollway.ingress.problems import invalid
from tollway.ingress.submission import Asked, BatchItem, read_idempotency_key
from tollway.record.accept import Accepted, NewRun

BATCH_MAX = 10_000
_TURN = 50  # items checked before others get the loop
_LOOKED_UP = 200  # refused items whose keys are looked up before the next are read
_AHEAD = 100  # items on their way into the record at a time
_NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/runs/batch`."""

    runs: Annotated[list[msgspec.Raw], Meta(max_length=BATCH_MAX)]


_batch_decoder = msgspec.json.Decoder(BatchBody)
_item_decoder = msgspec.json.Decoder(BatchItem)
_encode = msgspec.json.Encoder(enc_hook=str).encode


async def submit_batch(api: ApiContext, caller: Caller, body: bytes, content_type: str | None) -> bytes:
    """Accept what can be accepted; returns `{"results": […]}`. Raises Problem for the batch as a whole."""
    items = _items(body, content_type, api.services.options.json_depth_max)
    pending: list[asyncio.Future[Accepted] | Exception] = []
    runs: list[NewRun | None] = []
    looked_up, in_step = 0, True
    for place, item in enumerate(items):
        if place % _TURN == _TURN - 1:
            await asyncio.sleep(0)
            in_step = in_step and await _keep_step(pending)
        try:
            asked = _asked(api, caller, item)
            accepting = api.admission.accept(asked)
        except Exception as error:
            if as_problem(error) is None:
                raise
            runs.append(None)
            pending.append(error)
            continue
        runs.append(asked.run)
        pending.append(accepting)
        if asked.refusal is not None:
            looked_up += 1
            if looked_up % _LOOKED_UP == 0:
                await asyncio.wait((accepting,))
    results = [await _result(api, run, waiting) for run, waiting in zip(runs, pending, strict=True)]
    return b'{"results":[%b]}' % b",".join(results)


async def _keep_step(pending: "list[asyncio.Future[Accepted] | Exception]") -> bool:
    """Wait until the record has taken all but the last items: a batch is not to stand whole before others (P6).

    False when the record is out of reach: nothing is won by waiting then, and the rest may fail together.
    """
    waiting = pending[-_AHEAD] if len(pending) >= _AHEAD else None
    if waiting is None or isinstance(waiting, Exception):
        return True
    await asyncio.wait((waiting,))
    return waiting.cancelled() or not isinstance(waiting.exception(), DatabaseUnavailable)


def _asked(api: ApiContext, caller: Caller, item: bytes) -> Asked:
    refusal = api.admission.knock(caller.home, keyed=True)
    decoded = decode_body(_item_decoder, item, api.services.options.json_depth_max)
    key = read_idempotency_key(decoded.idempotency_key, "idempotency_key")
    if refusal is not None and key is None:
        raise refusal
    return api.submissions.new_run(caller, decoded, key, refusal)


async def _result(api: ApiContext, run: NewRun | None, waiting: "asyncio.Future[Accepted] | Exception") -> bytes:
    try:
        if isinstance(waiting, Exception):
            raise waiting
        accepted = await waiting
        assert run is not None, "only an accepted item has a future"
        if accepted.replayed:
            reply = await api.hot.known(accepted.run_id)
            return b'{"status":202,"replayed":true,"run":%b}' % reply.body
        api.told(run, accepted)
        return b'{"status":202,"run":%b}' % (await api.hot.fresh(run, accepted)).body
    except Exception as error:
        problem = as_problem(error)
        if problem is None:
            raise
        return b'{"status":%d,"error":%b}' % (problem.status, _encode(problem.document()))


def _items(body: bytes, content_type: str | None, depth_max: int) -> list[bytes]:
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in _NDJSON:
        lines = [line for line in body.split(b"\n") if line.strip()]
        if len(lines) > BATCH_MAX:
            raise invalid("", f"the batch has {len(lines)} lines; {BATCH_MAX} are the most")
        return lines
    check_content_type(None if content_type is None else content_type.encode("latin-1"))
    batch: Any = decode_body(_batch_decoder, body, depth_max + 2, check=False)
    return [bytes(item) for item in batch.runs]
