"""Agents for a very small model: one sorts a bank's messages by examples, one answers a question as a stream.

`make demo-local` runs them on a real model of 135 million parameters, which knows a topic when it has seen some of it.
"""

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel

import tollway

_SAMPLE = Path(__file__).parent / "data" / "banking77_sample.csv"
_EXAMPLES_EACH = 2
_TIMEOUT_S = 300.0

Topic = Literal["stolen", "exchange", "age"]
TOPICS: dict[str, Topic] = {"lost_or_stolen_card": "stolen", "exchange_rate": "exchange", "age_limit": "age"}
"""The topics by the intents that people gave the messages. One word a topic: a small model reads no more."""


class Sorted(BaseModel):
    """What a message is about."""

    topic: Topic


def examples() -> list[tuple[str, Topic]]:
    """The first messages of each topic, in turn."""
    found = [list(islice(_of(topic), _EXAMPLES_EACH)) for topic in get_args(Topic)]
    return [
        (texts[i], topic) for i in range(_EXAMPLES_EACH) for texts, topic in zip(found, get_args(Topic), strict=True)
    ]


def unseen(each: int) -> list[tuple[str, Topic]]:
    """`each` other messages of every topic, in turn, with what people said of them."""
    found = [list(islice(_of(topic), _EXAMPLES_EACH, _EXAMPLES_EACH + each)) for topic in get_args(Topic)]
    return [(texts[i], topic) for i in range(each) for texts, topic in zip(found, get_args(Topic), strict=True)]


@tollway.agent(tier="fast", timeout=_TIMEOUT_S, max_attempts=2)
async def sort_message(run: tollway.Run, text: str) -> Sorted:
    """Sort a message by examples; the answer is held to the type, so that it is one of the topics whatever happens."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You sort messages."}]
    for example, topic in examples():
        messages.append({"role": "user", "content": example})
        messages.append({"role": "assistant", "content": json.dumps({"topic": topic})})
    messages.append({"role": "user", "content": text})
    reply = await run.llm(messages, returns=Sorted, max_tokens=30, temperature=0, name="sort")
    found: Sorted = reply.parsed
    return found


@tollway.agent(tier="fast", timeout=_TIMEOUT_S, max_attempts=2)
async def explain(run: tollway.Run, question: str) -> str:
    """Answer a question; whoever follows the run reads the answer as it is written."""
    answer = run.stream(question, max_tokens=80, temperature=0, name="explain")
    return "".join([text async for text in answer])


def _of(topic: Topic) -> Iterator[str]:
    with _SAMPLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if TOPICS.get(row["category"]) == topic:
                yield row["text"]
