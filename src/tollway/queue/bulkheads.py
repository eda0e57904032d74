"""Bulkheads: no agent and no tenant holds all of a lane's slots in a process, so what hangs leaves some free. Pure."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Bulkheads:
    """The part of the slots within a lane's reach that one agent, one tenant may hold (1: all of them)."""

    agent_share_max: float = 1.0
    tenant_share_max: float = 1.0


@dataclass(slots=True)
class Held:
    """What a process runs now: `lanes` counts by lane, the others within each lane by agent and by tenant."""

    lanes: Counter[str] = field(default_factory=Counter)
    _agents: dict[str, Counter[str]] = field(default_factory=dict)
    _tenants: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, lane: str, agent: str, tenant: str) -> None:
        """A run takes a slot."""
        self.lanes[lane] += 1
        self._agents.setdefault(lane, Counter())[agent] += 1
        self._tenants.setdefault(lane, Counter())[tenant] += 1

    def free(self, lane: str, agent: str, tenant: str) -> None:
        """A run that was added gives its slot up."""
        self.lanes[lane] -= 1
        for counts, key in ((self._agents[lane], agent), (self._tenants[lane], tenant)):
            counts[key] -= 1
            if counts[key] <= 0:
                del counts[key]

    def agents_room(self, lane: str, agents: Iterable[str], room: int, share_max: float) -> dict[str, int]:
        """How many more runs of each agent may start where `room` more of the lane may."""
        most = _most(self.lanes[lane] + room, share_max)
        held = self._agents.get(lane, Counter())
        return {agent: min(room, max(0, most - held[agent])) for agent in agents}

    def tenants_room(self, lane: str, room: int, share_max: float) -> dict[str, int]:
        """The same for tenants, only of those who run some and may not start `room` more."""
        most = _most(self.lanes[lane] + room, share_max)
        held = self._tenants.get(lane, Counter())
        return {tenant: max(0, most - count) for tenant, count in held.items() if most - count < room}

    def newcomer_room(self, lane: str, room: int, share_max: float) -> int:
        """How many runs may start of a tenant that runs none."""
        return min(room, _most(self.lanes[lane] + room, share_max))


def _most(reach: int, share_max: float) -> int:
    return max(1, math.ceil(share_max * reach - 1e-9))  # up: a pool of a few slots is not to be halved
