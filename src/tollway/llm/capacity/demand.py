"""How much each flow wants of a route: what came lately, what waits, what runs. Pure: times are monotonic seconds."""

from collections import deque

from tollway.hotstate.capacity import NOTHING, FlowWant, Vector
from tollway.llm.capacity.costs import Flow

FLOWS_TOLD_MAX = 64
GROWTH = 1.2
"""Wants are a little above what came, so that a demand that grows finds room."""

CLEAR_S = 1.0
"""What waits should be gone within this time: a waiting call wants a rate, too."""

_MEASURE_S = 0.2
_WINDOW_S = 1.5
_WINDOW_BUSY_S = 0.5
_BUSY_CALLS = 15
_CALL_SMOOTH = 0.05
_LARGE_FADE = 0.005
REST = "*"


class FlowDemand:
    """One flow's calls in this process."""

    __slots__ = ("_marks", "arrived", "rates", "running", "waiting", "waiting_calls")

    def __init__(self, now: float) -> None:
        self.arrived = [0.0, 0.0, 0.0, 0.0]
        self.rates: Vector = NOTHING
        self.waiting = [0.0, 0.0, 0.0, 0.0]
        self.waiting_calls = 0
        self.running = 0
        self._marks: deque[tuple[float, Vector]] = deque([(now, NOTHING)])

    def measure(self, now: float) -> None:
        """What came a second, lately: unbiased, and forgotten the sooner the more it was."""
        marks, (a, b, c, d) = self._marks, self.arrived
        while len(marks) > 1 and marks[1][0] <= now - _WINDOW_S:
            marks.popleft()
        since, was = marks[0]
        window = _WINDOW_S
        if a - was[0] >= _BUSY_CALLS:
            window = _WINDOW_BUSY_S
            since, was = next((mark for mark in reversed(marks) if mark[0] <= now - window), marks[0])
        lasted = max(window, now - since)
        self.rates = ((a - was[0]) / lasted, (b - was[1]) / lasted, (c - was[2]) / lasted, (d - was[3]) / lasted)
        marks.append((now, (a, b, c, d)))

    def wait(self, charge: Vector, calls: int = 1) -> None:
        """A call began to wait, or with -1 ended it."""
        self.waiting_calls += calls
        waiting = self.waiting
        for at, value in enumerate(charge):
            waiting[at] += value * calls

    @property
    def quiet(self) -> bool:
        """Whether it need not be remembered."""
        return not self.waiting_calls and not self.running and self.rates[0] == 0 and len(self._marks) > 1


class Demand:
    """What all flows of a process want of one route.

    `call` is a usual call, `large` about the largest of late, `last` is when the last one came.
    """

    def __init__(self, now: float) -> None:
        self._flows: dict[Flow, FlowDemand] = {}
        self._measured = now
        self.call: Vector = NOTHING
        self.large: Vector = NOTHING
        self.last = now

    @property
    def tokens_per_s(self) -> float:
        """Tokens that came a second, when last measured."""
        return sum(demand.rates[1] for demand in self._flows.values())

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
            of_flow = self._flows[flow] = FlowDemand(now)
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
        top = self.large
        self.large = (
            max(charge[0], top[0] - (top[0] - usual[0]) * _LARGE_FADE),
            max(charge[1], top[1] - (top[1] - usual[1]) * _LARGE_FADE),
            max(charge[2], top[2] - (top[2] - usual[2]) * _LARGE_FADE),
            max(charge[3], top[3] - (top[3] - usual[3]) * _LARGE_FADE),
        )
        self.last = now
        return of_flow

    def wants(self, now: float) -> tuple[FlowWant, ...]:
        """The flows by how much they want, the smallest beyond FLOWS_TOLD_MAX told as one of their lane."""
        self._measure(now)
        wants = []
        for flow, demand in self._flows.items():
            came = zip(demand.rates, demand.waiting, strict=True)
            a, b, c, d = (rate * GROWTH + waits / CLEAR_S for rate, waits in came)
            slots = demand.running + demand.waiting_calls
            wants.append(FlowWant(flow.lane, flow.tenant, flow.agent, (a, b, c, d), slots, flow.weight))
        if len(wants) <= FLOWS_TOLD_MAX:
            return tuple(wants)
        wants.sort(key=lambda want: (want.rates, want.slots), reverse=True)
        return (*wants[:FLOWS_TOLD_MAX], *_rest(wants[FLOWS_TOLD_MAX:]))

    def _measure(self, now: float) -> None:
        if now - self._measured < _MEASURE_S:
            return
        self._measured = now
        for flow, demand in list(self._flows.items()):
            demand.measure(now)
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
