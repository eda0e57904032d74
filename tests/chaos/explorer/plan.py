"""What happens in one exploration: drawn from its seed and from nothing else."""

from dataclasses import dataclass
from random import Random

API, KEEPER, WORKERS = "api", "keeper", ("worker-1", "worker-2")
LEASE_TTL_S = 0.75
HEARTBEAT_S = 0.15

_API_POINTS = ("accept.before", "accept.after")
_WORKER_POINTS = (
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
_AGENTS = ("one_call", "three_calls", "branches", "task_and_call", "careful", "careful_branches", "flaky")


@dataclass(frozen=True, slots=True)
class Submit:
    """A request at `at_s`; the moments of `again_at_s` repeat it under its key. `cancel_at_s` asks for its end."""

    tag: str
    agent: str
    lane: str
    at_s: float
    key: str | None
    again_at_s: tuple[float, ...] = ()
    delay_s: float = 0.0
    cancel_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What befalls a role at `at_s`: `kill`, `term`, `stop` (for `hold_s`), `postmaster` or `backend` (of Postgres)."""

    at_s: float
    what: str
    role: str = ""
    hold_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One exploration. `lives` are the failpoints of each role's first, second … process; later ones have none.

    `told` says whether the record is told of dead processes at once, as `tollway up` does, or must find out itself.
    """

    seed: int
    submits: tuple[Submit, ...]
    disturbances: tuple[Disturbance, ...]
    lives: dict[str, tuple[str, ...]]
    latency_s: float
    grace_s: float
    told: bool

    @property
    def roles(self) -> tuple[str, ...]:
        """The processes of this exploration."""
        return tuple(self.lives)

    @property
    def crashes_postgres(self) -> bool:
        """Whether it needs a server of its own."""
        return any(one.what in ("postmaster", "backend") for one in self.disturbances)


def plan(seed: int) -> Plan:
    """The plan of a seed."""
    random = Random(seed)
    workers = WORKERS[: random.choice((1, 2, 2))]
    submits = tuple(_submit(random, seed, number) for number in range(random.randint(4, 12)))
    lives: dict[str, tuple[str, ...]] = {
        API: tuple(_points(random, _API_POINTS, 4) for _ in range(random.choice((0, 0, 0, 1, 1, 2)))),
        KEEPER: (),
    }
    kills = random.choice((0, 1, 1, 1, 2, 2, 3))
    for worker in workers:
        share = kills if worker == workers[-1] else random.randint(0, kills)
        kills -= share
        lives[worker] = tuple(_points(random, _WORKER_POINTS, 6) for _ in range(share))
    return Plan(
        seed,
        submits,
        tuple(sorted(_disturbances(random, workers), key=lambda one: one.at_s)),
        lives,
        random.choice((0.005, 0.02, 0.05)),
        random.choice((0.02, 0.3)),
        random.random() < 0.5,
    )


def _submit(random: Random, seed: int, number: int) -> Submit:
    at_s = random.uniform(0, 0.6) * random.choice((0, 1))
    key = f"s{seed}-{number}" if random.random() < 0.8 else None
    again = tuple(at_s + random.choice((0.0, random.uniform(0, 0.8))) for _ in range(random.choice((0, 0, 1, 2))))
    return Submit(
        f"{seed}/{number}",
        random.choice(_AGENTS),
        random.choice(("interactive", "standard", "batch")),
        at_s,
        key,
        again if key else (),
        random.choice((0.0, 0.0, 0.0, 0.3)),
        at_s + random.uniform(0, 0.5) if random.random() < 0.12 else None,
    )


def _points(random: Random, names: tuple[str, ...], passages: int) -> str:
    return f"{random.choice(names)}=kill@{random.randint(1, passages)}"


def _disturbances(random: Random, workers: tuple[str, ...]) -> list[Disturbance]:
    found = []
    for _ in range(random.choice((0, 1, 1, 2))):
        role = random.choice((*workers, *workers, API, KEEPER))
        found.append(Disturbance(random.uniform(0.05, 1.0), random.choice(("kill", "kill", "kill", "term")), role))
    if random.random() < 0.2:
        hold_s = random.uniform(1.2, 2.5) * LEASE_TTL_S
        found.append(Disturbance(random.uniform(0.05, 0.6), "stop", random.choice(workers), hold_s))
    if random.random() < 0.08:
        found.append(Disturbance(random.uniform(0.1, 0.6), random.choice(("postmaster", "backend"))))
    return found
