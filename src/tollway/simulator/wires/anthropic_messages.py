"""The Anthropic messages wire: `POST /v1/messages`."""

import time

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tollway.simulator.buckets import Gauges
from tollway.simulator.neutral import Answer, Ask, BadAsk, ErrorKind

_FINISH = {"stop": b"end_turn", "length": b"max_tokens", "tool": b"tool_use"}
_ERRORS: dict[ErrorKind, str] = {
    "bad_request": "invalid_request_error",
    "not_found": "not_found_error",
    "too_large": "request_too_large",
    "rate_limited": "rate_limit_error",
    "server_error": "api_error",
}
_LIMITS = (b"requests", b"tokens", b"input-tokens", b"output-tokens")
_USAGE = (
    b'{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":%d,"output_tokens":%d,'
    b'"service_tier":"standard"}'
)
_MESSAGE = (
    b'{"id":"msg_sim%d","type":"message","role":"assistant","model":%b,"content":[%b],"stop_reason":%b,'
    b'"stop_sequence":null,"usage":%b}'
)
_START = b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n'
_BLOCK_START = (
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":%b}\n\n'
    b'event: ping\ndata: {"type":"ping"}\n\n'
)
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":%b}\n\n'
_END = (
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"%b","stop_sequence":null},'
    b'"usage":{"output_tokens":%d}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
_TOOL_USE = b'{"type":"tool_use","id":"toolu_sim%d","name":%b,"input":%b}'

_json = msgspec.json.encode


class _Inner(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Block(msgspec.Struct):
    type: str = ""
    text: str = ""
    content: str | list[_Inner] | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Block]


class _Tool(msgspec.Struct):
    name: str
    input_schema: Raw = Raw(b'{"type":"object"}')


class _Choice(msgspec.Struct):
    type: str
    name: str | None = None


class _Format(msgspec.Struct):
    schema_: Raw = msgspec.field(default=Raw(b'{"type":"object"}'), name="schema")


class _OutputConfig(msgspec.Struct):
    format: _Format | None = None


class _Body(msgspec.Struct):
    model: str | UnsetType = UNSET
    messages: list[_Message] | UnsetType = UNSET
    max_tokens: int | UnsetType = UNSET
    system: str | list[_Inner] | None = None
    stream: bool | None = None
    tools: list[_Tool] | None = None
    tool_choice: _Choice | None = None
    output_config: _OutputConfig | None = None


_decode = msgspec.json.Decoder(_Body).decode


class AnthropicMessages:
    """Implements `Wire`."""

    def parse(self, body: bytes) -> Ask:
        """The request in neutral form; raises BadAsk."""
        try:
            given = _decode(body)
        except RecursionError:
            raise BadAsk("The JSON body of your request is nested too deeply.") from None
        except msgspec.ValidationError as error:
            raise BadAsk(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadAsk(f"The request body is not valid JSON: {error}") from None
        model, messages, limit = given.model, given.messages, given.max_tokens
        if isinstance(model, UnsetType) or not model:
            raise BadAsk("model: Field required", field="model")
        if isinstance(messages, UnsetType):
            raise BadAsk("messages: Field required", field="messages", model=model)
        if not messages:
            raise BadAsk("messages: at least one message is required", field="messages", model=model)
        if isinstance(limit, UnsetType):
            raise BadAsk("max_tokens: Field required", field="max_tokens", model=model)
        if limit < 1:
            raise BadAsk("max_tokens: Input should be greater than or equal to 1", field="max_tokens", model=model)
        texts = [_inner(given.system)] if given.system else []
        texts += [_text(message.content) for message in messages]
        ask = Ask(model, texts, limit, bool(given.stream))
        _shape(ask, given)
        return ask

    def whole(self, ask: Ask, answer: Answer) -> bytes:
        """A `message`."""
        if ask.tool is None:
            block = b'{"type":"text","text":%b}' % _json(answer.text)
        else:
            block = _TOOL_USE % (answer.n, _json(ask.tool), answer.text.encode())
        stop = b'"%b"' % _FINISH[answer.finish]
        usage = _usage(answer, answer.output_tokens)
        return _MESSAGE % (answer.n, _json(ask.model), block, stop, usage)

    def opening(self, ask: Ask, answer: Answer) -> bytes:
        """message_start with the input's usage, content_block_start, ping."""
        message = _MESSAGE % (answer.n, _json(ask.model), b"", b"null", _usage(answer, 1))
        block = b'{"type":"text","text":""}'
        if ask.tool is not None:
            block = _TOOL_USE % (answer.n, _json(ask.tool), b"{}")
        return _START % message + _BLOCK_START % block

    def piece(self, ask: Ask, answer: Answer, text: str) -> bytes:
        """A content_block_delta: of text, or of a tool's input."""
        if ask.tool is None:
            return _DELTA % (b'{"type":"text_delta","text":%b}' % _json(text))
        return _DELTA % (b'{"type":"input_json_delta","partial_json":%b}' % _json(text))

    def closing(self, ask: Ask, answer: Answer) -> bytes:
        """content_block_stop, message_delta with the output's usage, message_stop."""
        return _END % (_FINISH[answer.finish], answer.output_tokens)

    def error(self, kind: ErrorKind, message: str, field: str | None = None) -> bytes:
        """An error object; the vendor names the field in the message only."""
        return _json({"type": "error", "error": {"type": _ERRORS[kind], "message": message}, "request_id": None})

    def headers(self, n: int) -> bytes:
        """The request id."""
        return b"request-id: req_sim%d\r\n" % n

    def limit_headers(self, gauges: Gauges) -> bytes:
        """`anthropic-ratelimit-*`; resets as RFC 3339 times, to the second above."""
        now = time.time()
        return b"".join(
            b"anthropic-ratelimit-%b-limit: %d\r\nanthropic-ratelimit-%b-remaining: %d\r\n"
            b"anthropic-ratelimit-%b-reset: %b\r\n"
            % (name, gauge.limit, name, gauge.remaining, name, _moment(now + gauge.reset_s))
            for name, gauge in zip(_LIMITS, gauges, strict=True)
            if gauge is not None
        )


def _usage(answer: Answer, output_tokens: int) -> bytes:
    """The input without what came from the cache, as the vendor counts it."""
    return _USAGE % (answer.input_tokens - answer.cached_tokens, answer.cached_tokens, output_tokens)


def _moment(epoch_s: float) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(-(-epoch_s // 1))).encode()


def _inner(content: str | list[_Inner] | None) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content) if content else ""


def _text(content: str | list[_Block]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.text or _inner(block.content) for block in content)


def _shape(ask: Ask, given: _Body) -> None:
    """Set whether the answer is a call of a tool, only where the request forces one, or JSON."""
    if given.output_config is not None and given.output_config.format is not None:
        ask.schema = bytes(given.output_config.format.schema_)
    choice = given.tool_choice
    if choice is None or choice.type not in ("tool", "any"):
        return
    tool = next((one for one in given.tools or () if choice.type == "any" or one.name == choice.name), None)
    if tool is None:
        raise BadAsk(f"tool_choice: tool '{choice.name}' not found in tools", field="tool_choice", model=ask.model)
    ask.tool, ask.schema, ask.finish = tool.name, bytes(tool.input_schema), "tool"
