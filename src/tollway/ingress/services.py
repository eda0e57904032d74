"""What the API is given: every object it uses, put together in wiring, and its bounds."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from tollway.config import Route
from tollway.domain.clock import Clock
from tollway.domain.ids import IdMaker
from tollway.domain.news import News
from tollway.domain.words import DEFAULT_LANES
from tollway.hotstate.run_news import RunNews
from tollway.ingress.wire.catalogue import ModelCatalogue
from tollway.ingress.wire.door import DoorOptions
from tollway.llm.governor import Governor
from tollway.queue.scaling import LaneAim
from tollway.record.accept import Accepts
from tollway.record.database import Database
from tollway.record.quotas import TokenBook
from tollway.record.reads import RunReads
from tollway.record.settings_sync import SettingsSync
from tollway.record.wire_calls import WireCalls
from tollway.spend.guard import BudgetGuard
from tollway.telemetry.metrics import Metrics


class EventStreamMaker(Protocol):
    """Makes a run's event stream (`outbound.sse.EventStreams`)."""

    def follow(self, run_id: UUID, after_seq: int = 0) -> AsyncIterator[bytes]:
        """Frames of the events beyond `after_seq`."""

    def stop(self) -> None:
        """End every stream."""


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """What a lane takes: runs queued in it at most, and seconds a run may have to wait; None: no limit."""

    max_queued: int | None = None
    max_wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """Bounds of the API, and what `/readyz` waits for.

    `tiers` are those that routes serve. With a `supervisor`, only its own workers count. `est_nano` is what a run is
    taken to cost until more is known: the unit in which lines are charged. `wire_only` serves the wire, health and
    metrics, nothing else. `aims` and `slots` (of a worker nobody has heard of yet) are for the scaling signal.
    """

    lanes: tuple[str, ...] = DEFAULT_LANES
    tiers: tuple[str, ...] = ()
    body_bytes_max: int = 4_194_304
    json_depth_max: int = 64
    accepts_waiting_max: int = 5_000
    loop_lag_max_s: float = 1.0
    est_nano: int = 1_000_000
    workers_expected: int = 0
    supervisor: str = ""
    routes: tuple[Route, ...] = ()
    wire_only: bool = False
    lane_limits: Mapping[str, LaneLimits] = field(default_factory=dict)
    aims: Mapping[str, LaneAim] = field(default_factory=dict)
    slots: int = 1000


@dataclass(frozen=True, slots=True)
class WireServices:
    """What the wire needs beyond the API: who serves its calls, what writes their money, and its bounds."""

    governor: Governor
    calls: WireCalls
    catalogue: ModelCatalogue
    options: DoorOptions


def _no_prices(_at_s: float) -> dict[str, Any]:
    return {"items": [], "next": None}


@dataclass(frozen=True, slots=True)
class ApiServices:
    """The objects the API works with; `prices` shows what routes cost at a time, seconds since the epoch."""

    database: Database
    accepts: Accepts
    reads: RunReads
    sync: SettingsSync
    news: News
    run_news: RunNews
    streams: EventStreamMaker
    ids: IdMaker
    clock: Clock
    metrics: Metrics
    tokens: TokenBook
    options: ApiOptions = ApiOptions()
    route_facts: Callable[[], dict[str, Any]] = dict
    wire: WireServices | None = None
    prices: Callable[[float], dict[str, Any]] = _no_prices
    guard: BudgetGuard | None = None
