"""The newer wires of the simulated provider over real sockets: responses, Gemini, embeddings, limits of their own."""

import json
from typing import Any

import msgspec
import pytest
from pyreqwest.client import Client, ClientBuilder

from tollway.simulator.provider import RunningSim, start_provider_sim

RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
MESSAGES = "/v1/messages"
GEMINI = "/v1beta/models/g-1:"
HELLO: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "hello there"}]}]}


class Sim:
    """A running provider and a client to it."""

    def __init__(self, running: RunningSim, client: Client) -> None:
        self.running = running
        self._client = client

    async def __aenter__(self) -> "Sim":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.running.stop()

    async def post(self, path: str, body: Any) -> tuple[int, dict[str, str], str]:
        """Status, headers and text of an answer."""
        request = self._client.post(self.running.url + path).body_bytes(msgspec.json.encode(body))
        response = await request.build().send()
        return response.status, {name.lower(): value for name, value in response.headers.items()}, await response.text()

    async def get(self, path: str) -> Any:
        """The JSON of an answer."""
        return json.loads(await (await self._client.get(self.running.url + path).build().send()).text())


async def running(**config: Any) -> Sim:
    sim = await start_provider_sim({"latency_s": 0, **config})
    return Sim(sim, ClientBuilder().error_for_status(False).build())


def events(text: str) -> list[Any]:
    return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]


async def test_a_response_stream_in_the_vendors_order() -> None:
    """Created, the item and its part opened, deltas, all closed again, the whole response; numbered without gaps."""
    async with await running(output_tokens=9) as sim:
        body = {"model": "m", "input": "hello there", "instructions": "Be kind", "stream": True}
        _, headers, text = await sim.post(RESPONSES, body)
        data = events(text)
        names = [line[7:] for line in text.split("\n") if line.startswith("event: ")]
        assert headers["content-type"].startswith("text/event-stream")
        assert names == [event["type"] for event in data]
        assert [event["sequence_number"] for event in data] == list(range(len(data)))
        assert names[:4] == [
            "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        ]  # fmt: skip
        assert set(names[4:-4]) == {"response.output_text.delta"}
        assert names[-4:] == [
            "response.output_text.done", "response.content_part.done", "response.output_item.done",
            "response.completed",
        ]  # fmt: skip
        whole = data[-1]["response"]
        said = "".join(event["delta"] for event in data[4:-4])
        assert whole["output"][0]["content"][0]["text"] == said
        assert (whole["usage"]["input_tokens"], whole["usage"]["output_tokens"]) == (5, 9)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"input": "x"}, "model"),
        ({"model": "m"}, "input"),
        ({"model": "m", "input": [{"role": "robot", "content": "x"}]}, "robot"),
        ({"model": "m", "input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "input_text"),
        ({"model": "m", "input": [{"type": "function_call_output", "output": "x"}]}, "call_id"),
        ({"model": "m", "input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"model": "m", "input": "x", "tools": [{"type": "function", "function": {"name": "f"}}]}, "name"),
        ({"model": "m", "input": "x", "tool_choice": "required"}, "tool_choice"),
        ({"model": "m", "input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format.name"),
    ],
)
async def test_responses_refuse_what_the_vendor_refuses(body: Any, says: str) -> None:
    """P11: what is no request of this form, that of chat completions included, is 400 in the vendor's form."""
    async with await running() as sim:
        status, _, text = await sim.post(RESPONSES, body)
        assert status == 400
        assert says in json.loads(text)["error"]["message"]


async def test_gemini_whole_and_streamed() -> None:
    """The model is in the path; a stream is a series of bodies, the last with the reason of its end."""
    async with await running(output_tokens=9) as sim:
        whole = json.loads((await sim.post(GEMINI + "generateContent", HELLO))[2])
        candidate = whole["candidates"][0]
        assert (candidate["finishReason"], whole["modelVersion"]) == ("STOP", "g-1")
        data = events((await sim.post(GEMINI + "streamGenerateContent?alt=sse", HELLO))[2])
        parts = [event["candidates"][0]["content"]["parts"][0]["text"] for event in data]
        assert "".join(parts) == candidate["content"]["parts"][0]["text"]
        assert [("finishReason" in event["candidates"][0]) for event in data] == [False] * (len(data) - 1) + [True]
        assert data[-1]["usageMetadata"] == whole["usageMetadata"]
        assert (await sim.get("/sim/ledger?totals=1"))["totals"]["by_model"] == {"g-1": 2}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"contents": []}, "contents"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "role"),
        ({"generationConfig": {"maxOutputTokens": 0}}, "max_output_tokens"),
        ({"generationConfig": {"responseMimeType": "application/json", "responseSchema": {"$ref": "#"}}}, "$ref"),
        ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "function"),
    ],
)
async def test_gemini_refuses_what_the_vendor_refuses(change: Any, says: str) -> None:
    """P11: what is no request of this form is 400 with the vendor's status word, schemas it does not take included."""
    async with await running() as sim:
        status, _, text = await sim.post(GEMINI + "generateContent", {**HELLO, **change})
        error = json.loads(text)["error"]
        assert (status, error["status"]) == (400, "INVALID_ARGUMENT")
        assert says in error["message"]


async def test_embeddings_are_the_same_for_the_same_text() -> None:
    """Both wires of embeddings give a text one vector, of the dimensions asked for, and count its input alone."""
    async with await running() as sim:
        body = {"model": "e", "input": ["a b", "c", "a b"], "dimensions": 4}
        answer = json.loads((await sim.post(EMBEDDINGS, body))[2])
        one, other, same = (item["embedding"] for item in answer["data"])
        assert (one == same, one == other, len(one)) == (True, False, 4)
        assert sum(number * number for number in one) == pytest.approx(1)
        asked = {"model": "models/e", "content": {"parts": [{"text": "a b"}]}, "outputDimensionality": 4}
        google = json.loads((await sim.post("/v1beta/models/e:batchEmbedContents", {"requests": [asked]}))[2])
        assert google["embeddings"][0]["values"] == one
        assert [row.output_tokens for row in sim.running.ledger.rows()] == [0, 0]
        for path, bad in ((EMBEDDINGS, {"model": "e"}), ("/v1beta/models/e:batchEmbedContents", {"requests": []})):
            assert (await sim.post(path, bad))[0] == 400


async def test_input_and_output_limited_apart() -> None:
    """Output is reserved at max_tokens and given back at the end; headers tell each limit; 429s are counted."""
    async with await running(tpm_in=600, tpm_out=6000, bucket_s=60, output_tokens=10) as sim:
        body = {"model": "m", "max_tokens": 4000, "messages": [{"role": "user", "content": "x" * 400}]}
        for left in (500, 400):
            status, headers, _ = await sim.post(MESSAGES, body)
            assert (status, headers["anthropic-ratelimit-input-tokens-remaining"]) == (200, str(left))
            assert 1990 <= int(headers["anthropic-ratelimit-output-tokens-remaining"]) <= 2000
            assert "anthropic-ratelimit-tokens-limit" not in headers
        status, _, text = await sim.post(MESSAGES, {**body, "max_tokens": 5999})
        assert (status, "output tokens" in text) == (429, True)
        totals = (await sim.get("/sim/ledger?totals=1"))["totals"]
        assert (totals["by_status"], totals["refused_by_model"]) == ({"200": 2, "429": 1}, {"m": 1})
        shown = await sim.get("/sim/limits")
        rows = shown["models"]["m"]
        assert [sum(row[at] for row in rows) for at in (1, 3)] == [2, 1]
        assert (await sim.get(f"/sim/limits?after={rows[-1][0]}"))["models"]["m"] == []
        assert "error" in await sim.get("/sim/limits?after=x")


async def test_a_schema_in_words_is_obeyed() -> None:
    """A prompt that asks for JSON by a schema gets JSON that fits it, in a code fence as models like to give it."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    asked = [{"role": "system", "content": f"Answer by this JSON Schema: {json.dumps(schema)}"}]
    async with await running() as sim:
        body = {"model": "m", "messages": [*asked, {"role": "user", "content": "x"}], "max_tokens": 3}
        text = json.loads((await sim.post("/v1/chat/completions", body))[2])["choices"][0]["message"]["content"]
        assert isinstance(json.loads(text.removeprefix("```json").removesuffix("```"))["n"], int)
