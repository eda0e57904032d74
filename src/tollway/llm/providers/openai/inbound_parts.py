"""What the inbound chat and Responses wires of OpenAI share: errors, function tools and the choice among them."""

from typing import Any

import msgspec

from tollway.llm.providers.inbound import Fault, bad, check_schema

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_CODES = {
    "unauthenticated": "invalid_api_key",
    "unknown_tier": "model_not_found",
    "no_route": "model_not_found",
    "rate_limited": "rate_limit_exceeded",
    "overloaded": "rate_limit_exceeded",
}
CHOICES = ("auto", "none", "required")


def error(fault: Fault) -> bytes:
    """An error object, as this vendor's SDKs read it."""
    return msgspec.json.encode({"error": error_object(fault)})


def error_object(fault: Fault) -> dict[str, Any]:
    """Its inner part."""
    kind = _TYPES.get(fault.status) or ("server_error" if fault.status >= 500 else "invalid_request_error")
    if kind == "not_found_error":
        kind = "invalid_request_error"
    code = _CODES.get(fault.code, fault.code)
    return {"message": fault.message, "type": kind, "param": fault.param, "code": code}


def check_tools(tools: list[dict[str, Any]]) -> None:
    """Raise Problem for function tools without a name or with a broken schema. Other kinds of tools pass."""
    for index, tool in enumerate(tools):
        if tool.get("type", "function") != "function":
            continue
        place = f"tools[{index}].function"
        function = tool.get("function")
        if not isinstance(function, dict):
            raise bad(place, "is required")
        check_function(function, place)


def check_function(function: dict[str, Any], place: str) -> None:
    """Raise Problem unless the function has a name, and a schema that is one, if any."""
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise bad(f"{place}.name", "must be a text of at least one character")
    if function.get("parameters") is not None:
        check_schema(function["parameters"], f"{place}.parameters")


def check_choice(choice: str | dict[str, Any] | None, tools: list[dict[str, Any]] | None) -> None:
    """Raise Problem for a choice among tools that is none, in the chat form."""
    if choice is None or choice in ("auto", "none"):
        return
    if not tools:
        raise bad("tool_choice", "needs tools to choose from")
    if isinstance(choice, str):
        if choice not in CHOICES:
            raise bad("tool_choice", f"must be one of {', '.join(CHOICES)}, or name a function")
        return
    if choice.get("type") != "function":
        return
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not any((tool.get("function") or {}).get("name") == name for tool in tools):
        raise bad("tool_choice", f"names no function in tools: {name!r}")
