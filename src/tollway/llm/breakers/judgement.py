"""Whether the calls of a window mean trouble. Pure.

The whole window is held to the settings. The latest calls alone are enough where they leave no doubt, so that a minute
of good ones does not hide that a route has just died; a lower bar for so few would open sound routes by chance.
"""

from tollway.llm.breakers.parts import BreakerOptions
from tollway.llm.breakers.window import Tally, Window

_SLOW_SHARE = 0.01
_SLOW_SHARE_FEW = 0.05
_SLOW_SHARE_LATEST = 0.2
_SLOW_MIN = 2
_FEW = 100
_RAMP_CALLS_MIN = 3


def trouble(window: Window, options: BreakerOptions, now: float) -> str:
    """What is wrong with a closed route, in words; empty if nothing is.

    Slow is a p99 above the budget: more than 1 % of the calls, and of fewer than a hundred 5 % and two at least, for
    the p99 of a few calls is one call's luck.
    """
    whole = window.whole(now)
    if whole.calls < options.calls_min:
        return ""
    if whole.failed >= options.failure_share * whole.calls:
        return _failures(whole)
    slow_min = max(_SLOW_MIN, _SLOW_SHARE_FEW * min(whole.calls, _FEW))
    if whole.slow >= slow_min and whole.slow > _SLOW_SHARE * whole.calls:
        return _slowness(whole, options)
    latest = window.recent(now, options.calls_min)
    if latest.failed >= (1 + options.failure_share) / 2 * latest.calls:
        return _failures(latest)
    if latest.slow >= max(_SLOW_MIN, _SLOW_SHARE_LATEST * latest.calls):
        return _slowness(latest, options)
    return ""


def relapse(window: Window, options: BreakerOptions, now: float) -> str:
    """What is wrong with a route that is being tried again: a quarter of the calls is enough to tell."""
    whole = window.whole(now)
    bad = whole.failed + whole.slow
    if whole.calls >= max(_RAMP_CALLS_MIN, options.calls_min // 4) and bad >= options.failure_share * whole.calls:
        return f"{bad} of {whole.calls} calls failed or were slow when it was tried again"
    return trouble(window, options, now)


def _failures(tally: Tally) -> str:
    return f"{tally.failed} of {tally.calls} calls failed"


def _slowness(tally: Tally, options: BreakerOptions) -> str:
    if options.latency_per_token_max_s is None:
        budget = f"{options.latency_p99_max_s:g} s"
    else:
        budget = f"{options.latency_per_token_max_s:g} s a token"
    return f"{tally.slow} of {tally.calls} calls took longer than {budget}"
