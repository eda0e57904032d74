"""How much each flow wants of a route: what came lately, what waits, what runs. Pure: times are monotonic seconds."""

from tollway.hotstate.capacity import NOTHING, FlowWant, Vector
from tollway.llm.capacity.costs import Flow

FLOWS_TOLD_MAX = 64
GROWTH = 1.2
"""Wants are a little above what came, so that a demand that grows finds room."""

CLEAR_S = 1.0
"""What waits should be gone within this time: a waiting call wants a rate, too."""

_MEASURE_S = 0.5
_SMOOTH = 0.5
_FORGET_BELOW = 0.01
_CALL_SMOOTH = 0.05
REST = "*"


class FlowDemand:
    """One flow's calls in this process."""

    __slots__ = ("arrived", "rates", "running", "waiting", "waiting_calls")

    def __init__(self) -> None:
        self.arrived = [0.0, 0.0, 0.0, 0.0]
        self.rates: list[float] | None = None
        self.waiting = [0.0, 0.0, 0.0, 0.0]
        self.waiting_calls = 0
        self.running = 0

    def wait(self, charge: Vector, calls: int = 1) -> None:
        """A call began to wait, or with -1 ended it."""
        self.waiting_calls += calls
        waiting = self.waiting
        for at, value in enumerate(charge):
            waiting[at] += value * calls

    @property
    def quiet(self) -> bool:
        """Whether it need not be remembered."""
        came = self.rates[0] if self.rates else self.arrived[0]
        return not self.waiting_calls and not self.running and came < _FORGET_BELOW


class Demand:
    """What all flows of a process want of one route. `call` is a usual call, `last` when the last one came."""

    def __init__(self, now: float) -> None:
        self._flows: dict[Flow, FlowDemand] = {}
        self._measured = now
        self.call: Vector = NOTHING
        self.last = now

    @property
    def tokens_per_s(self) -> float:
        """Tokens that came a second, when last measured."""
        return sum(demand.rates[1] for demand in self._flows.values() if demand.rates)

    def waiting(self) -> Vector:
        """All that waits."""
        total = [0.0, 0.0, 0.0, 0.0]
        for demand in self._flows.values():
            if demand.waiting_calls:
                for at, value in enumerate(demand.waiting):
                    total[at] += value
        return (total[0], total[1], total[2], total[3])

    def came(self, flow: Flow, charge: Vector, now: float) -> FlowDemand:
        """A call came, whether it waits or not."""
        of_flow = self._flows.get(flow)
        if of_flow is None:
            if not self._flows:  # a quiet time does not count
                self._measured = now
            of_flow = self._flows[flow] = FlowDemand()
        arrived = of_flow.arrived
        arrived[0] += charge[0]
        arrived[1] += charge[1]
        arrived[2] += charge[2]
        arrived[3] += charge[3]
        usual = self.call
        if usual[0]:
            self.call = (
                usual[0] + (charge[0] - usual[0]) * _CALL_SMOOTH,
                usual[1] + (charge[1] - usual[1]) * _CALL_SMOOTH,
                usual[2] + (charge[2] - usual[2]) * _CALL_SMOOTH,
                usual[3] + (charge[3] - usual[3]) * _CALL_SMOOTH,
            )
        else:
            self.call = charge
        self.last = now
        return of_flow

    def wants(self, now: float) -> tuple[FlowWant, ...]:
        """The flows by how much they want, the smallest beyond FLOWS_TOLD_MAX told as one of their lane."""
        self._measure(now)
        wants = []
        for flow, demand in self._flows.items():
            rates = demand.rates or NOTHING
            a, b, c, d = (rate * GROWTH + waits / CLEAR_S for rate, waits in zip(rates, demand.waiting, strict=True))
            slots = demand.running + demand.waiting_calls
            wants.append(FlowWant(flow.lane, flow.tenant, flow.agent, (a, b, c, d), slots, flow.weight))
        if len(wants) <= FLOWS_TOLD_MAX:
            return tuple(wants)
        wants.sort(key=lambda want: (want.rates, want.slots), reverse=True)
        return (*wants[:FLOWS_TOLD_MAX], *_rest(wants[FLOWS_TOLD_MAX:]))

    def _measure(self, now: float) -> None:
        elapsed = now - self._measured
        if elapsed < _MEASURE_S:
            return
        self._measured = now
        for flow, demand in list(self._flows.items()):
            sample = [value / elapsed for value in demand.arrived]
            if demand.rates is None:
                demand.rates = sample
            else:
                demand.rates = [old + (new - old) * _SMOOTH for old, new in zip(demand.rates, sample, strict=True)]
            demand.arrived = [0.0, 0.0, 0.0, 0.0]
            if demand.quiet:
                del self._flows[flow]


def _rest(wants: list[FlowWant]) -> list[FlowWant]:
    """Many small flows as one a lane, which weighs as much as they do."""
    lanes: dict[str, tuple[list[float], int, dict[str, float]]] = {}
    for want in wants:
        rates, slots, weights = lanes.get(want.lane, ([0.0, 0.0, 0.0, 0.0], 0, {}))
        weights[want.tenant] = want.weight
        total = [one + two for one, two in zip(rates, want.rates, strict=True)]
        lanes[want.lane] = (total, slots + want.slots, weights)
    return [
        FlowWant(lane, REST, REST, (rates[0], rates[1], rates[2], rates[3]), slots, sum(weights.values()))
        for lane, (rates, slots, weights) in lanes.items()
    ]
