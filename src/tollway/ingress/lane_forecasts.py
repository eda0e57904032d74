"""Makes the forecasts of a lane from a count of the queue, weights and service.

Bit by bit: ten thousand lines are tens of milliseconds' work, and submits are answered meanwhile.
"""

from collections.abc import Callable, Collection, Generator, Hashable, Mapping
from dataclasses import dataclass

from tollway.ingress.service_watch import ServiceWatch
from tollway.queue.forecast import LaneForecast, LineLoad, cost_rate
from tollway.record.backlog import Backlog, Line

LASTING_S = 3.0
ON_ITS_WAY_S = 0.5
SLICE = 500
_HELD_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class KnownLane:
    """The forecasts of a lane: of its open classes together, and of each class that is held back by what it needs."""

    at: float
    lines: int
    whole: LaneForecast | None
    held: dict[str, LaneForecast]

    def of(self, agent: str) -> LaneForecast | None:
        """The forecast that holds for runs of an agent."""
        return self.held.get(agent, self.whole)


@dataclass(frozen=True, slots=True)
class Now:
    """What is known: the count, the runs a second that enter each line, and the lane as it was forecast before."""

    backlog: Backlog
    arrivals: Mapping[Line, float]
    before: KnownLane | None


class LaneMaker:
    """Makes forecasts, and remembers for that which classes have had a backlog since when."""

    def __init__(
        self, service: ServiceWatch, weight: Callable[[str], float], blocked: Callable[[str], object | None]
    ) -> None:
        """`weight` is a tenant's; `blocked` tells why no worker starts an agent's runs just now, None if some does."""
        self._service = service
        self._weight = weight
        self._blocked = blocked
        self._since: dict[tuple[str, str], float] = {}

    def forget(self) -> None:
        """Nobody knows the queue any more."""
        self._since = {}

    def note_lasting(self, backlog: Backlog) -> None:
        """Since when each class has had a backlog without a break: more than what is just on its way to a slot."""
        rates = self._service.rates
        present = {
            key
            for key, count in backlog.classes().items()
            if count.runnable > ON_ITS_WAY_S * rates.of(*key).claims_per_s
        }
        self._since = {key: self._since.get(key, backlog.at) for key in present}

    def make(self, lane: str, lines: list[Line], now: Now) -> Generator[None, None, KnownLane]:
        """The lane's forecasts, from its lines that have work or get some; gives way again and again."""
        backlog, before = now.backlog, now.before
        rates = self._service.rates
        held = self._held(lane, backlog)
        told = [backlog.costs[line] for line in lines if line in backlog.costs]
        usual = sum(told) / len(told) if told else 1.0
        share = self._service.share_of_accepts(
            lane, sum(per_s for line, per_s in now.arrivals.items() if line[0] == lane)
        )
        loads: dict[str, dict[Hashable, LineLoad]] = {}
        siblings: dict[str, int] = {}
        for _, agent, tenant in lines:
            if agent not in held:
                siblings[tenant] = siblings.get(tenant, 0) + 1
        yield
        for at, line in enumerate(lines, 1):
            if at % SLICE == 0:
                yield
            _, agent, tenant = line
            count = backlog.lines.get(line)
            weight = self._weight(tenant) / (1 if agent in held else siblings[tenant])
            arrivals = now.arrivals.get(line, 0.0) / share
            cost = backlog.costs.get(line, usual) / usual
            load = LineLoad((count.runnable if count else 0) * cost, weight, arrivals * cost, cost)
            loads.setdefault(agent if agent in held else "", {})[line] = load
        forecasts: dict[str, LaneForecast] = {}
        for agent in held:
            own, claims = loads.get(agent, {}), rates.of(lane, agent).claims_per_s
            if claims > 0:
                forecasts[agent] = LaneForecast(own, cost_rate(own.values(), claims))
        yield
        open_loads = loads.get("", {})
        away = sum(rates.of(lane, agent).claims_per_s for agent in held)
        rate, free = self._rate(lane, away, now, held)
        whole = None if rate is None else LaneForecast(open_loads, cost_rate(open_loads.values(), rate), free)
        for forecast, known in [
            *((forecasts[agent], None if before is None else before.held.get(agent)) for agent in forecasts),
            *(() if whole is None else ((whole, None if before is None else before.whole),)),
        ]:
            yield
            yield from forecast.prepare(known)
        return KnownLane(backlog.at, len(lines), whole, forecasts)

    def _rate(self, lane: str, away_per_s: float, now: Now, held: Collection[str]) -> tuple[float | None, float]:
        """Runs a second that start in a lane while it has a backlog, and how many start at once.

        What is held back is no backlog: it says nothing of how fast the others could be served.

        While a backlog lasts, claims are the truth. Before it, claims are only as many as runs came: then what the
        slots of workers can turn over is the better guess, and never the lower one.
        """
        backlog = now.backlog
        service, slots = self._service.rates.lane(lane), self._service.slots(lane)
        if not slots:
            return None, 0.0
        lasting = (at for (of, agent), at in self._since.items() if of == lane and agent not in held)
        since = min(lasting, default=backlog.at)
        lasting_s = backlog.at - since
        count = backlog.of(lane)
        free = 0.0 if lasting_s >= LASTING_S else float(max(0, slots - backlog.of().running))
        claims = min(service.claims_per_s, service.ends_per_s) - away_per_s  # what fills slots is not kept up
        if lasting_s >= self._service.window_s and claims > 0:
            return claims, free
        if service.seconds is None:
            return (claims, free) if claims > 0 and lasting_s >= LASTING_S else (None, free)
        turned_over = (count.running + free) / max(service.seconds, 1e-3)
        rate = max(claims, turned_over)
        return (rate if rate > 0 else None), free

    def _held(self, lane: str, backlog: Backlog) -> set[str]:
        """Classes that no worker starts just now, by what workers tell, or that are served far below their part of the
        lane although they wait: what they need holds them."""
        long_ago = backlog.at - self._service.window_s
        shut = {agent for of, agent in backlog.classes() if of == lane and self._blocked(agent) is not None}
        waiting = {
            agent for (of, agent), at in self._since.items() if of == lane and at <= long_ago and agent not in shut
        }
        if len(waiting) < 2:
            return shut
        rates = self._service.rates
        weights = dict.fromkeys(waiting, 0.0)
        for (of, agent, tenant), count in backlog.lines.items():
            if of == lane and agent in weights and count.runnable:
                weights[agent] += self._weight(tenant)
        served = sum(rates.of(lane, agent).claims_per_s for agent in waiting)
        whole = sum(weights.values()) or 1.0
        return shut | {
            agent
            for agent in waiting
            if rates.of(lane, agent).claims_per_s < _HELD_SHARE * served * weights[agent] / whole
        }
