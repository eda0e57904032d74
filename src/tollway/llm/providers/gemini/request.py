"""A neutral request as the body of generateContent.

System messages move to `systemInstruction`, the assistant becomes the `model`, calls of tools and their results become
parts, results by the name of their function.
"""

from typing import Any

import msgspec

from tollway.domain.llm import LlmRequest
from tollway.llm.providers.gemini.schema import subset
from tollway.llm.providers.wire import check_extra, refused, to_json
from tollway.llm.schema import prepare

FORM = "gemini.generate"
# The vendor takes every name in either spelling.
_RESERVED = frozenset(("contents", "model", "stream", "max_tokens", "generation_config"))
_RESERVED_OUTPUT = frozenset(("maxOutputTokens", "max_output_tokens", "candidateCount", "candidate_count"))
_SYSTEM = ("system", "developer")
_MODES = {"auto": "AUTO", "required": "ANY", "none": "NONE"}

# Newer models refuse a call of a tool without the signature of the thought that led to it. This is what the vendor
# lets one send for calls whose signature is not at hand.
_SIGNING_MODELS = ("gemini-3",)
_NO_SIGNATURE = "skip_thought_signature_validator"


def encode(request: LlmRequest, model: str) -> bytes:
    """The body. Raises LlmError for messages this form cannot carry."""
    try:
        body = _body(request, model)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise refused(f"the messages or tools cannot be put in Gemini's form: {error!r}") from None
    check_extra(request.extra, _RESERVED)
    config = request.extra.get("generationConfig", {})
    if not isinstance(config, dict):
        raise refused("generationConfig must be an object")
    check_extra(config, _RESERVED_OUTPUT)
    body["generationConfig"] = {**config, **body["generationConfig"]}
    return to_json({**request.extra, **body})


def _body(request: LlmRequest, model: str) -> dict[str, Any]:
    system, contents = _split(request.messages, signed=model.startswith(_SIGNING_MODELS))
    config: dict[str, Any] = {"maxOutputTokens": request.max_tokens}
    if request.temperature is not None:
        config["temperature"] = request.temperature
    if request.top_p is not None:
        config["topP"] = request.top_p
    if request.stop:
        config["stopSequences"] = request.stop
    if request.schema is not None:
        config["responseMimeType"] = "application/json"
        config["responseSchema"] = subset(msgspec.json.decode(prepare(request.schema).plain))
    body: dict[str, Any] = {"contents": contents, "generationConfig": config}
    if system:
        body["systemInstruction"] = {"parts": system}
    if request.tools:
        functions = [_function(tool["function"]) for tool in request.tools if "function" in tool]
        others = [tool for tool in request.tools if "function" not in tool]
        body["tools"] = [*others, {"functionDeclarations": functions}] if functions else others
        if request.tool_choice is not None:
            body["toolConfig"] = {"functionCallingConfig": _choice(request.tool_choice)}
    return body


def _choice(given: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(given, dict):
        return {"mode": "ANY", "allowedFunctionNames": [given["function"]["name"]]}
    return {"mode": _MODES[given]}


def _function(function: dict[str, Any]) -> dict[str, Any]:
    made = {"name": function["name"], "description": function.get("description") or function["name"]}
    if (function.get("parameters") or {}).get("properties"):
        made["parameters"] = subset(function["parameters"])
    return made


def _split(given: list[dict[str, Any]], *, signed: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The system's parts, and the conversation with neighbours of one role put together."""
    system: list[dict[str, Any]] = []
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for message in given:
        role = message["role"]
        if role in _SYSTEM:
            system += _parts(message.get("content"))
            continue
        if role == "tool":
            made, parts = "user", [_result(message, names[message["tool_call_id"]])]
        elif role == "assistant":
            calls = message.get("tool_calls") or ()
            names |= {call["id"]: call["function"]["name"] for call in calls}
            made, parts = "model", _parts(message.get("content")) + [_call(call, signed) for call in calls]
        elif role == "user":
            made, parts = "user", _parts(message.get("content"))
        else:
            raise ValueError(f"no such role: {role}")
        if contents and contents[-1]["role"] == made:
            contents[-1]["parts"] += parts
        else:
            contents.append({"role": made, "parts": parts})
    return system, contents


def _call(call: dict[str, Any], signed: bool) -> dict[str, Any]:
    function = call["function"]
    arguments = msgspec.json.decode(function.get("arguments") or "{}", type=dict[str, Any])
    part: dict[str, Any] = {"functionCall": {"name": function["name"], "args": arguments}}
    signature = ((call.get("extra_content") or {}).get("google") or {}).get("thought_signature")
    if signature or signed:
        part["thoughtSignature"] = signature or _NO_SIGNATURE
    return part


def _result(message: dict[str, Any], name: str) -> dict[str, Any]:
    """A result must be an object."""
    content = message.get("content")
    text = content if isinstance(content, str) else "\n".join(part["text"] for part in content or ())
    try:
        response = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        response = {"result": text}
    return {"functionResponse": {"name": name, "response": response}}


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"text": content}] if content else []
    return [_part(part) for part in content or ()]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    """Texts and images change their form; every other part is passed as it is."""
    if part.get("type") == "text":
        return {"text": part["text"]}
    if part.get("type") != "image_url":
        return part
    url: str = part["image_url"]["url"]
    if not url.startswith("data:"):
        return {"fileData": {"fileUri": url}}
    kind, _, data = url.removeprefix("data:").partition(";base64,")
    return {"inlineData": {"mimeType": kind, "data": data}}
