"""Replays: an ended run's request made into a new run, with its journal as far as is asked."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tollway.domain.errors import Problem
from tollway.ingress.auth import Caller
from tollway.ingress.bodies import decode_raw
from tollway.ingress.context import ApiContext
from tollway.ingress.forecasts import Entry
from tollway.ingress.hot import no_such_run
from tollway.ingress.problems import invalid
from tollway.ingress.submission import task_type_text
from tollway.record.accept import Accepted, NewRun
from tollway.record.replay import Kept, Replay, Replayable, Replayed, read_replayables, replay_runs

From = Annotated[str, Meta(extra_json_schema={"enum": [kept.value for kept in Kept]})]
_encode = msgspec.json.Encoder().encode


class ReplayBody(msgspec.Struct, forbid_unknown_fields=True):
    """From where and with which input; by default from the start with the same.

    `from_step` is the number of a step (the first is 1), `from` a word for it; `input_patch` is a JSON merge patch.
    """

    from_step: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    from_: From | None = msgspec.field(default=None, name="from")
    input: msgspec.Raw | UnsetType = UNSET
    input_patch: dict[str, Any] | None = None


async def replay(api: ApiContext, caller: Caller, run_id: UUID, body: ReplayBody) -> bytes:
    """Replay an ended run the caller may see; returns the new run's JSON. Raises Problem, DatabaseUnavailable."""
    api.gatekeeper.check_open()
    services = api.services
    if body.from_step is not None and body.from_ is not None:
        raise invalid("from", "goes without from_step; give one of them")
    kept = body.from_step if body.from_step is not None else kept_of(body.from_)
    check_input(body.input, body.input_patch)
    (old,) = await read_replayables(services.database, [run_id])
    if old is None or not caller.may_see(old.tenant):
        raise no_such_run(str(run_id))
    if old.state is None:
        raise Problem("conflict", f"Run {run_id} has not ended; cancel it first, or wait for its end.")
    if body.from_step is not None and body.from_step > old.steps + 1:
        raise invalid("from_step", f"is beyond the journal, which has {old.steps} steps")
    new = new_run(api, caller, old, new_input(old, body.input, body.input_patch))
    done = await replay_runs(services.database, [Replay(new, run_id, kept)], letters=False)
    return (await told(api, [(new, run_id)], done))[0]


async def told(api: ApiContext, replays: Sequence[tuple[NewRun, UUID]], done: Replayed) -> list[bytes]:
    """Tell workers of replays, and followers of the old runs; the new runs' JSON. Raises DatabaseUnavailable."""
    standing = await api.services.accepts.stand([new for new, _ in replays], done.rows)
    documents = []
    for new, old in replays:
        accepted = standing.get(new.id) or Accepted(new.id, replayed=False)
        if not accepted.ended:
            api.admission.entered(new)
        api.told(new, accepted)
        api.services.news.publish("run", str(old))
        documents.append((await api.hot.fresh(new, accepted)).body)
    return documents


def kept_of(word: str | None) -> Kept:
    """How much of the journal `from` keeps; nothing by default. Raises Problem `invalid_input`."""
    try:
        return Kept.NOTHING if word is None else Kept(word)
    except ValueError:
        raise invalid("from", f"must be {' or '.join(kept.value for kept in Kept)}") from None


def check_input(given: msgspec.Raw | UnsetType, patch: dict[str, Any] | None) -> None:
    """Raise Problem `invalid_input` for an input that is both replaced and patched."""
    if patch is not None and not isinstance(given, UnsetType):
        raise invalid("input_patch", "goes without input: give the whole input, or what of it changes")


def new_input(old: Replayable, given: msgspec.Raw | UnsetType, patch: dict[str, Any] | None) -> bytes:
    """The input of a replay: the given one, the old one patched, or the old one. Raises Problem `invalid_input`."""
    if not isinstance(given, UnsetType):
        return bytes(given)
    if patch is None:
        return old.input
    value = msgspec.json.decode(old.input)
    if not isinstance(value, dict):
        raise invalid("input_patch", f"fits objects only, and the input of run {old.id} is none; give input instead")
    return _encode(merged(value, patch))


def merged(value: Any, patch: Any) -> Any:
    """The value after a JSON merge patch (RFC 7396): objects are merged, null takes away, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    whole = dict(value) if isinstance(value, dict) else {}
    for name, change in patch.items():
        if change is None:
            whole.pop(name, None)
        else:
            whole[name] = merged(whole.get(name), change)
    return whole


def new_run(api: ApiContext, caller: Caller, old: Replayable, raw: bytes) -> NewRun:
    """The run that replays an old one with this input. Raises Problem for what does not fit (any more)."""
    api.admission.knock(old.tenant)
    submissions = api.submissions
    agent = submissions.agent(old.agent)
    submissions.check_lane(old.lane)
    agent.check(decode_raw(raw, "input"))
    now = submissions.stamp()
    task_type = task_type_text(None if old.metadata is None else decode_raw(old.metadata.encode(), "metadata"))
    entry = Entry(
        old.tenant, old.agent, old.lane, now, priority_s=old.priority_s, key_id=caller.key.id, task_type=task_type
    )
    deadline_s = None if old.deadline_at is None else (old.deadline_at - old.created_at).total_seconds()
    return NewRun(
        id=api.services.ids.new(),
        tenant=old.tenant,
        key_id=caller.key.id,
        agent=old.agent,
        version=agent.record.version,
        lane=old.lane,
        input=raw,
        metadata=old.metadata,
        created_at=now,
        priority_s=old.priority_s,
        delay_s=0.0,
        deadline_at=None if deadline_s is None else now + deadline_s,
        ttl_s=None,
        max_attempts=old.max_attempts,
        budget_nano=old.budget_nano,
        concurrency_key=old.concurrency_key,
        concurrency_policy=old.concurrency_policy,
        webhook_url=old.webhook_url,
        webhook_secret_env=old.webhook_secret_env,
        replay_of=old.id,
        predicted_start_at=api.admission.place(entry, None if deadline_s is None else now + deadline_s),
        est_nano=api.services.options.est_nano,
        idempotency_key=None,
        body_hash=None,
    )
