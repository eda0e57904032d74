"""P5 in virtual time: many processes against a true token bucket, through deaths, crashes, silence and lost news."""

import asyncio
from typing import Any

import pytest

from capacity_kit import Load, Town, virtually
from tollway.llm.capacity.costs import Cost, Flow
from tollway.simulator.buckets import Charge

SATURATED_S = 10.0
MEASURED_S = 60.0
MIX = Load((50, 2000), (50, 1000))


def flow(tenant: str, lane: str = "standard", agent: str = "agent") -> Flow:
    return Flow(lane, tenant, agent)


async def minute(town: Town, seconds: float = MEASURED_S) -> tuple[float, float]:
    """Let the town run in, then run on; when the measured time began and ended."""
    await asyncio.sleep(SATURATED_S)
    since = town.clock.monotonic()
    await asyncio.sleep(seconds)
    return since, town.clock.monotonic()


def holds(town: Town, since: float, until: float) -> None:
    """P5, from the first call on for refusals."""
    refused, calls = town.refused(0.0, until)
    assert refused <= max(1, calls // 1000)
    assert town.used(since, until) >= 0.97


@pytest.mark.parametrize("lost_news", [0.0, 0.5], ids=["", "lost-news"])
@pytest.mark.parametrize(
    ("processes", "limits", "depth_s", "load"),
    [
        pytest.param(1, {"rpm": 600}, 1.0, Load(), id="600rpm-1"),
        pytest.param(4, {"rpm": 600}, 1.0, Load(), id="600rpm-4"),
        pytest.param(32, {"rpm": 600}, 6.4, Load(), id="600rpm-32"),
        pytest.param(4, {"rpm": 60}, 8.0, Load(), id="60rpm-4"),
        pytest.param(4, {"rpm": 6000}, 1.0, Load(), id="6000rpm-4"),
        pytest.param(4, {"rpm": 6000, "tpm": 600_000}, 1.0, MIX, id="tpm-4"),
        pytest.param(4, {"tpm": 120_000}, 12.0, MIX, id="small-tpm-4"),
        pytest.param(32, {"rpm": 6000, "tpm": 600_000}, 10.0, MIX, id="tpm-32"),
        pytest.param(4, {"tpm": 600_000}, 1.0, Load((50, 2000), (50, 1000), 1.5), id="tpm-overestimated"),
        pytest.param(4, {"tpm": 600_000}, 1.0, Load((50, 2000), (50, 1000), 0.6), id="tpm-underestimated"),
    ],
)
def test_the_limit_is_used_and_not_hit(
    processes: int, limits: dict[str, int], depth_s: float, load: Load, lost_news: float
) -> None:
    """P5: >= 97 % of the binding limit from 10 s on, refusals <= max(1, 0.1 %), tenants within 80 % of their part."""

    async def story(town: Town) -> None:
        for number in range(processes):
            (await town.process()).flood(flow(f"t{number % 3}"), 100 if processes < 4 else 25, load)
        since, until = await minute(town)
        holds(town, since, until)
        by_tenant = town.by(lambda seen: seen.flow.tenant, since, until)
        fair = sum(by_tenant.values()) / min(processes, 3)
        assert min(by_tenant.values()) >= 0.8 * fair

    virtually(story, limits=limits, depth_s=depth_s, lost_news=lost_news)


def test_six_calls_a_minute_over_four_processes() -> None:
    """P5: at 6 requests a minute every call goes, none is refused, and no process or tenant waits in vain."""

    async def story(town: Town) -> None:
        for number in range(4):
            (await town.process()).flood(flow(f"t{number % 3}"), 5)
        since, until = await minute(town, 600.0)
        assert town.used(since, until) >= 0.97
        assert town.refused(0.0, until)[0] == 0
        by_tenant = town.by(lambda seen: seen.flow.tenant, since, until)
        assert min(by_tenant.values()) >= 0.8 * sum(by_tenant.values()) / 3

    virtually(story, limits={"rpm": 6}, depth_s=80.0)


@pytest.mark.parametrize(("limits", "depth_s"), [({"rpm": 600}, 1.0), ({"rpm": 60}, 8.0)], ids=["rates", "singles"])
def test_a_flood_in_all_processes_takes_no_more_than_a_tenant_in_one(limits: dict[str, int], depth_s: float) -> None:
    """P5, P7: a tenant that floods four processes and one with few callers in one of them get equal shares."""

    async def story(town: Town) -> None:
        crew = [await town.process() for _ in range(4)]
        for process in crew:
            process.flood(flow("flood"), 40)
        crew[0].flood(flow("modest"), 8)
        since, until = await minute(town)
        holds(town, since, until)
        by_tenant = town.by(lambda seen: seen.flow.tenant, since, until)
        assert by_tenant["modest"] >= 0.9 * sum(by_tenant.values()) / 2

    virtually(story, limits=limits, depth_s=depth_s)


def test_urgent_lanes_go_first_but_for_the_others_shares_and_agents_are_equal() -> None:
    """P6, P7: flooded by all, interactive work has the limit but for the shares of standard and batch work; two agents
    of a tenant in different processes halve."""

    async def story(town: Town) -> None:
        crew = [await town.process() for _ in range(4)]
        for process in crew:
            process.flood(flow("bulk", "batch"), 40)
        crew[1].flood(flow("x", "interactive", "one"), 10)
        crew[2].flood(flow("x", "interactive", "two"), 30)
        crew[3].flood(flow("y"), 10)
        since, until = await minute(town)
        holds(town, since, until)
        lanes = town.by(lambda seen: seen.flow.lane, since, until)
        whole = sum(lanes.values())
        for lane, part in {"interactive": 0.7, "standard": 0.2, "batch": 0.1}.items():
            assert lanes[lane] / whole == pytest.approx(part, rel=0.1)
        agents = town.by(lambda seen: seen.flow.agent, since, until)
        assert agents["one"] == pytest.approx(agents["two"], rel=0.1)

    virtually(story, limits={"rpm": 600})


def test_the_share_of_a_killed_process_is_back_within_its_lease() -> None:
    """P5: 3 s after a kill the survivors use all of the limit, and were never refused."""

    async def story(town: Town) -> None:
        crew = [await town.process() for _ in range(4)]
        for process in crew:
            process.flood(flow("t"), 60)
        await asyncio.sleep(20.3)
        crew[0].kill()
        killed = town.clock.monotonic()
        await asyncio.sleep(10)
        assert town.used(killed, killed + 1) < 0.8
        assert town.used(killed + 3.1, killed + 10) >= 0.97
        assert town.refused(0.0, killed + 10)[0] == 0

    virtually(story, limits={"rpm": 6000})


@pytest.mark.parametrize("seed", range(3))
def test_floods_that_come_and_go_waste_little(seed: int) -> None:
    """P5: while every two seconds one process falls silent and another starts to flood, the rest use the limit."""

    async def story(town: Town) -> None:
        (await town.process()).flood(flow("steady"), 80)
        crew = [await town.process() for _ in range(4)]
        since = town.clock.monotonic() + SATURATED_S
        for turn in range(35):
            town.random.choice(crew).quieten()
            town.random.choice(crew).flood(flow(f"t{turn % 3}"), 40)
            await asyncio.sleep(2)
        holds(town, since, town.clock.monotonic())

    virtually(story, limits={"rpm": 6000}, seed=seed)


def test_processes_that_start_one_after_another_share_at_once() -> None:
    """P5: a newcomer has its share within a second, and the limit is not exceeded meanwhile."""

    async def story(town: Town) -> None:
        for number in range(6):
            (await town.process()).flood(flow(f"t{number}"), 60)
            await asyncio.sleep(5)
            now = town.clock.monotonic()
            last = town.by(lambda seen: seen.flow.tenant, now - 4, now)
            assert last[f"t{number}"] >= 0.8 * sum(last.values()) / (number + 1)
        assert town.refused(0.0, town.clock.monotonic())[0] == 0

    virtually(story, limits={"rpm": 6000})


def test_leases_lost_in_a_crash_are_neither_exceeded_nor_forgotten() -> None:
    """P5, learning mode: all leases are forgotten; nobody is refused, the old ones go on, a newcomer gets its part."""

    async def story(town: Town) -> None:
        for number in range(4):
            (await town.process()).flood(flow(f"t{number}"), 60)
        await asyncio.sleep(20)
        town.store.lose()
        lost = town.clock.monotonic()
        (await town.process()).flood(flow("new"), 60)
        await asyncio.sleep(20)
        assert town.used(lost, lost + 3) >= 0.95
        assert town.by(lambda seen: seen.flow.tenant, lost, lost + 2.5).get("new", 0) == 0
        by_tenant = town.by(lambda seen: seen.flow.tenant, lost + 5, lost + 20)
        assert by_tenant["new"] == pytest.approx(sum(by_tenant.values()) / 5, rel=0.1)
        assert town.refused(0.0, lost + 20)[0] == 0

    virtually(story, limits={"rpm": 6000})


def test_out_of_reach_of_the_store_leases_run_out() -> None:
    """P5: without the store nothing is spent after the leases' end; once it is back, so is the limit's use."""

    async def story(town: Town) -> None:
        for number in range(4):
            (await town.process()).flood(flow(f"t{number}"), 60)
        await asyncio.sleep(20)
        town.store.reachable = False
        cut = town.clock.monotonic()
        await asyncio.sleep(10)
        assert town.used(cut + 3.1, cut + 10) < 0.03
        town.store.reachable = True
        await asyncio.sleep(12)
        assert town.used(cut + 12, cut + 22) >= 0.97
        assert town.refused(0.0, cut + 22)[0] == 0

    virtually(story, limits={"rpm": 6000})


def test_a_store_that_answers_nonsense_is_asked_again() -> None:
    """What cannot be read of the store, as another version may have written it, ends no exchange for good."""

    async def story(town: Town) -> None:
        one = await town.process()
        town.store.broken = ValueError("of another version")
        one.flood(flow("a"), 4)
        await asyncio.sleep(5)
        assert not town.seen
        town.store.broken = None
        await asyncio.sleep(5)
        assert town.seen

    virtually(story, limits={"rpm": 600})


def test_outsiders_on_the_same_key_slow_all_down_until_they_leave() -> None:
    """AIMD: with half the limit taken by others most calls still pass; afterwards the limit is used whole again."""

    async def story(town: Town) -> None:
        for number in range(4):
            (await town.process()).flood(flow(f"t{number}"), 60)
        await asyncio.sleep(15)

        async def outsider() -> None:
            while True:
                await asyncio.sleep(0.02)
                town.true.admit(Charge(1), town.clock.monotonic())

        other = asyncio.get_running_loop().create_task(outsider())
        since = town.clock.monotonic()
        await asyncio.sleep(30)
        refused, calls = town.refused(since + 5, since + 30)
        assert refused < 0.06 * calls
        assert 0.35 < town.used(since + 5, since + 30) < 0.6
        other.cancel()
        await asyncio.sleep(40)
        assert town.used(since + 50, since + 70) >= 0.97
        assert town.processes[0].limiter.throttled_total > 0

    virtually(story, limits={"rpm": 6000})


def test_an_idle_route_asks_nothing() -> None:
    """P9: ten seconds after the last call the leases are back, and for hours nothing is asked of the store."""

    async def story(town: Town) -> None:
        crew = [await town.process() for _ in range(3)]
        for process in crew:
            process.flood(flow("t"), 5)
        await asyncio.sleep(5)
        for process in crew:
            process.quieten()
        await asyncio.sleep(15)
        assert not town.store.leases["route"]
        asked = town.store.exchanges
        await asyncio.sleep(3600)
        assert town.store.exchanges == asked
        crew[0].flood(flow("t"), 1)
        await asyncio.sleep(0.5)
        assert town.seen[-1].at > town.clock.monotonic() - 0.5

    virtually(story, limits={"rpm": 6000, "tpm": 600_000, "tpd": 10_000_000, "concurrency": 50})


@pytest.mark.parametrize(("slots", "processes"), [(2, 4), (1, 3), (5, 3), (20, 4)])
def test_concurrency_is_kept_used_and_shared(slots: int, processes: int) -> None:
    """P5 for calls at once: never more than the limit, nearly always as many, tenants alike, fewer slots than
    processes included."""

    async def story(town: Town) -> None:
        for number in range(processes):
            (await town.process()).flood(flow(f"t{number}"), 12)
        since, until = await minute(town)
        assert town.running_max <= slots
        calls = sum(seen.at > since for seen in town.seen)
        assert calls * town.latency_s / MEASURED_S >= 0.85 * slots
        by_tenant = town.by(lambda seen: seen.flow.tenant, since, until)
        assert min(by_tenant.values()) >= 0.8 * sum(by_tenant.values()) / processes

    virtually(story, limits={"concurrency": slots}, latency_s=0.5)


def test_the_tokens_of_a_day_are_used_to_the_last_and_open_again_at_midnight() -> None:
    """Of a day's tokens all are used by whoever needs them and no more; then calls are told when the route opens."""

    async def story(town: Town) -> None:
        crew = [await town.process() for _ in range(3)]
        for process in crew:
            process.flood(flow(f"t{process.number}"), 3)
        await asyncio.sleep(50)
        assert sum(seen.tokens for seen in town.seen) == 50_000
        assert town.errors[-1].code == "no_capacity"
        assert town.errors[-1].retry_after_s == pytest.approx(10, abs=0.5)
        limiter = crew[0].limiter
        assert limiter.wait_s(Cost(100, 100, 100)) == float("inf")
        assert limiter.opens_at is not None
        assert limiter.opens_at % 86_400 == 0
        await asyncio.sleep(30)
        assert 50_000 < sum(seen.tokens for seen in town.seen) <= 100_000
        assert any(seen.at > town.clock.monotonic() - 20 for seen in town.seen)

    virtually(story, limits={"tpd": 50_000}, day_s=86_400 - 60)


def test_an_unhurried_route_keeps_nobody_waiting() -> None:
    """P9: at half of a large limit, nearly every call is decided locally, and none waits a tenth of a second."""

    async def story(town: Town) -> None:
        crew = [await town.process() for _ in range(4)]
        waits: list[float] = []

        async def one(**_: Any) -> None:
            asked = town.clock.monotonic()
            process, who = town.random.choice(crew), flow(f"t{town.random.randrange(5)}")
            limiter, cost = process.limiter, Cost(100, 100, 100)
            hold = limiter.try_take(cost, who) or await limiter.take(cost, who, asked + 10)
            waits.append(town.clock.monotonic() - asked)
            await asyncio.sleep(0.2)
            hold.settle(100, 100)

        until = town.clock.monotonic() + 60
        callers = []
        while town.clock.monotonic() < until:
            callers.append(asyncio.get_running_loop().create_task(one()))
            await asyncio.sleep(town.random.expovariate(50))
        await asyncio.gather(*callers)
        assert sum(wait == 0 for wait in waits) >= 0.97 * len(waits)
        assert max(waits) < 0.1
        assert town.store.exchanges < 4 * 60 * 2

    virtually(story, limits={"rpm": 6000})
