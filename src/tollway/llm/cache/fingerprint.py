"""What makes two calls the same: a hash of their scope and of everything that shapes the answer.

Canonical JSON (keys in order) of an array, so that no two different calls run together, under BLAKE2b. How an answer
is delivered (streamed or whole) and who the end user is are left out.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from tollway.domain.llm import Caller, LlmRequest
from tollway.llm.providers.wire import refused

FINGERPRINT_BYTES = 32
SILENT = frozenset(
    {
        "stream",
        "stream_options",
        "user",
        "safety_identifier",
        "metadata",
        "prompt_cache_key",
        "prompt_cache_retention",
    }
)
"""Top-level fields of a request that do not shape its answer."""

_LLM = "llm/1"
_TASK = "task/1"
_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.decode


def fingerprint(caller: Caller, request: LlmRequest) -> bytes:
    """The key of a call's answer, FINGERPRINT_BYTES long, within its tenant and agent version.

    Raises LlmError `refused` for a request that is not JSON.
    """
    try:
        return _hash(_parts(caller, request))
    except (TypeError, ValueError, RecursionError) as error:
        raise refused(f"the request is not JSON: {error}") from None


def task_fingerprint(caller: Caller, name: str, args: Sequence[Any], ttl_s: float) -> bytes:
    """The key of a task's result, within its tenant and agent version. Raises ValueError for what is not JSON.

    `ttl_s` is part of it, so that code which asks for fresher results does not get those kept for longer.
    """
    try:
        return _hash((_TASK, caller.tenant, caller.version, name, args, ttl_s))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"the arguments of task {name!r} must be JSON, since cache_ttl is set and they are its key: {error}"
        ) from None


def _parts(caller: Caller, request: LlmRequest) -> Sequence[Any]:
    sent = request.sent
    return (
        _LLM,
        caller.tenant,
        caller.version,
        request.tier,
        request.messages,
        request.max_tokens,
        None if request.temperature is None else float(request.temperature),
        None if request.top_p is None else float(request.top_p),
        request.stop,
        request.tools,
        request.tool_choice,
        request.schema,
        request.schema_name if request.schema is not None else "",
        _shaping(request.extra),
        request.inputs,
        None if sent is None else (sent.form, _shaping(sent.fields)),
    )


def _shaping(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that shape the answer; what is raw JSON is read, since the order of its keys says nothing."""
    return {
        name: _decode(value) if isinstance(value, msgspec.Raw) else value
        for name, value in fields.items()
        if name not in SILENT
    }


def _hash(parts: Sequence[Any]) -> bytes:
    try:
        text = _encode(parts)
    except TypeError:  # keys that are no strings cannot be put in order as they are
        text = _encode(msgspec.to_builtins(parts, str_keys=True))
    return blake2b(text, digest_size=FINGERPRINT_BYTES).digest()
