"""How a tier stands, for whoever would send it work: when a usual call could be served. Nothing is taken by asking."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from tollway.llm.capacity.costs import Cost
from tollway.llm.ways import Way

_FADE = 0.9
UNKNOWN = Cost(500, 250, 1000)
"""A call of a route that served none yet."""


class Outlook(NamedTuple):
    """Seconds until a usual call could be served; infinite when no route may be called at all.

    It may then be `opens_in_s` from now, if that is known. `sound` is False where the routes left are only being tried
    again; `waited_for` says whether calls of this process wait for one, so that the forecast is of this moment.
    """

    wait_s: float
    opens_in_s: float | None = None
    sound: bool = True
    waited_for: bool = False


def usual(before: Cost | None, cost: Cost) -> Cost:
    """The cost of a usual call, after one more."""
    if before is None:
        return cost
    a, b, c = (round(_FADE * was + (1 - _FADE) * now) for was, now in zip(before, cost, strict=True))
    return Cost(a, b, c)


def outlook(ways: Iterable[Way], now: float, epoch_s: float) -> Outlook:
    """Of the routes of a tier the best; `now` is monotonic, `epoch_s` the same moment since the epoch.

    A tier without routes has nothing to wait for: the call itself will tell.
    """
    ways = tuple(ways)
    if not ways:
        return Outlook(0.0)
    sound = tried = opens_in_s = math.inf
    waiting = False
    for way in ways:
        breaker = way.breaker
        breaker.look(now)
        if breaker.state == "open":
            opens_in_s = min(opens_in_s, math.inf if breaker.opens_at is None else breaker.opens_at - now)
            continue
        wait_s = way.limiter.wait_s(way.usual or UNKNOWN)
        waiting = waiting or way.limiter.waiting > 0
        if wait_s == math.inf:
            opens_at = way.limiter.opens_at
            opens_in_s = min(opens_in_s, math.inf if opens_at is None else opens_at - epoch_s)
        elif breaker.state == "half_open":
            tried = min(tried, wait_s)
        else:
            sound = min(sound, wait_s)
    if sound < math.inf:
        return Outlook(sound, None, True, waiting)
    if tried < math.inf:
        return Outlook(tried, None, False, waiting)
    return Outlook(math.inf, opens_in_s if opens_in_s < math.inf else None, False, waiting)
