"""How an attempt of a run ended, as values."""

from dataclasses import dataclass

from tollway.domain.gates import Gate


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The agent returned; `output` is its JSON."""

    output: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The agent itself said no, or its journal does not fit: asking again cannot help."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class RetryAt:
    """The attempt ended in an error and another one is due after `delay_s`."""

    delay_s: float
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Parked:
    """What the run needs next is not to be had: it gives up its slot, for `delay_s` at most, and loses no attempt.

    It waits behind `gate`, as `queue.gate` has it.
    """

    delay_s: float
    code: str
    message: str
    gate: str = Gate.TIME


@dataclass(frozen=True, slots=True)
class Dead:
    """Attempts exhausted or poison: a dead letter."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody asked for it; `actor_kind` and `actor_id` say who, `by` which run of its concurrency key it went for."""

    actor_kind: str
    actor_id: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class Expired:
    """Its deadline passed."""


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The worker is stopping and gives the run back, costing it no attempt."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The claim was lost; there is nothing left to write."""


Outcome = Succeeded | Failed | RetryAt | Dead | Cancelled | Expired | HandedBack | Parked | Abandoned
