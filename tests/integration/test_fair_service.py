"""P7 measured over the real database: several claimers at once, runs of mixed costs, tenants of mixed weights."""

import asyncio
import random
from collections import Counter, deque
from dataclasses import dataclass, field

import asyncpg
import pytest

from record_kit import accept_all, claim, new_claims, new_run
from tollway.queue.fair import QUANTUM
from tollway.record.claims import Claim, Claims, LineCosts
from tollway.record.database import Database
from tollway.record.tenants import put_tenant

WEIGHTS = {"a": 1.0, "b": 1.0, "c": 2.0, "d": 4.0, "e": 0.5, "f": 3.0}
COSTS = {"a": (1, 40), "b": (400, 900), "c": (100, 300), "d": (1, 900), "e": (50, 60), "f": (700, 900)}
"""What a run of a tenant costs at least and at most, thousands of nano-dollars."""

IN_FLIGHT = 8


@dataclass
class Service:
    """What each tenant was served: the true cost of its runs that were claimed, and the widest gap over the weights."""

    rng: random.Random
    served: Counter[str] = field(default_factory=Counter)
    gap: float = 0.0
    level: float = 0.0

    def cost(self, tenant: str) -> int:
        """What the next run of a tenant will have cost."""
        low, high = COSTS[tenant]
        return self.rng.randrange(low * 1000, high * 1000)

    def add(self, tenant: str, cost: int) -> None:
        """A run was claimed."""
        self.served[tenant] += cost
        shares = [self.served[name] / weight for name, weight in WEIGHTS.items()]
        self.gap, self.level = max(self.gap, max(shares) - min(shares)), min(shares)


async def serve(claims: Claims, service: Service, until_level: float) -> None:
    """A claimer with a few runs in flight, whose true costs its lines learn when they end."""
    flying: deque[tuple[Claim, int]] = deque()
    while service.level < until_level:
        got = await claims.claim("standard", {"triage": 0.0}, IN_FLIGHT)
        for held in got.claims:
            cost = service.cost(held.tenant)
            service.add(held.tenant, cost)
            flying.append((held, cost))
        costs: dict[tuple[str, str, str], LineCosts] = {}
        while len(flying) > IN_FLIGHT:
            held, cost = flying.popleft()
            line = costs.setdefault((held.lane, held.agent, held.tenant), LineCosts())
            line.due += (cost - held.est_nano) / held.weight
            line.runs += 1
            line.cost_nano += cost
        if costs:
            await claims.true_up(costs)


async def test_the_service_gap_between_backlogged_tenants_stays_small(
    database: Database, admin: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gap in true service over weight stays within 2 x quantum x the dearest run's cost / weight; it is printed."""
    for tenant, weight in WEIGHTS.items():
        await put_tenant(database, tenant, {"weight": weight})
    counts = {"a": 4000, "b": 150, "c": 900, "d": 800, "e": 800, "f": 350}
    runs = [new_run(tenant=tenant, est_nano=1_000_000) for tenant, count in counts.items() for _ in range(count)]
    await accept_all(database, runs)
    service = Service(random.Random(5))
    workers = [(await new_claims(database))[0] for _ in range(4)]
    await workers[0].enter_classes(["standard"], ["triage"])
    async with asyncio.timeout(120):
        await asyncio.gather(*(serve(claims, service, 40_000_000) for claims in workers))
    left = await admin.fetchval(
        "select min(n) from (select count(*) as n from queue where state = 0 group by tenant) l"
    )
    assert left > 0
    assert await admin.fetchval("select count(distinct tenant) from queue where state = 0") == len(WEIGHTS)
    dearest = max(high * 1000 / WEIGHTS[tenant] for tenant, (_, high) in COSTS.items())
    bound = 2 * QUANTUM * dearest
    whole, weights = sum(service.served.values()), sum(WEIGHTS.values())
    shares = {name: service.served[name] / whole / (weight / weights) for name, weight in WEIGHTS.items()}
    with capsys.disabled():
        told = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
        print(
            f"\nservice gap {service.gap / dearest:.2f} dearest runs (bound {2 * QUANTUM}); served over weight: {told}"
        )
    assert service.gap <= bound


async def test_a_tenant_with_ten_agents_gets_what_its_weight_says(database: Database) -> None:
    """Lines of one tenant share its weight: with ten backlogged agents it is served as much as a tenant with one."""
    agents = [f"a{n}" for n in range(10)]
    for tenant in ("many", "one"):
        await put_tenant(database, tenant, {})
    await accept_all(
        database,
        [new_run(tenant="many", agent=agent) for agent in agents for _ in range(40)]
        + [new_run(tenant="one", agent="a0") for _ in range(200)],
    )
    claims, _ = await new_claims(database)
    got: Counter[str] = Counter()
    for _ in range(15):
        claimed = await claims.claim("standard", dict.fromkeys(agents, 0.0), 20)
        got.update(held.tenant for held in claimed.claims)
        assert {held.weight for held in claimed.claims if held.tenant == "many"} <= {0.1}
    assert sum(got.values()) == 300
    assert abs(got["many"] - got["one"]) <= 2 * QUANTUM


async def test_a_class_that_is_new_enters_where_service_stands(database: Database, admin: asyncpg.Connection) -> None:
    """Runs of a newly deployed agent are not served before all others until years of service are made up for."""
    claims, _ = await new_claims(database)
    await claims.enter_classes(["standard"], ["triage"])
    await claims.raise_floor("standard", {"triage": 5e9})
    await claims.enter_classes(["standard", "batch"], ["triage", "newer"])
    rows = await admin.fetch("select lane, class, vtime from flow_floor order by lane, class")
    assert [tuple(row) for row in rows] == [
        ("batch", "newer", 0.0), ("batch", "triage", 0.0), ("standard", "newer", 5e9), ("standard", "triage", 5e9),
    ]  # fmt: skip
    await accept_all(database, [new_run(agent="newer")])
    assert await admin.fetchval("select vtime from flow") == 5e9


async def test_what_was_charged_before_is_no_credit_after_a_rest(database: Database, admin: asyncpg.Connection) -> None:
    """A line that idles and comes back enters at the floor; a refund of earlier charges takes it no further back."""
    claims, _ = await new_claims(database)
    await claims.enter_classes(["standard"], ["triage"])
    await accept_all(database, [new_run(est_nano=1000)])
    await claim(claims)
    await claims.mark_idle("standard", [("triage", "default")])
    await claims.raise_floor("standard", {"triage": 5000.0})
    await accept_all(database, [new_run(est_nano=1000)])
    assert await admin.fetchval("select vtime from flow") == 5000.0
    await claims.true_up({("standard", "triage", "default"): LineCosts(-990.0, 1, 10.0)})
    assert await admin.fetchval("select vtime from flow") == 5000.0


async def test_resting_sheds_no_debt(database: Database, admin: asyncpg.Connection) -> None:
    """A line that is ahead of the others keeps its virtual time however often it idles and returns."""
    claims, _ = await new_claims(database)
    await claims.enter_classes(["standard"], ["triage"])
    await accept_all(database, [new_run()])
    await claim(claims)
    await claims.true_up({("standard", "triage", "default"): LineCosts(9e9, 1, 9e9)})
    for _ in range(3):
        await claims.mark_idle("standard", [("triage", "default")])
        assert await admin.fetchval("select state from flow") == 1
        await accept_all(database, [new_run(est_nano=0)])
        assert (await admin.fetchval("select vtime from flow")) >= 9e9
        await claim(claims)
