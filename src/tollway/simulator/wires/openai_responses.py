"""The OpenAI Responses wire: `POST /v1/responses`, without its state."""

import time
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tollway.simulator.neutral import Answer, Ask, BadAsk
from tollway.simulator.wires.openai_form import OpenAIForm, read

_ANY_OBJECT = b'{"type":"object"}'
_PARTS = ("input_text", "input_image", "input_file", "output_text", "refusal", "reasoning_text", "summary_text")
_USAGE = (
    b'{"input_tokens":%d,"input_tokens_details":{"cached_tokens":%d},"output_tokens":%d,'
    b'"output_tokens_details":{"reasoning_tokens":%d},"total_tokens":%d}'
)
_RESPONSE = (
    b'{"id":"resp_sim%d","object":"response","created_at":%d,"status":"%b","background":false,"error":null,'
    b'"incomplete_details":%b,"instructions":null,"max_output_tokens":null,"model":%b,"output":[%b],'
    b'"parallel_tool_calls":true,"previous_response_id":null,"reasoning":{"effort":null,"summary":null},'
    b'"store":false,"temperature":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_p":1.0,'
    b'"truncation":"disabled","usage":%b,"user":null,"metadata":{}}'
)
_PART = b'{"type":"output_text","annotations":[],"logprobs":[],"text":%b}'
_MESSAGE = b'{"type":"message","id":"msg_sim%d","status":"%b","role":"assistant","content":[%b]}'
_CALL = b'{"type":"function_call","id":"fc_sim%d","status":"%b","call_id":"call_sim%d","name":%b,"arguments":%b}'

_json = msgspec.json.encode


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    refusal: str = ""


class _Item(msgspec.Struct):
    type: str = "message"
    role: str = ""
    content: str | list[_Part] | None = None
    output: str | list[_Part] | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""


class _Format(msgspec.Struct):
    type: str = "text"
    name: str = ""
    schema_: Raw = msgspec.field(default=Raw(_ANY_OBJECT), name="schema")


class _Text(msgspec.Struct):
    format: _Format | None = None


class _Tool(msgspec.Struct):
    type: str
    name: str = ""
    parameters: Raw = Raw(_ANY_OBJECT)


class _Choice(msgspec.Struct):
    type: str = "function"
    name: str = ""


class _Body(msgspec.Struct):
    model: str | UnsetType = UNSET
    input: str | list[_Item] | UnsetType = UNSET
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    text: _Text | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _Choice | None = None


_decode = msgspec.json.Decoder(_Body).decode


class OpenAIResponses(OpenAIForm):
    """Implements `Wire`. An answer numbers its events in `Answer.events`."""

    def parse(self, body: bytes) -> Ask:
        """The request in neutral form; raises BadAsk."""
        given = read(_decode, body)
        model, items, limit = given.model, given.input, given.max_output_tokens
        if isinstance(model, UnsetType) or not model:
            raise BadAsk("Missing required parameter: 'model'.", field="model")
        if isinstance(items, UnsetType) or not items:
            raise BadAsk("Missing required parameter: 'input'.", field="input", model=model)
        if limit is not None and limit < 1:
            raise BadAsk(f"Invalid 'max_output_tokens': {limit}.", field="max_output_tokens", model=model)
        texts = [given.instructions] if given.instructions else []
        texts += [items] if isinstance(items, str) else [_text(item, model) for item in items]
        ask = Ask(model, texts, limit, bool(given.stream))
        _shape(ask, given)
        return ask

    def whole(self, ask: Ask, answer: Answer) -> bytes:
        """A `response`."""
        ended = b"incomplete" if answer.finish == "length" else b"completed"
        details = b'{"reason":"max_output_tokens"}' if answer.finish == "length" else b"null"
        tokens = answer.input_tokens + answer.output_tokens
        usage = _USAGE % (
            answer.input_tokens, answer.cached_tokens, answer.output_tokens, answer.reasoning_tokens, tokens,
        )  # fmt: skip
        item = self._item(ask, answer, answer.text, b"completed")
        return _RESPONSE % (answer.n, time.time(), ended, details, _json(ask.model), item, usage)

    def opening(self, ask: Ask, answer: Answer) -> bytes:
        """response.created, response.in_progress, output_item.added, and of a message content_part.added."""
        begun = _RESPONSE % (answer.n, time.time(), b"in_progress", b"null", _json(ask.model), b"", b"null")
        events = self._event(answer, b"response.created", b'"response":%b' % begun)
        events += self._event(answer, b"response.in_progress", b'"response":%b' % begun)
        item = self._item(ask, answer, "", b"in_progress")
        events += self._event(answer, b"response.output_item.added", b'"output_index":0,"item":%b' % item)
        if ask.tool is None:
            part = b'%b,"part":%b' % (self._at(ask, answer), _PART % b'""')
            events += self._event(answer, b"response.content_part.added", part)
        return events

    def piece(self, ask: Ask, answer: Answer, text: str) -> bytes:
        """A delta of text or of a function's arguments."""
        kind = b"response.output_text.delta" if ask.tool is None else b"response.function_call_arguments.delta"
        return self._event(answer, kind, b'%b,"delta":%b' % (self._at(ask, answer), _json(text)))

    def closing(self, ask: Ask, answer: Answer) -> bytes:
        """What was opened is done, and the whole response."""
        at, text = self._at(ask, answer), _json(answer.text)
        if ask.tool is None:
            events = self._event(answer, b"response.output_text.done", b'%b,"text":%b' % (at, text))
            events += self._event(answer, b"response.content_part.done", b'%b,"part":%b' % (at, _PART % text))
        else:
            kind = b"response.function_call_arguments.done"
            events = self._event(answer, kind, b'%b,"arguments":%b' % (at, text))
        item = self._item(ask, answer, answer.text, b"completed")
        events += self._event(answer, b"response.output_item.done", b'"output_index":0,"item":%b' % item)
        ended = b"response.incomplete" if answer.finish == "length" else b"response.completed"
        return events + self._event(answer, ended, b'"response":%b' % self.whole(ask, answer))

    def _item(self, ask: Ask, answer: Answer, text: str, status: bytes) -> bytes:
        n = answer.n
        if ask.tool is not None:
            return _CALL % (n, status, n, _json(ask.tool), _json(text))
        begun = status == b"in_progress"
        return _MESSAGE % (n, status, b"" if begun else _PART % _json(text))

    def _at(self, ask: Ask, answer: Answer) -> bytes:
        if ask.tool is not None:
            return b'"item_id":"fc_sim%d","output_index":0' % answer.n
        return b'"item_id":"msg_sim%d","output_index":0,"content_index":0' % answer.n

    def _event(self, answer: Answer, kind: bytes, rest: bytes) -> bytes:
        number = answer.events
        answer.events += 1
        return b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b}\n\n' % (kind, kind, number, rest)


def _text(item: _Item, model: str) -> str:
    if item.type == "message" and item.role not in ("system", "developer", "user", "assistant"):
        raise BadAsk(f"Invalid value: '{item.role}'.", field="input.role", model=model)
    if item.type.startswith("function_call") and not item.call_id:
        raise BadAsk("Missing required parameter: 'input.call_id'.", field="input.call_id", model=model)
    given = item.output if item.content is None else item.content
    if given is None or isinstance(given, str):
        return given or item.arguments
    for part in given:
        if part.type not in _PARTS:
            message = f"Invalid value: '{part.type}'. Supported values are: {', '.join(_PARTS)}."
            raise BadAsk(message, field="input.content", model=model)
    return "\n".join(part.text or part.refusal for part in given)


def _shape(ask: Ask, given: _Body) -> None:
    """Set what form the answer takes: a forced call of a function, JSON, or nothing in particular."""
    choice: Any = given.tool_choice
    tools = [tool for tool in given.tools or () if tool.type == "function"]
    if not all(tool.name for tool in tools):
        raise BadAsk("Missing required parameter: 'tools[].name'.", field="tools", model=ask.model)
    if choice == "required" or isinstance(choice, _Choice):
        wanted = choice.name if isinstance(choice, _Choice) else None
        tool = next((one for one in tools if wanted in (None, one.name)), None)
        if tool is None:
            raise BadAsk("'tool_choice' names no function in 'tools'.", field="tool_choice", model=ask.model)
        ask.tool, ask.schema, ask.finish = tool.name, bytes(tool.parameters), "tool"
        return
    form = given.text.format if given.text is not None else None
    if form is None or form.type == "text":
        return
    if form.type == "json_schema" and not form.name:
        raise BadAsk("Missing required parameter: 'text.format.name'.", field="text.format.name", model=ask.model)
    ask.schema = bytes(form.schema_)
