"""A real model through the governed path, on this machine's CPU: `make demo-local`, which installs what it needs.

Agents sort and explain, then OpenAI's own client asks over the wire; every token is held against the model's own count.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing

import click
from openai import AsyncOpenAI
from openai.types import CompletionUsage
from rich.console import Console

from demo_stack import Stack, free_port
from demo_stage import await_ready, stage
from local_agents import unseen
from local_server import CONTEXT_TOKENS, MODEL, LocalServer, NoLocalModel, model_file
from local_view import Account, Row
from tollway.client import Client, RunView

_TIMEOUT_S = 300.0
_QUESTION = "What is a debit card?"
_WIRE_QUESTION = "Say in one sentence what a bank does."
_WIRE_TOKENS = 60


@click.command()
@click.option("--each", type=click.IntRange(1, 12), default=3, show_default=True, help="Messages of each topic.")
def main(each: int) -> None:
    """Run agents and the OpenAI wire on a model of 135 million parameters on this machine's CPU."""
    try:
        model_file()
    except NoLocalModel as error:
        raise click.UsageError(str(error)) from None
    console = Console(highlight=False, soft_wrap=True)
    port = free_port()
    stack = Stack(settings(port), "examples.local_agents")
    server = LocalServer(port, stack.folder / "model.log")

    async def act() -> bool:
        try:
            await asyncio.to_thread(server.start)
            console.print(
                f"{MODEL} (135 million parameters) answers at {server.url}, served by llama.cpp.", markup=False
            )
            await await_ready(console, stack, None)
            account = await _work(console, stack, each)
            counted = await asyncio.to_thread(server.counted)
        finally:
            server.stop()
        return account.report(console, counted)

    sys.exit(stage(console, stack, act))


def settings(port: int) -> str:
    """The settings as TOML for a model's server on this port: one route, which takes a call at a time.

    A little less than the server's window is named, since what a prompt takes is estimated before it is sent.
    """
    return f"""[worker]
slots = 20

[llm]
timeout_s = 120
park_after_s = 120

[providers.local]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"

[[routes]]
name = "local-fast"
tier = "fast"
provider = "local"
model = "{MODEL}"
concurrency = 1
context_tokens = {CONTEXT_TOKENS - 48}
latency_p99_max_s = 90

[prices."local/{MODEL}"]
input_usd_per_mtok = 0
output_usd_per_mtok = 0
"""


async def _work(console: Console, stack: Stack, each: int) -> Account:
    account = Account()
    async with Client(stack.url, stack.admin_key()) as client:
        messages = unseen(each)
        console.print(f"\nSorting {len(messages)} customers' messages by examples, one call at a time:", style="bold")
        runs = await asyncio.gather(*(client.submit("sort_message", text) for text, _ in messages))
        for run, (text, topic) in zip(runs, messages, strict=True):
            account.add(await _row(client, run, text, topic))
        # the same once more: kept, so that the model is not asked
        text, topic = messages[0]
        account.add(await _row(client, await client.submit("sort_message", text), f"again: {text}", topic))
        account.show(console)
        console.print(f"\nAn agent's answer as it is written: {_QUESTION}", style="bold")
        account.add(await _follow(console, client))
    console.print(f"\nOpenAI's own client, over /v1/chat/completions: {_WIRE_QUESTION}", style="bold")
    async with AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.admin_key(), max_retries=0) as openai:
        account.add(await _ask(console, openai))
        account.add(await _listen(console, openai))
    console.print()
    return account


async def _row(client: Client, run: RunView, text: str, topic: str | None) -> Row:
    """The run, once it has ended, as a row of the account."""
    ended = await client.wait(run.id, _TIMEOUT_S)
    step = (await client.steps(run.id))[0]
    took_s = (ended.ended_at - ended.created_at).total_seconds() if ended.ended_at and ended.created_at else 0.0
    found = ended.output.get("topic") if isinstance(ended.output, dict) else None
    used = ended.usage
    return Row(
        text,
        route="cache" if step.cached else step.route or "",
        tokens=(used.input_tokens, used.cached_tokens, used.output_tokens),
        took_s=took_s,
        cost_nano=used.cost_nano,
        found=found or ("" if ended.succeeded else ended.state),
        topic=topic,
        good=ended.succeeded,
    )


async def _follow(console: Console, client: Client) -> Row:
    run = await client.submit("explain", _QUESTION)
    async with aclosing(client.events(run.id)) as events:
        async for event in events:
            if event.type == "token":
                console.print(event.data["text"], end="", markup=False)
    console.print()
    return await _row(client, run, _QUESTION, None)


async def _ask(console: Console, openai: AsyncOpenAI) -> Row:
    began = time.monotonic()
    raw = await openai.chat.completions.with_raw_response.create(
        model="fast", messages=[{"role": "user", "content": _WIRE_QUESTION}], max_tokens=_WIRE_TOKENS, temperature=0
    )
    completion = raw.parse()
    took_s = time.monotonic() - began
    choice = completion.choices[0]
    console.print(f"{(choice.message.content or '').strip()} [{choice.finish_reason}]", markup=False)
    cost_nano = round(float(raw.headers["x-tollway-cost-usd"]) * 1e9)
    return _wire_row("plain", raw.headers["x-tollway-route"], completion.usage, took_s, cost_nano)


async def _listen(console: Console, openai: AsyncOpenAI) -> Row:
    began = time.monotonic()
    raw = await openai.chat.completions.with_raw_response.create(
        model="fast",
        messages=[{"role": "user", "content": _WIRE_QUESTION}],
        max_tokens=_WIRE_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    usage: CompletionUsage | None = None
    async for chunk in raw.parse():
        usage = chunk.usage or usage
        for choice in chunk.choices:
            console.print(choice.delta.content or "", end="", markup=False)
    console.print(" [streamed]", markup=False)
    # what a stream cost is known after its headers have gone
    return _wire_row("stream", raw.headers["x-tollway-route"], usage, time.monotonic() - began, None)


def _wire_row(how: str, route: str, usage: CompletionUsage | None, took_s: float, cost_nano: int | None) -> Row:
    tokens = _tokens(usage) if usage is not None else (0, 0, 0)
    return Row(f"wire, {how}", route, tokens, took_s, cost_nano, good=usage is not None)


def _tokens(usage: CompletionUsage) -> Sequence[int]:
    details = usage.prompt_tokens_details
    cached = (details.cached_tokens or 0) if details is not None else 0
    return usage.prompt_tokens, cached, usage.completion_tokens


if __name__ == "__main__":
    main()
