"""Writes how an attempt ended: the run's end with its last event, or its return to the queue."""

import msgspec

from tollway.domain.concurrency import CODE, superseded
from tollway.domain.errors import Fenced
from tollway.domain.outcomes import (
    Abandoned,
    Cancelled,
    Dead,
    Expired,
    Failed,
    HandedBack,
    Outcome,
    Parked,
    RetryAt,
    Succeeded,
)
from tollway.runtime.executor import Execution
from tollway.runtime.fingerprints import fingerprint


async def write_ending(execution: Execution, outcome: Outcome) -> bool:
    """Write the outcome; False when the run was held by another claim and nothing was taken."""
    try:
        await _write(execution, outcome)
    except Fenced:
        return False
    return not isinstance(outcome, Abandoned)


async def _write(execution: Execution, outcome: Outcome) -> None:
    journal = execution.journal
    attempt = f'{{"attempt":{journal.claim.attempt}}}'
    match outcome:
        case Succeeded(output):
            await journal.end(journal.fact("succeeded", attempt), _end("succeeded", output=output))
        case Failed(code, message):
            await journal.end(journal.fact("failed", _why(code, message)), _end("failed", code, message))
        case Dead(code, message):
            grouped = fingerprint(journal.claim.agent, code, execution.place)
            await journal.end(
                journal.fact("dead", _why(code, message, fingerprint=grouped)),
                _end("dead", code, message, fingerprint=grouped),
            )
        case Expired():
            message = "the run's deadline passed while it ran"
            await journal.end(journal.fact("expired", _why("expired", message)), _end("expired", "expired", message))
        case Cancelled(actor_kind, actor_id, by) if by:
            why = superseded(by)
            told = journal.fact("cancelled", _why(CODE, why), actor_kind, actor_id)
            await journal.end(told, _end("cancelled", CODE, why))
        case Cancelled(actor_kind, actor_id):
            await journal.end(journal.fact("cancelled", attempt, actor_kind, actor_id), _end("cancelled"))
        case RetryAt(delay_s, code, message):
            data = _why(code, message, reason="error", delay_s=round(delay_s, 3))
            await journal.leave("retried", data, delay_s, errors=1)
        case Parked(delay_s, code, message, gate):
            data = _why(code, message, gate=gate, delay_s=round(delay_s, 3))
            await journal.leave("parked", data, delay_s, errors=0, gate=gate)
        case HandedBack():
            await journal.leave("handed_back", attempt, None, errors=0)
        case Abandoned():
            pass


def _end(
    state: str,
    error_code: str | None = None,
    error_message: str | None = None,
    *,
    output: bytes | None = None,
    fingerprint: str | None = None,
) -> dict[str, object]:
    return {
        "state": state,
        "output": output,
        "error_code": error_code,
        "error_message": error_message,
        "fingerprint": fingerprint,
    }


def _why(code: str, message: str, **more: object) -> str:
    return msgspec.json.encode({"code": code, "message": message, **more}).decode()
