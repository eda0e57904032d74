"""Whether this process takes new work: not while it is stopping, and not when it has more than it can do."""

import asyncio
import time
from collections.abc import Callable

from tollway.ingress.problems import draining, overloaded
from tollway.ingress.services import ApiOptions
from tollway.queue.admission import Shedder, Strain
from tollway.record.accept import Accepts

_PROBE_S = 0.25
BEARABLE = Strain(lag_s=0.3, write_s=1.5)
"""What is borne without turning anybody away, for a moment at least."""


class Gatekeeper:
    """Closes the door before latency breaks: to a share of requests under strain, to all when far behind.

    The loop's lag is what a timer comes too late.
    """

    def __init__(self, accepts: Accepts, options: ApiOptions, on_lag: Callable[[float], None]) -> None:
        self._accepts = accepts
        self._on_lag = on_lag
        self._options = options
        self._draining = False
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = 0.0
        self._shedder = Shedder(BEARABLE)
        self.lag_s = 0.0

    @property
    def draining(self) -> bool:
        """Whether the process is stopping."""
        return self._draining

    def start(self) -> None:
        """Begin to measure."""
        self._draining = False
        if self._timer is None:
            self._set()

    def drain(self) -> None:
        """Take no new work from now on."""
        self._draining = True

    def stop(self) -> None:
        """End measuring; a second stop is nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check_open(self) -> None:
        """Raise Problem `draining` or `overloaded`."""
        if self._draining:
            raise draining()
        waiting_max = self._options.accepts_waiting_max
        if len(self._accepts) >= waiting_max:
            raise overloaded("accepts", waiting_max, f"{waiting_max} requests wait to be written already.")
        if self.lag_s > self._options.loop_lag_max_s:
            raise overloaded("loop", waiting_max, f"This process lags {self.lag_s:.1f} s behind its work.")
        if self._shedder.sheds():
            raise overloaded("process", waiting_max, "This process has more requests than it can serve in time.")

    def _set(self) -> None:
        self._due_at = time.monotonic() + _PROBE_S
        self._timer = asyncio.get_running_loop().call_later(_PROBE_S, self._probe)

    def _probe(self) -> None:
        self.lag_s = max(0.0, time.monotonic() - self._due_at)
        self._on_lag(self.lag_s)
        self._shedder.look(Strain(self.lag_s, self._accepts.wait_s))
        self._set()
