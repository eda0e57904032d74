"""The Gemini wire: `POST /v1beta/models/{model}:generateContent` and `:streamGenerateContent`."""

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tollway.simulator.buckets import Gauges
from tollway.simulator.neutral import Answer, Ask, BadAsk, ErrorKind

_ANY_OBJECT = b'{"type":"object"}'
_ERRORS: dict[ErrorKind, tuple[int, str]] = {
    "bad_request": (400, "INVALID_ARGUMENT"),
    "not_found": (404, "NOT_FOUND"),
    "too_large": (400, "INVALID_ARGUMENT"),
    "rate_limited": (429, "RESOURCE_EXHAUSTED"),
    "server_error": (500, "INTERNAL"),
}
_FINISH = {"stop": b"STOP", "length": b"MAX_TOKENS", "tool": b"STOP"}
# What the vendor's schemas do not know; it refuses a request that holds one.
_UNKNOWN = (b'"$ref"', b'"$defs"', b'"additionalProperties"', b'"const"', b'"oneOf"', b'"allOf"')
_TYPE = re.compile(rb'"type"\s*:\s*"[A-Z]+"')
_BODY = (
    b'{"candidates":[{"content":{"parts":[%b],"role":"model"},%b"index":0}],"usageMetadata":%b,"modelVersion":%b,'
    b'"responseId":"sim%d"}'
)
_USAGE = (
    b'{"promptTokenCount":%d,"candidatesTokenCount":%d,"totalTokenCount":%d,"thoughtsTokenCount":%d,'
    b'"cachedContentTokenCount":%d}'
)

_json = msgspec.json.encode

T = TypeVar("T")


class _Function(msgspec.Struct):
    name: str
    parameters: Raw = Raw(_ANY_OBJECT)


class _Tool(msgspec.Struct, rename="camel"):
    function_declarations: list[_Function] = []


class _Response(msgspec.Struct):
    name: str
    response: dict[str, object]


class _Part(msgspec.Struct, rename="camel"):
    text: str = ""
    function_response: _Response | None = None


class _Content(msgspec.Struct):
    parts: list[_Part]
    role: str = "user"


class _Calling(msgspec.Struct, rename="camel"):
    mode: str = "AUTO"
    allowed_function_names: list[str] = []


class _ToolConfig(msgspec.Struct, rename="camel"):
    function_calling_config: _Calling | None = None


class _Config(msgspec.Struct, rename="camel"):
    max_output_tokens: int | None = None
    response_mime_type: str = ""
    response_schema: Raw = Raw(b"")


class _Body(msgspec.Struct, rename="camel"):
    contents: list[_Content] | UnsetType = UNSET
    system_instruction: _Content | None = None
    generation_config: _Config | None = None
    tools: list[_Tool] = []
    tool_config: _ToolConfig | None = None


_decode = msgspec.json.Decoder(_Body).decode


def read(decode: Callable[[bytes], T], body: bytes, model: str) -> T:
    """The body as what it should be. Raises BadAsk."""
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAsk(f"Invalid JSON payload received. {error}", model=model) from None


class GeminiForm:
    """The part of `Wire` that is the same for every operation; `model` comes from the path."""

    def __init__(self, model: str) -> None:
        self.model = model

    def error(self, kind: ErrorKind, message: str, field: str | None = None) -> bytes:
        """An error object."""
        code, status = _ERRORS[kind]
        return _json({"error": {"code": code, "message": message, "status": status}})

    def headers(self, n: int) -> bytes:
        """None of its own."""
        return b""

    def limit_headers(self, gauges: Gauges) -> bytes:
        """The vendor tells nothing of its limits."""
        return b""


class Gemini(GeminiForm):
    """Implements `Wire`. The path says whether the answer streams."""

    def __init__(self, model: str, *, stream: bool) -> None:
        super().__init__(model)
        self._stream = stream

    def parse(self, body: bytes) -> Ask:
        """The request in neutral form; raises BadAsk."""
        given = read(_decode, body, self.model)
        if isinstance(given.contents, UnsetType) or not given.contents:
            raise BadAsk("* GenerateContentRequest.contents: contents is not specified", model=self.model)
        for content in given.contents:
            if content.role not in ("user", "model"):
                raise BadAsk(f"Please use a valid role: user, model, not {content.role}.", model=self.model)
            if not content.parts:
                raise BadAsk("* contents.parts: must have at least one part", model=self.model)
        config = given.generation_config or _Config()
        limit = config.max_output_tokens
        if limit is not None and limit < 1:
            raise BadAsk(f"max_output_tokens must be positive, not {limit}.", model=self.model)
        texts = [_text(given.system_instruction)] if given.system_instruction else []
        texts += [_text(content) for content in given.contents]
        ask = Ask(self.model, texts, limit, self._stream, counts_output=False)
        _shape(ask, given, config)
        return ask

    def whole(self, ask: Ask, answer: Answer) -> bytes:
        """A body with one candidate."""
        return self._body(ask, answer, self._part(ask, answer.text), ended=True)

    def opening(self, ask: Ask, answer: Answer) -> bytes:
        """Nothing: the first event holds text already."""
        return b""

    def piece(self, ask: Ask, answer: Answer, text: str) -> bytes:
        """A body with the next text; a call comes whole, at the end."""
        if ask.tool is not None:
            return b""
        return b"data: %b\r\n\r\n" % self._body(ask, answer, self._part(ask, text), ended=False)

    def closing(self, ask: Ask, answer: Answer) -> bytes:
        """A body with the reason of the end, the usage and, if there is one, the call."""
        part = self._part(ask, answer.text if ask.tool is not None else "")
        return b"data: %b\r\n\r\n" % self._body(ask, answer, part, ended=True)

    def _part(self, ask: Ask, text: str) -> bytes:
        if ask.tool is None:
            return b'{"text":%b}' % _json(text)
        return b'{"functionCall":{"name":%b,"args":%b}}' % (_json(ask.tool), text.encode())

    def _body(self, ask: Ask, answer: Answer, part: bytes, *, ended: bool) -> bytes:
        thought = answer.reasoning_tokens
        made = answer.output_tokens - thought if ended else 0
        total = answer.input_tokens + made + thought
        usage = _USAGE % (answer.input_tokens, made, total, thought, answer.cached_tokens)
        finish = b'"finishReason":"%b",' % _FINISH[answer.finish] if ended else b""
        return _BODY % (part, finish, usage, _json(ask.model), answer.n)


def _text(content: _Content) -> str:
    return "\n".join(
        part.text or (_json(part.function_response.response).decode() if part.function_response else "")
        for part in content.parts
    )


def _shape(ask: Ask, given: _Body, config: _Config) -> None:
    """Set what form the answer takes: a forced call of a function, JSON, or nothing in particular."""
    functions = [function for tool in given.tools for function in tool.function_declarations]
    for schema in (*(bytes(function.parameters) for function in functions), bytes(config.response_schema)):
        unknown = next((name for name in _UNKNOWN if name + b":" in schema), None)
        if unknown is not None:
            raise BadAsk(f"Invalid JSON payload received. Unknown name {unknown.decode()}", model=ask.model)
    calling = given.tool_config.function_calling_config if given.tool_config is not None else None
    if calling is not None and calling.mode == "ANY":
        names = calling.allowed_function_names
        function = next((one for one in functions if not names or one.name in names), None)
        if function is None:
            raise BadAsk("allowed_function_names names no function that is declared.", model=ask.model)
        ask.tool, ask.schema, ask.finish = function.name, _json_schema(function.parameters), "tool"
    elif config.response_mime_type == "application/json":
        ask.schema = _json_schema(config.response_schema) or _ANY_OBJECT


def _json_schema(schema: Raw) -> bytes:
    """The vendor names types in capitals, and takes them in small letters too."""
    return _TYPE.sub(lambda match: match[0].lower(), bytes(schema))
