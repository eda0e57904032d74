"""Example agents of a bank's support desk: what the demo runs, and a place to begin.

Try them with `tollway up --agents examples.agents`.
"""

import csv
import zlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

import tollway

_SAMPLE = Path(__file__).parent / "data" / "banking77_sample.csv"
with _SAMPLE.open(encoding="utf-8", newline="") as _file:
    INTENTS = sorted({row["category"] for row in csv.DictReader(_file)})


class Ticket(BaseModel):
    """A customer's message."""

    text: str = Field(min_length=1, max_length=4_000)
    customer: str = "unknown"


class Verdict(BaseModel):
    """What a message is about."""

    intent: str = Field(json_schema_extra={"enum": list(INTENTS)})
    urgency: Literal["low", "normal", "high"]


class Answer(BaseModel):
    """A message, understood, and a reply for a person to send."""

    intent: str
    urgency: str
    plan: str
    reply: str


@tollway.agent(tier="fast", lane="standard", timeout=60, max_attempts=3)
async def triage(run: tollway.Run, ticket: Ticket) -> Answer:
    """Understand a message with a small model, look the customer up, draft a reply with a better one."""
    verdict = await run.llm(
        f"A customer of a bank wrote:\n\n{ticket.text}\n\nWhich intent is it, and how urgent?",
        returns=Verdict,
        max_tokens=60,
        name="classify",
    )
    account = await run.task("look_up_customer", look_up_customer, ticket.customer)
    reply = await run.llm(
        f"Draft a short, friendly reply to a customer on the {account['plan']} plan. Their intent is "
        f"{verdict.parsed.intent}. They wrote:\n\n{ticket.text}",
        tier="capable",
        max_tokens=200,
        name="draft_reply",
    )
    return Answer(intent=verdict.parsed.intent, urgency=verdict.parsed.urgency, plan=account["plan"], reply=reply.text)


async def look_up_customer(customer: str) -> dict[str, str]:
    """The customer's record. Stands for a call to a system of the bank: journaled, so done once per run."""
    plan = ("standard", "plus", "business")[zlib.crc32(customer.encode()) % 3]
    return {"customer": customer, "plan": plan}
