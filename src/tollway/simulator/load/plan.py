"""What the load generator is to do, what it saw while doing it, and the result."""

from collections import Counter

import msgspec

from tollway.domain.words import RunState
from tollway.simulator.load.latency import Latency

EXAMPLES_MAX = 3
_EXAMPLE_BYTES_MAX = 500


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True, tag_field="load", tag="runs"):
    """What to do: `clients` repeat for ever (closed loop) unless `rate_per_s` says when runs start (open loop).

    In open loop `clients` bounds the connections; runs due while all are busy wait, and their latency with them.
    The texts are `numbered` unless they are to be sent as they are; `keep_runs` asks for each run by itself. With
    `gives_up` a run that is refused is not tried again.
    """

    port: int
    api_key: str
    agent: str
    texts: list[str]
    host: str = "127.0.0.1"
    clients: int = 512
    rate_per_s: float = 0.0
    ramp_s: float = 1.0
    warmup_s: float = 5.0
    measure_s: float = 30.0
    drain_s: float = 60.0
    poll_s: float = 0.15
    provider_s: float = 0.05
    first_serial: int = 0
    seed: int = 1
    numbered: bool = True
    keep_runs: bool = False
    gives_up: bool = False

    def __post_init__(self) -> None:
        if (
            not self.texts
            or self.clients < 1
            or self.measure_s <= 0
            or min(self.warmup_s, self.drain_s, self.ramp_s) < 0
        ):
            raise ValueError("a plan needs texts, at least one client, a time to measure, and no negative times")
        if self.rate_per_s < 0 or self.poll_s <= 0:
            raise ValueError("a plan needs a poll interval above 0 and no negative rate")
        if self.gives_up and not self.rate_per_s:
            raise ValueError("clients that give up need a rate, or they would only try faster")


class RunSeen(msgspec.Struct, frozen=True, array_like=True):
    """One run that ended: when it was created and ended, in epoch seconds, and how many LLM calls it made."""

    created_s: float
    ended_s: float
    calls: int


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What happened. Latencies are of runs submitted within the measured window; counts are of the whole job.

    `unsent`: runs due but not submitted, by the plan or after a refusal, when the clients stopped. `backlog`: accepted
    runs that had not ended by then. `calls`: LLM calls of the runs that ended, `without_call`: those of them that made
    none; `runs`: each of them, in the order seen, if the plan asked for them.
    """

    window_s: float
    finished_in_window: int
    runs_per_s: float
    exchanges_in_window: int
    accept: Latency
    seen_final: Latency
    end_to_end: Latency
    overhead: Latency
    accepted: int
    finals: dict[str, int]
    lost: int
    lost_examples: list[str]
    unsent: int
    unanswered_submits: int
    refused: dict[str, int]
    unexpected: dict[str, int]
    examples: dict[str, list[str]]
    disconnects: int
    backlog: int
    drained_s: float
    calls: int = 0
    without_call: int = 0
    runs: list[RunSeen] = []

    @property
    def succeeded(self) -> int:
        """Runs that ended well."""
        return self.finals.get(RunState.SUCCEEDED, 0)

    @property
    def clean(self) -> bool:
        """Every accepted run was seen to succeed, and no answer was outside the contract."""
        return self.accepted > 0 and self.lost == 0 and self.succeeded == self.accepted and not self.unexpected


class Tally:
    """What the clients saw, as it comes in."""

    def __init__(self) -> None:
        self.exchanges = self.accepted = self.finished = self.unanswered = self.unsent = self.disconnects = 0
        self.calls = self.without_call = 0
        self.finals: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.accepts: list[float] = []
        self.seen: list[float] = []
        self.times: list[tuple[bytes, bytes]] = []
        self.ended_late: list[bytes] = []
        self.runs: list[tuple[bytes, bytes, int]] = []

    def example(self, what: str, body: bytes) -> None:
        """Keep the first few bodies of each kind."""
        kept = self.examples.setdefault(what, [])
        if len(kept) < EXAMPLES_MAX:
            kept.append(body[:_EXAMPLE_BYTES_MAX].decode("utf-8", "replace"))
