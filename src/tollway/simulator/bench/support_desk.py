"""The demo's workload as the benchmark runs it: its agent, tiers at real prices, messages handed in as they come."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tollway.simulator.bench import stock
from tollway.simulator.bench.project import Project, RouteSetup
from tollway.simulator.bench.stack import Stack
from tollway.simulator.bench.stock import RunLine
from tollway.simulator.customers import Message

AGENT = "bench_triage"
TENANTS = ("northbank", "citybank", "smallbank")
SLOTS = 100
ARRIVALS_PER_S = 60.0
"""Messages of the interactive and the standard lane; those of the batch lane are handed in at once."""

PRICES_FROM = "2025-04-14"
MODELS = {
    "fast": ("gpt-4.1-nano", {"input_usd_per_mtok": 0.10, "output_usd_per_mtok": 0.40}),
    "capable": ("gpt-4.1-mini", {"input_usd_per_mtok": 0.40, "output_usd_per_mtok": 1.60}),
    "powerful": ("gpt-4.1", {"input_usd_per_mtok": 2.00, "output_usd_per_mtok": 8.00}),
}
"""A small, a middle and a large model of one vendor at its list prices; a test holds them to genai-prices."""

OUTPUT_TOKENS = 60
PROVIDER: dict[str, Any] = {
    "latency_s": {"mean": 0.3, "law": "lognormal", "cv": 0.4},
    "output_tokens": OUTPUT_TOKENS,
    "models": {model: {"prices": price} for model, price in MODELS.values()},
}
"""The demo's provider, but that every answer is as long as the demo's are in the mean: dollars follow calls."""

AGENTS = f'''"""The agent `triage` of the examples."""

import zlib
from typing import Literal

from pydantic import BaseModel, Field

import tollway

INTENTS = [
    "card_arrival", "card_not_working", "cash_withdrawal_charge", "declined_card_payment", "exchange_rate",
    "failed_transfer", "lost_or_stolen_card", "pending_top_up", "request_refund", "verify_my_identity",
]


class Verdict(BaseModel):
    intent: str = Field(json_schema_extra={{"enum": INTENTS}})
    urgency: Literal["low", "normal", "high"]


@tollway.agent(name="{AGENT}", tier="fast", lane="standard", timeout=60, max_attempts=3)
async def triage(run: tollway.Run, ticket: dict[str, str]) -> dict[str, str]:
    verdict = await run.llm(
        f"A customer of a bank wrote:\\n\\n{{ticket['text']}}\\n\\nWhich intent is it, and how urgent?",
        returns=Verdict,
        max_tokens=60,
        name="classify",
    )
    account = await run.task("look_up_customer", look_up_customer, ticket["customer"])
    reply = await run.llm(
        f"Draft a short, friendly reply to a customer on the {{account['plan']}} plan. Their intent is "
        f"{{verdict.parsed.intent}}. They wrote:\\n\\n{{ticket['text']}}",
        tier="capable",
        max_tokens=200,
        name="draft_reply",
    )
    return {{"intent": verdict.parsed.intent, "plan": account["plan"], "reply": reply.text}}


async def look_up_customer(customer: str) -> dict[str, str]:
    plan = ("standard", "plus", "business")[zlib.crc32(customer.encode()) % 3]
    return {{"customer": customer, "plan": plan}}
'''
CALLS_A_RUN = 2

_TICK_S = 0.25
_LOOK_EVERY_S = 1.0
_DONE_S = 120.0


def project(llm: Mapping[str, object]) -> Project:
    """The agent on one model a tier; `llm` are keys of `[llm]`."""
    routes = [RouteSetup(model, tier, price={**price, "from": PRICES_FROM}) for tier, (model, price) in MODELS.items()]
    return Project(AGENTS, routes, {"llm": llm})


async def hand_in(stack: Stack, keys: Mapping[str, str], work: Sequence[Message]) -> int:
    """Submit each message with its tenant's key: the batch lane at once, the others as they come; how many went in."""
    bulk = [one for one in work if one.lane == "batch"]
    single = [one for one in work if one.lane != "batch"]
    accepted = await _submit(stack, keys, bulk)
    began, sent = time.monotonic(), 0
    while sent < len(single):
        due = min(len(single), int((time.monotonic() - began) * ARRIVALS_PER_S) + 1)
        accepted += await _submit(stack, keys, single[sent:due])
        sent = due
        await asyncio.sleep(_TICK_S)
    return accepted


async def ended(stack: Stack, count: int) -> list[RunLine]:
    """The runs, once so many have ended, or when there is no more waiting for them."""
    stop = time.monotonic() + _DONE_S
    while True:
        runs = await stock.read_runs(stack, agent=AGENT)
        if sum(1 for run in runs if run.ended_s is not None) >= count or time.monotonic() > stop:
            return runs
        stack.check()
        await asyncio.sleep(_LOOK_EVERY_S)


def body(message: Message) -> dict[str, Any]:
    """What is submitted of a message."""
    return {"agent": AGENT, "lane": message.lane, "input": {"text": message.text, "customer": message.customer}}


async def _submit(stack: Stack, keys: Mapping[str, str], work: Sequence[Message]) -> int:
    sent = [
        stock.submit(stack, key, bodies)
        for tenant, key in keys.items()
        if (bodies := [body(one) for one in work if one.tenant == tenant])
    ]
    return sum(await asyncio.gather(*sent))
