"""Who of one lane waits for a route in this process, and who is next: start-time fair queueing between flows. Pure.

A flow's calls are served in order. Between flows the least virtual start time is next; a call moves its flow on by its
cost over the flow's weight, and a flow that comes anew enters at the time that service has come to. The next call is
waited for, however large: a smaller one of another flow does not overtake it.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush
from itertools import count, islice
from typing import Generic, TypeVar

from tollway.hotstate.capacity import FlowKey
from tollway.llm.capacity.costs import Flow

W = TypeVar("W")
_FORGET_MAX = 4096


class _Line(Generic[W]):
    """The calls of one flow in order, each with its size."""

    __slots__ = ("calls", "flow", "start")

    def __init__(self, flow: Flow, start: float) -> None:
        self.flow = flow
        self.start = start
        self.calls: OrderedDict[int, tuple[W, float]] = OrderedDict()


class FlowQueue(Generic[W]):
    """Waiting calls of type W of one lane. A call is known by the ticket that `push` returns."""

    def __init__(self) -> None:
        self._lines: dict[Flow, _Line[W]] = {}
        self._finished: OrderedDict[Flow, float] = OrderedDict()
        self._heap: list[tuple[float, int, _Line[W]]] = []
        self._order = count()
        self._tickets = count()
        self._now = 0.0
        self._weights: Mapping[FlowKey, float] = {}
        self._usual = 1.0
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def weigh(self, weights: Mapping[FlowKey, float]) -> None:
        """New weights; a flow without one is taken as an average one until it has its own."""
        self._weights = weights
        self._usual = sum(weights.values()) / len(weights) if weights else 1.0

    def push(self, flow: Flow, call: W, size: float) -> int:
        """Wait; `size` is the call's part of the limit. Returns its ticket."""
        line = self._lines.get(flow)
        if line is None:
            line = self._lines[flow] = _Line(flow, max(self._now, self._finished.pop(flow, 0.0)))
            heappush(self._heap, (line.start, next(self._order), line))
        ticket = next(self._tickets)
        line.calls[ticket] = (call, size)
        self._waiting += 1
        return ticket

    def head(self) -> W | None:
        """Who is next; None if nobody waits."""
        line = self._first()
        return next(iter(line.calls.values()))[0] if line else None

    def pop(self) -> tuple[W, float]:
        """Take who is next out, with its size, and move its flow on. Raises IndexError if nobody waits."""
        line = self._first()
        if line is None:
            raise IndexError("nobody waits")
        heappop(self._heap)
        _, (call, size) = line.calls.popitem(last=False)
        self._waiting -= 1
        self._now = max(self._now, line.start)
        line.start += size / self._weight(line.flow)
        if line.calls:
            heappush(self._heap, (line.start, next(self._order), line))
        else:
            self._close(line)
        return call, size

    def discard(self, flow: Flow, ticket: int) -> bool:
        """Take one out that waits no longer; whether it waited."""
        line = self._lines.get(flow)
        if line is None or line.calls.pop(ticket, None) is None:
            return False
        self._waiting -= 1
        if not line.calls:
            self._heap = [entry for entry in self._heap if entry[2] is not line]
            heapify(self._heap)
            self._close(line)
        return True

    def upcoming(self, most: int) -> Iterator[tuple[W, float]]:
        """The next calls, with their sizes, in the order they would be served, with the weights of now."""
        heap = [(start, order, line, 0) for start, order, line in self._heap]
        heapify(heap)
        again = count(max((order for _, order, _, _ in heap), default=0) + 1)  # of equals, who was served comes last
        lists: dict[int, list[tuple[W, float]]] = {}
        while heap and most > 0:
            start, _, line, at = heappop(heap)
            calls = lists.setdefault(id(line), list(islice(line.calls.values(), most)))
            yield calls[at]
            most -= 1
            if at + 1 < len(calls):
                heappush(heap, (start + calls[at][1] / self._weight(line.flow), next(again), line, at + 1))

    def _first(self) -> _Line[W] | None:
        return self._heap[0][2] if self._heap else None

    def _weight(self, flow: Flow) -> float:
        return self._weights.get(flow.key, self._usual)

    def _close(self, line: _Line[W]) -> None:
        """Remember how far a flow has come, so that it gains nothing by waiting with one call at a time."""
        del self._lines[line.flow]
        if line.start > self._now:
            self._finished[line.flow] = line.start
            if len(self._finished) > _FORGET_MAX:
                self._finished.popitem(last=False)
