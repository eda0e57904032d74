"""Replays of many dead letters, some hundred in a transaction; each is replayed or refused for itself.

The answer stays bounded: it counts all, and shows the first results as long as there is room.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from tollway.domain.errors import DatabaseUnavailable, Problem
from tollway.domain.ids import parse_id
from tollway.ingress.auth import Caller
from tollway.ingress.context import ApiContext
from tollway.ingress.hot import as_problem, no_such_run
from tollway.ingress.replays import new_input, new_run, told
from tollway.record.replay import Kept, Replay, Replayable, Replayed, read_replayables, replay_runs

RESULTS_MAX = 1000
RESULTS_BYTES_MAX = 4 << 20
_CHUNK = 200
_TURN = 50  # letters checked before others get the loop
_TRIES = 4
_PAUSE_S = 0.5
_NOBODY = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Plan:
    """How letters are replayed: with how much of their journals, and which input."""

    kept: Kept = Kept.NOTHING
    input: msgspec.Raw | UnsetType = UNSET
    patch: dict[str, Any] | None = None


@dataclass(slots=True)
class Results:
    """What became of each, bounded; `done` is the number of those that went well."""

    count: int = 0
    done: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    shown: list[dict[str, Any]] = field(default_factory=list)
    _bytes: int = 0

    def add(self, asked: str, status: int, document: bytes | None = None) -> None:
        """One that went well, with its new run's JSON if there is one."""
        self.done += 1
        fields = {} if document is None else {"run": msgspec.Raw(document)}
        self._show({"id": asked, "status": status, **fields}, len(document or b""))

    def refuse(self, asked: str, problem: Problem) -> None:
        """One that was refused."""
        self.refused[problem.code] += 1
        self._show({"id": asked, "status": problem.status, "error": problem.document()}, 0)

    def answer(self, done: str, count: int) -> dict[str, Any]:
        """The answer's fields; `done` is the word for what went well."""
        return {
            "count": count,
            done: self.done,
            "refused": dict(self.refused),
            "results": self.shown,
            "results_left_off": self.count - len(self.shown),
        }

    def _show(self, result: dict[str, Any], size: int) -> None:
        self.count += 1
        self._bytes += size
        full = len(self.shown) >= RESULTS_MAX or self._bytes > RESULTS_BYTES_MAX
        if len(self.shown) + 1 == self.count and not full:  # the first ones, without a gap
            self.shown.append(result)


async def replay_letters(api: ApiContext, caller: Caller, asked: Sequence[str], plan: Plan) -> Results:
    """Replay the dead letters of the runs named, in order. Raises Problem when the door is closed at the start."""
    api.gatekeeper.check_open()
    results, at = Results(), 0
    while at < len(asked):
        chunk = asked[at : at + _CHUNK]
        try:
            ids = [parse_id(text) or _NOBODY for text in chunk]
            olds = await read_replayables(api.services.database, ids)
            await _replay_some(api, caller, list(zip(chunk, olds, strict=False)), plan, results)
        except DatabaseUnavailable as error:
            problem = as_problem(error)
            assert problem is not None, "a database out of reach is a problem that can be told"
            for text in asked[at:]:
                results.refuse(text, problem)
            break
        at += len(olds)
    return results


async def _replay_some(
    api: ApiContext, caller: Caller, chunk: Sequence[tuple[str, Replayable | None]], plan: Plan, results: Results
) -> None:
    replays: dict[UUID, Replay] = {}
    verdicts: list[tuple[str, Replay | Problem]] = []
    for place, (text, old) in enumerate(chunk):
        if place % _TURN == _TURN - 1:
            await asyncio.sleep(0)
        try:
            letter = open_letter(caller, text, old)
            if letter.id in replays:
                raise Problem("conflict", f"Run {letter.id} is named twice; it is replayed once.")
            new = new_run(api, caller, letter, new_input(letter, plan.input, plan.patch))
        except Problem as problem:
            verdicts.append((text, problem))
        else:
            replays[letter.id] = Replay(new, letter.id, plan.kept)
            verdicts.append((text, replays[letter.id]))
    done = await _write(api, list(replays.values()))
    won = [(one.new, one.old) for one in replays.values() if one.old in done.olds]
    documents = dict(zip((old for _, old in won), await told(api, won, done), strict=True))
    for text, verdict in verdicts:
        if isinstance(verdict, Problem):
            results.refuse(text, verdict)
        elif verdict.old in documents:
            results.add(text, 202, documents[verdict.old])
        else:
            results.refuse(
                text, Problem("conflict", f"Run {text} was replayed or discarded by somebody else meanwhile.")
            )


def open_letter(caller: Caller, text: str, old: Replayable | None) -> Replayable:
    """The run, if it is a dead letter that nobody has dealt with. Raises Problem `not_found`, `conflict`."""
    if old is None or not caller.may_see(old.tenant):
        raise no_such_run(text[:64])
    again = f"POST /v1/runs/{old.id}/replay replays any ended run, as often as you like"
    if old.state != "dead":
        state = f"its state is {old.state}" if old.state else "it has not ended"
        raise Problem("conflict", f"Run {old.id} is no dead letter, {state}; {again}.")
    if old.replayed_as is not None:
        detail = f"Run {old.id} was replayed already, as run {old.replayed_as}; {again}."
        raise Problem("conflict", detail, fields={"replayed_as": str(old.replayed_as)})
    if old.discarded_at is not None:
        raise Problem("conflict", f"The dead letter of run {old.id} was discarded; {again}.")
    return old


async def _write(api: ApiContext, replays: list[Replay]) -> Replayed:
    """Write them; an answer that was lost is asked for again, which doubles nothing. Raises DatabaseUnavailable."""
    for left in reversed(range(_TRIES)):
        try:
            return await replay_runs(api.services.database, replays, letters=True)
        except DatabaseUnavailable:
            if not left:
                raise
            await asyncio.sleep(_PAUSE_S)
    return Replayed()
