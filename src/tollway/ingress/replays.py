"""Replays: an ended run's request made into a new run."""

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from tollway.domain.errors import Problem
from tollway.ingress.auth import Caller
from tollway.ingress.bodies import decode_raw
from tollway.ingress.context import ApiContext
from tollway.ingress.hot import no_such_run
from tollway.ingress.problems import invalid
from tollway.record.accept import Accepted, NewRun
from tollway.record.replay import Replayable, read_replayable, replay_run


class ReplayBody(msgspec.Struct, forbid_unknown_fields=True):
    """From which step (the first is 1) and with which input; by default from the start with the same."""

    from_step: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    input: msgspec.Raw | UnsetType = UNSET


async def replay(api: ApiContext, caller: Caller, run_id: UUID, body: ReplayBody, *, dead: bool = False) -> bytes:
    """Replay a run the caller may see, with `dead` only a dead one; returns the new run's JSON.

    Raises Problem, DatabaseUnavailable.
    """
    api.gatekeeper.check_open()
    services = api.services
    old = await read_replayable(services.database, run_id)
    if old is None or not caller.may_see(old.tenant):
        raise no_such_run(str(run_id))
    if old.state is None:
        raise Problem("conflict", f"Run {run_id} has not ended; cancel it first, or wait for its end.")
    if dead and old.state != "dead":
        remedy = f"POST /v1/runs/{run_id}/replay replays any ended run"
        raise Problem("conflict", f"Run {run_id} is no dead letter, its state is {old.state}; {remedy}.")
    if body.from_step is not None and body.from_step > old.steps + 1:
        raise invalid("from_step", f"is beyond the journal, which has {old.steps} steps")
    new = _new_run(api, caller, old, body)
    rows = await replay_run(services.database, new, run_id, body.from_step)
    standing = await services.accepts.stand([new], rows)
    accepted = standing.get(new.id, Accepted(new.id, replayed=False))
    api.told(new, accepted)
    services.news.publish("run", str(run_id))
    return (await api.hot.fresh(new, accepted)).body


def _new_run(api: ApiContext, caller: Caller, old: Replayable, body: ReplayBody) -> NewRun:
    submissions = api.submissions
    agent = submissions.agent(old.agent)
    submissions.check_lane(old.lane)
    raw = old.input if isinstance(body.input, UnsetType) else bytes(body.input)
    agent.check(decode_raw(raw, "input"))
    now = submissions.stamp()
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
        predicted_start_at=submissions.predict(old.lane, now),
        est_nano=api.services.options.est_nano,
        idempotency_key=None,
        body_hash=None,
    )
