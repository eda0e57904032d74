"""Which tier serves a call, after the shifts an operator has set. Pure."""

from collections.abc import Iterable

from tollway.domain.llm import Caller
from tollway.domain.shifts import Shift


def shifted(shifts: Iterable[Shift], caller: Caller, tier: str) -> str:
    """The tier that serves the caller's call for `tier`: of the shifts that fit, the one that names most, once.

    Among those that name as much the first wins. What it leads to is not shifted again; one that leads to the tier it
    came from exempts the caller from a wider one.
    """
    found, named_most = tier, -1
    for shift in shifts:
        if shift.from_tier != tier:
            continue
        named = 0
        for wanted, has in (
            (shift.tenant, caller.tenant),
            (shift.agent, caller.agent),
            (shift.task_type, caller.task_type),
        ):
            if wanted is None:
                continue
            if wanted != has:
                break
            named += 1
        else:
            if named > named_most:
                found, named_most = shift.to_tier, named
    return found
