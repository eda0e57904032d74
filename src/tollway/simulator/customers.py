"""The demo's workload: customers' messages for some tenants in three lanes, of which some have come before.

Pure: the same seed makes the same work. How often messages repeat is taken from real traffic, not chosen.

- REPEATED: in the MultiDoGO insurance chats (AWS Labs) 712 of 2,345 customers' messages of at least 30 characters,
  30.4 %, are letter for letter one that came before. (Banking77, whose texts are used here, was cleaned of repeats.)
- SENT_AGAIN: in the Azure LLM inference trace of 2023 9.6 % of requests have the prompt length of one less than a
  second before, where 1.3 % would by chance. Such messages are taken for ones that were sent twice.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

LANES = ("interactive", "standard", "batch")
LANE_SHARES = {"interactive": 0.2, "standard": 0.3, "batch": 0.5}
REPEATED = 0.30
SENT_AGAIN = 0.08
"""Shares of all messages; those that were sent again are among the repeated ones."""

_A_SECOND = 120
_CUSTOMERS = 97
_STEP = 7919  # a prime: neighbours in the file, which share an intent, come apart
_SEED = 77


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `row` is its text's place among the texts."""

    text: str
    row: int
    lane: str
    tenant: str
    customer: str


def messages(texts: Sequence[str], tenants: Sequence[str], count: int, seed: int = _SEED) -> list[Message]:
    """`count` messages in the order in which they come, lanes mixed by share, tenants in turn.

    One that was sent again has the customer, the lane and the tenant of the first; another that came before has its
    tenant alone. When the texts are used up they come again with a number, as messages of their own.
    """
    chance = random.Random(seed)
    lanes = [lane for lane in LANES for _ in range(round(count * LANE_SHARES[lane]))][:count]
    lanes += [LANES[-1]] * (count - len(lanes))
    chance.shuffle(lanes)
    made: list[Message] = []
    before: dict[str, list[Message]] = {tenant: [] for tenant in tenants}
    fresh = 0
    for number, lane in enumerate(lanes):
        tenant, drawn = tenants[number % len(tenants)], chance.random()
        just_now = [one for one in made[-_A_SECOND:] if (one.tenant, one.lane) == (tenant, lane)]
        customer = f"customer-{number % _CUSTOMERS}"
        if drawn < SENT_AGAIN and just_now:
            message = chance.choice(just_now)
        elif drawn < REPEATED and before[tenant]:
            message = replace(chance.choice(before[tenant]), lane=lane, customer=customer)
        else:
            again, row = divmod(fresh, len(texts))
            row = row * _STEP % len(texts)
            text = f"{texts[row]} ({again + 1})" if again else texts[row]
            message = Message(text, row, lane, tenant, customer)
            fresh += 1
        made.append(message)
        before[tenant].append(message)
    return made


def repeated(work: Sequence[Message]) -> int:
    """How many of the messages their tenant had sent before."""
    return len(work) - len({(one.tenant, one.text) for one in work})
