"""What one seed means: the runs to submit and the harm to do. Pure: the same seed is the same plan, anywhere."""

import random
from dataclasses import dataclass

AGENTS = ("one", "three", "gather", "task", "once", "flaky", "reject")
API_POINTS = ("accept.before", "accept.after")
WORKER_POINTS = (
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


@dataclass(frozen=True, slots=True)
class Submit:
    """One run to submit, `at_s` after the start. `keyed` ones are submitted twice; `cancel_after_s` None: never."""

    number: int
    agent: str
    at_s: float
    keyed: bool
    delay_s: float = 0.0
    cancel_after_s: float | None = None

    @property
    def expected(self) -> frozenset[str]:
        """The states the run may end in."""
        states = {"failed"} if self.agent == "reject" else {"succeeded"}
        if self.agent == "once":
            states.add("failed")
        if self.cancel_after_s is not None:
            states.add("cancelled")
        return frozenset(states)


@dataclass(frozen=True, slots=True)
class Harm:
    """One deed against a process, `at_s` after the start: kill, term, stop (for `for_s`), crash of the database."""

    deed: str
    role: str
    at_s: float
    for_s: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.for_s:.2f} s" if self.for_s else ""
        return f"{self.deed} {self.role} at {self.at_s:.2f} s{lasting}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A seed's whole story. `points` are the failpoints each role's processes get, one an incarnation, in order.

    `told` says whether the death of a process is reported, as `tollway up` does, or left for its lease to tell.
    """

    seed: int
    workers: int
    submits: tuple[Submit, ...]
    harms: tuple[Harm, ...]
    points: dict[str, tuple[str, ...]]
    told: bool
    latency_s: float

    @property
    def crashes_database(self) -> bool:
        """Whether the seed needs a Postgres server of its own."""
        return any(harm.deed == "crash" for harm in self.harms)

    def lines(self) -> list[str]:
        """The plan for people."""
        runs = ", ".join(f"{submit.agent}@{submit.at_s:.2f}" for submit in self.submits)
        points = "; ".join(f"{role}: {' then '.join(specs)}" for role, specs in self.points.items() if specs)
        return [
            f"{self.workers} worker(s), provider latency {self.latency_s * 1000:.0f} ms, deaths told: {self.told}",
            f"runs: {runs}",
            f"failpoints: {points or 'none'}",
            f"harms: {'; '.join(map(str, self.harms)) or 'none'}",
        ]


def plan_of(seed: int) -> Plan:
    """The plan of a seed."""
    dice = random.Random(seed)
    workers = dice.choice((1, 1, 2))
    submits = tuple(_submit(dice, number) for number in range(1, dice.randint(4, 12) + 1))
    harms: list[Harm] = []
    points: dict[str, list[str]] = {"api": [], "worker": []}
    for _ in range(dice.choice((1, 1, 2, 2, 3))):
        _add_harm(dice, harms, points, workers)
    return Plan(
        seed,
        workers,
        submits,
        tuple(sorted(harms, key=lambda harm: harm.at_s)),
        {role: tuple(specs) for role, specs in points.items()},
        dice.random() < 0.5,
        dice.uniform(0.02, 0.05),
    )


def _submit(dice: random.Random, number: int) -> Submit:
    return Submit(
        number,
        dice.choice(AGENTS),
        round(dice.uniform(0, 0.4), 3),
        dice.random() < 0.7,
        round(dice.uniform(0.05, 0.3), 3) if dice.random() < 0.15 else 0.0,
        round(dice.uniform(0, 0.3), 3) if dice.random() < 0.12 else None,
    )


def _add_harm(dice: random.Random, harms: list[Harm], points: dict[str, list[str]], workers: int) -> None:
    at_s = round(dice.uniform(0.02, 0.6), 3)
    worker = f"worker-{dice.randint(1, workers)}"
    chance = dice.random()
    if chance < 0.50:
        points["worker"].append(f"{dice.choice(WORKER_POINTS)}=kill@{dice.randint(1, 6)}")
    elif chance < 0.62:
        points["api"].append(f"{dice.choice(API_POINTS)}=kill@{dice.randint(1, 4)}")
    elif chance < 0.72:
        harms.append(Harm("kill", worker, at_s))
    elif chance < 0.77:
        harms.append(Harm("kill", "api", at_s))
    elif chance < 0.82:
        harms.append(Harm("kill", "keeper", at_s))
    elif chance < 0.90:
        harms.append(Harm("stop", worker, at_s, round(dice.uniform(0.9, 1.4), 3)))
    elif chance < 0.95:
        harms.append(Harm("term", worker, at_s))
    else:
        harms.append(Harm("crash", "postgres", at_s))
