"""A run's own budget: random calls at once never spend more than it, and use what they can of it (P4)."""

import asyncio
import random

import pytest

from tollway.domain.errors import LlmError
from tollway.runtime.run_purse import RunPurse


async def refused(purse: RunPurse, nano: int) -> bool:
    """Whether a reservation is refused at once."""
    try:
        async with asyncio.timeout(0.05):
            await purse.reserve(nano)
    except LlmError as error:
        return error.code == "budget_exhausted" and error.final
    except TimeoutError:
        return False
    return False


@pytest.mark.parametrize("seed", range(8))
async def test_calls_at_once_never_overshoot_and_use_it_up(seed: int) -> None:
    """P4: whatever calls cost of what they reserved and in whichever order they end; what is left pays for no other."""
    chance, limit, worst = random.Random(seed), 10_000, 100
    purse, most = RunPurse(limit), 0

    async def call() -> bool:
        nonlocal most
        try:
            await purse.reserve(worst)
        except LlmError:
            return False
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
        purse.give_back(worst)
        purse.spend(chance.randrange(worst + 1))
        most = max(most, purse.spent_nano)
        return True

    made = await asyncio.gather(*(call() for _ in range(600)))
    assert most <= limit
    assert all(made) or limit - purse.spent_nano < worst


async def test_who_gives_up_waiting_holds_nothing() -> None:
    """A call that is cancelled while it waits, or in the moment of its turn, leaves the money to the next."""
    purse = RunPurse(100)
    await purse.reserve(100)
    first, second = (asyncio.create_task(purse.reserve(100)) for _ in range(2))
    await asyncio.sleep(0)
    purse.give_back(100)
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()


async def test_nobody_waits_for_what_others_of_the_run_must_end() -> None:
    """Money of streams and tasks counts as spent until they end: who may be called within them is refused at once."""
    purse = RunPurse(100)
    await purse.reserve(60, firm=True)
    assert await refused(purse, 50)
    purse.give_back(60, firm=True)
    assert not await refused(purse, 50)


async def test_without_a_limit_all_is_well() -> None:
    """No limit, and calls of no cost, are never refused, nor do they wait."""
    purse = RunPurse(None)
    await purse.reserve(10**18)
    purse.give_back(10**18)
    spent = RunPurse(10)
    spent.spend(10)
    await spent.reserve(0)
    assert await refused(spent, 1)
