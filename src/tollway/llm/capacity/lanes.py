"""Who waits for a route in this process, over all lanes, and who is next. Pure.

Start-time fair queueing once more, between lanes: by what their flows were granted, and of equals the lane of higher
precedence. A lane that has not had its part comes in at the head of all others, however many flows these have: urgent
work waits for the call at the head, and for no more.
"""

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from tollway.hotstate.capacity import FlowKey
from tollway.hotstate.sharing import LANE_SHARE_MIN
from tollway.llm.capacity.costs import Flow
from tollway.llm.capacity.flows import FlowQueue

W = TypeVar("W")


class _Lane(Generic[W]):
    """The calls of one lane, and how far its service has come."""

    __slots__ = ("queue", "rank", "start", "weight")

    def __init__(self, rank: int, weight: float) -> None:
        self.queue: FlowQueue[W] = FlowQueue()
        self.rank = rank
        self.weight = weight
        self.start = 0.0


class FairQueue(Generic[W]):
    """Waiting calls of type W. A call is known by its flow and the ticket that `push` returns.

    `lanes` are the shares of lanes, in the order of their precedence; one that is not named there comes last.
    """

    def __init__(self, lanes: Mapping[str, float] | None = None) -> None:
        self._shares = dict(lanes or {})
        self._ranks = {lane: rank for rank, lane in enumerate(self._shares)}
        self._lanes: dict[str, _Lane[W]] = {}
        self._weights: Mapping[FlowKey, float] = {}
        self._granted: dict[str, float] = {}
        self._now = 0.0
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def weigh(self, weights: Mapping[FlowKey, float]) -> None:
        """New weights of flows; a lane weighs what its flows do, and one without any as much as the others' mean."""
        self._weights = weights
        granted: dict[str, float] = {}
        for key, weight in weights.items():
            granted[key.lane] = granted.get(key.lane, 0.0) + weight
        self._granted = granted
        for name, lane in self._lanes.items():
            lane.queue.weigh(weights)
            lane.weight = self._weight(name)

    def push(self, flow: Flow, call: W, size: float) -> int:
        """Wait; `size` is the call's part of the limit. Returns its ticket."""
        lane = self._lanes.get(flow.lane)
        if lane is None:
            rank = self._ranks.setdefault(flow.lane, len(self._ranks))
            lane = self._lanes[flow.lane] = _Lane(rank, self._weight(flow.lane))
            lane.queue.weigh(self._weights)
        if not len(lane.queue):
            lane.start = max(lane.start, self._now)
        self._waiting += 1
        return lane.queue.push(flow, call, size)

    def head(self) -> W | None:
        """Who is next; None if nobody waits."""
        lane = self._first()
        return None if lane is None else lane.queue.head()

    def pop(self) -> W:
        """Take who is next out, and move its lane and flow on. Raises IndexError if nobody waits."""
        lane = self._first()
        if lane is None:
            raise IndexError("nobody waits")
        call, size = lane.queue.pop()
        self._waiting -= 1
        self._now = max(self._now, lane.start)
        lane.start += size / lane.weight
        return call

    def discard(self, flow: Flow, ticket: int) -> bool:
        """Take one out that waits no longer; whether it waited."""
        lane = self._lanes.get(flow.lane)
        if lane is None or not lane.queue.discard(flow, ticket):
            return False
        self._waiting -= 1
        return True

    def upcoming(self, most: int) -> Iterator[W]:
        """The next calls in the order they would be served, with the weights of now."""
        lanes = [lane for lane in self._lanes.values() if len(lane.queue)]
        coming = [(lane, lane.queue.upcoming(most)) for lane in lanes]
        starts = {lane.rank: lane.start for lane in lanes}
        heads = [(lane, following, next(following)) for lane, following in coming]
        while heads and most > 0:
            at = min(range(len(heads)), key=lambda i: (starts[heads[i][0].rank], heads[i][0].rank))
            lane, following, (call, size) = heads[at]
            yield call
            most -= 1
            starts[lane.rank] += size / lane.weight
            coming_next = next(following, None)
            if coming_next is None:
                del heads[at]
            else:
                heads[at] = (lane, following, coming_next)

    def _first(self) -> _Lane[W] | None:
        waiting = [lane for lane in self._lanes.values() if len(lane.queue)]
        return min(waiting, key=lambda lane: (lane.start, lane.rank)) if waiting else None

    def _weight(self, lane: str) -> float:
        granted = self._granted
        if not granted:
            return max(self._shares.get(lane, 0.0), LANE_SHARE_MIN)
        return granted.get(lane) or sum(granted.values()) / len(granted)
