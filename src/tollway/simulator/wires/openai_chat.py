"""The OpenAI chat completions wire: `POST /v1/chat/completions`."""

import time
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tollway.simulator.neutral import Answer, Ask, BadAsk, Finish
from tollway.simulator.wires.openai_form import OpenAIForm, read

_JSON_OBJECT = b'{"type":"object","properties":{"answer":{"type":"string"}},"required":["answer"]}'
_ANY_OBJECT = b'{"type":"object"}'
_FINISH = {"stop": b"stop", "length": b"length", "tool": b"tool_calls"}
_USAGE = (
    b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
    b'"prompt_tokens_details":{"cached_tokens":%d,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":%d,'
    b'"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
)
_WHOLE = (
    b'{"id":"chatcmpl-sim%d","object":"chat.completion","created":%d,"model":%b,"choices":[{"index":0,"message":'
    b'{"role":"assistant",%b,"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"%b"}],"usage":%b,'
    b'"service_tier":"default","system_fingerprint":"fp_simulated"}'
)
_CHUNK = (
    b'data: {"id":"chatcmpl-sim%d","object":"chat.completion.chunk","created":%d,"model":%b,"service_tier":"default",'
    b'"system_fingerprint":"fp_simulated","choices":[%b]%b}\n\n'
)
_CHOICE = b'{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}'
_TOOL = b'{"id":"call_sim%d","type":"function","function":{"name":%b,"arguments":%b}}'

_json = msgspec.json.encode


class _Part(msgspec.Struct):
    type: str = ""
    text: str = ""
    refusal: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _JsonSchema(msgspec.Struct):
    name: str
    schema_: Raw = msgspec.field(default=Raw(b"{}"), name="schema")


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


class _Function(msgspec.Struct):
    name: str
    parameters: Raw = Raw(_ANY_OBJECT)


class _Tool(msgspec.Struct):
    type: str = "function"
    function: _Function | None = None


class _Named(msgspec.Struct):
    name: str


class _Choice(msgspec.Struct):
    type: str = "function"
    function: _Named | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Body(msgspec.Struct):
    model: str | UnsetType = UNSET
    messages: list[_Message] | UnsetType = UNSET
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    response_format: _ResponseFormat | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | _Choice | None = None


_decode = msgspec.json.Decoder(_Body).decode


class OpenAIChat(OpenAIForm):
    """Implements `Wire`."""

    def parse(self, body: bytes) -> Ask:
        """The request in neutral form; raises BadAsk."""
        given = read(_decode, body)
        model, messages = given.model, given.messages
        if isinstance(model, UnsetType) or not model:
            raise BadAsk("you must provide a model parameter", field="model")
        if isinstance(messages, UnsetType):
            raise BadAsk("Missing required parameter: 'messages'.", field="messages", model=model)
        if not messages:
            raise BadAsk("Invalid 'messages': empty array, expected at least 1.", field="messages", model=model)
        limit = given.max_tokens if given.max_completion_tokens is None else given.max_completion_tokens
        if limit is not None and limit < 1:
            raise BadAsk(f"Invalid 'max_tokens': {limit} is less than 1.", field="max_tokens", model=model)
        ask = Ask(model, [_text(message.content) for message in messages], limit, bool(given.stream))
        ask.include_usage = given.stream_options is not None and given.stream_options.include_usage
        _shape(ask, given)
        return ask

    def whole(self, ask: Ask, answer: Answer) -> bytes:
        """A `chat.completion`."""
        message = b'"content":%b' % _json(answer.text)
        if ask.tool is not None:
            message = b'"content":null,"tool_calls":[%b]' % (_TOOL % (answer.n, _json(ask.tool), _json(answer.text)))
        finish = _FINISH[answer.finish]
        return _WHOLE % (answer.n, time.time(), _json(ask.model), message, finish, _usage(answer))

    def opening(self, ask: Ask, answer: Answer) -> bytes:
        """The chunk that names the role and, of a tool call, the tool."""
        if ask.tool is None:
            return self._chunk(ask, answer, b'{"role":"assistant","content":"","refusal":null}')
        call = b'{"index":0,%b' % (_TOOL % (answer.n, _json(ask.tool), b'""'))[1:]
        return self._chunk(ask, answer, b'{"role":"assistant","content":null,"tool_calls":[%b]}' % call)

    def piece(self, ask: Ask, answer: Answer, text: str) -> bytes:
        """A chunk of content or of a tool's arguments."""
        if ask.tool is None:
            return self._chunk(ask, answer, b'{"content":%b}' % _json(text))
        return self._chunk(ask, answer, b'{"tool_calls":[{"index":0,"function":{"arguments":%b}}]}' % _json(text))

    def closing(self, ask: Ask, answer: Answer) -> bytes:
        """The chunk with the finish reason, the usage if it was asked for, and `[DONE]`."""
        end = self._chunk(ask, answer, b"{}", b'"%b"' % _FINISH[answer.finish])
        if ask.include_usage:
            usage = b',"usage":%b' % _usage(answer)
            end += _CHUNK % (answer.n, time.time(), _json(ask.model), b"", usage)
        return end + b"data: [DONE]\n\n"

    def _chunk(self, ask: Ask, answer: Answer, delta: bytes, finish: bytes = b"null") -> bytes:
        usage = b',"usage":null' if ask.include_usage else b""
        return _CHUNK % (answer.n, time.time(), _json(ask.model), _CHOICE % (delta, finish), usage)


def _text(content: str | list[_Part] | None) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text or part.refusal for part in content) if content else ""


def _usage(answer: Answer) -> bytes:
    tokens_in, tokens_out = answer.input_tokens, answer.output_tokens
    return _USAGE % (tokens_in, tokens_out, tokens_in + tokens_out, answer.cached_tokens, answer.reasoning_tokens)


def _shape(ask: Ask, given: _Body) -> None:
    """Set what form the answer takes: a forced tool call, JSON, or nothing in particular."""
    choice = given.tool_choice
    functions = [tool.function for tool in given.tools or () if tool.function is not None]
    if choice == "required" or isinstance(choice, _Choice):
        wanted = choice.function.name if isinstance(choice, _Choice) and choice.function else None
        function = next((one for one in functions if wanted in (None, one.name)), None)
        if function is None:
            raise BadAsk("'tool_choice' names no function in 'tools'.", field="tool_choice", model=ask.model)
        # The vendor ends with `tool_calls` only where the model was free to choose the function.
        finish: Finish = "tool" if wanted is None else "stop"
        ask.tool, ask.schema, ask.finish = function.name, bytes(function.parameters), finish
        return
    form: Any = given.response_format
    if form is None or form.type == "text":
        return
    if form.type == "json_schema":
        if form.json_schema is None:
            field = "response_format.json_schema"
            raise BadAsk(f"Missing required parameter: '{field}'.", field=field, model=ask.model)
        ask.schema = bytes(form.json_schema.schema_)
    elif form.type == "json_object":
        ask.schema = _JSON_OBJECT
    else:
        raise BadAsk(f"Invalid value: '{form.type}'.", field="response_format.type", model=ask.model)
