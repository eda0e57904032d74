"""Agents whose frameworks call models by themselves, through `run.wire`."""

import asyncio
from pathlib import Path

import anthropic
import openai

import tollway


def sdks(run: tollway.Run) -> tuple[openai.AsyncOpenAI, anthropic.AsyncAnthropic]:
    """Both SDKs, as a framework makes them of an address and a key."""
    url, key = run.wire["base_url"], run.wire["api_key"]
    return (
        openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=2),
        anthropic.AsyncAnthropic(base_url=url.removesuffix("/v1"), api_key=key, max_retries=0),
    )


@tollway.agent(timeout=60)
async def framework(run: tollway.Run, gate: str) -> list[str]:
    """Asks in every way a framework may, some of it at once, then waits for the gate, a file."""
    gpt, claude = sdks(run)

    async def ask(text: str) -> str:
        answer = await gpt.chat.completions.create(model="fast", messages=[{"role": "user", "content": text}])
        return answer.choices[0].message.content or ""

    said = list(await asyncio.gather(ask("one"), ask("two"), ask("two")))
    chunks = await gpt.chat.completions.create(
        model="fast", messages=[{"role": "user", "content": "three"}], stream=True
    )
    said.append("".join([chunk.choices[0].delta.content or "" async for chunk in chunks]))
    message = await claude.messages.create(model="kind", max_tokens=50, messages=[{"role": "user", "content": "four"}])
    said += [block.text for block in message.content if block.type == "text"]
    vectors = await gpt.embeddings.create(model="embed", input="five")
    said.append(str(round(vectors.data[0].embedding[0], 3)))
    own = await run.llm("six", tier="fast", cache="off")
    said.append(own.text)
    while gate and not Path(gate).exists():
        await asyncio.sleep(0.02)
    return said


@tollway.agent(timeout=60)
async def one_call(run: tollway.Run) -> dict[str, str]:
    """Asks once, and tells its address and key."""
    gpt, _ = sdks(run)
    await gpt.responses.create(model="fast", input="Hi", max_output_tokens=1000)
    return run.wire


@tollway.agent(timeout=60, max_attempts=1)
async def insistent(run: tollway.Run) -> str:
    """Asks a provider that fails at first; the SDK asks again by itself."""
    gpt, _ = sdks(run)
    answer = await gpt.chat.completions.create(model="kind", messages=[{"role": "user", "content": "Hi"}])
    return answer.choices[0].message.content or ""
