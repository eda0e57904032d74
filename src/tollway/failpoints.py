"""Named places where a test may kill, stop or delay this process; nothing at all when none is armed.

Armed by the environment: TOLLWAY_FAILPOINTS="claim.after=kill@3,intent.before=delay:0.2". `@N` acts on the N-th
passage only. Actions: `kill` (SIGKILL to this process), `delay:SECONDS` (blocks the thread), `raise`.
"""

import os
import signal
import time
from dataclasses import dataclass

NAMES = (
    "accept.before",
    "accept.after",
    "claim.before",
    "claim.after",
    "intent.before",
    "intent.after",
    "call.after",
    "outcome.before",
    "outcome.after",
    "settle.before",
    "settle.after",
    "complete.before",
    "complete.after",
)


class FailpointRaised(Exception):
    """What the action `raise` raises."""


@dataclass(slots=True)
class _Armed:
    action: str
    argument: float
    passage: int
    seen: int = 0


def _parse(text: str) -> dict[str, _Armed]:
    points: dict[str, _Armed] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, action = item.partition("=")
        action, _, passage = action.partition("@")
        verb, _, argument = action.partition(":")
        if name not in NAMES or verb not in ("kill", "delay", "raise"):
            raise ValueError(f"unknown failpoint {item!r}; the names are {', '.join(NAMES)}")
        points[name] = _Armed(verb, float(argument or 0), int(passage or 0))
    return points


armed: dict[str, _Armed] = _parse(os.environ.get("TOLLWAY_FAILPOINTS", ""))


def hit(name: str) -> None:
    """Pass the failpoint `name`; callers guard with `if failpoints.armed:` on hot paths."""
    point = armed.get(name)
    if point is None:
        return
    point.seen += 1
    if point.passage and point.seen != point.passage:
        return
    if point.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if point.action == "delay":
        time.sleep(point.argument)
    if point.action == "raise":
        raise FailpointRaised(name)


def arm(text: str) -> None:
    """Arm this process anew, in the words of TOLLWAY_FAILPOINTS; the empty text disarms. Raises ValueError."""
    points = _parse(text)
    armed.clear()
    armed.update(points)
