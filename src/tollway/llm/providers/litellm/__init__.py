"""The long tail of vendors, by way of the library litellm (the extra `litellm`), in the form of chat completions.

Slower and vaguer than the wires of our own: use it for vendors that have none.
"""

from dataclasses import replace
from functools import partial

from tollway.config import Provider
from tollway.domain.llm import LlmRequest
from tollway.llm.providers.litellm.bridge import Bridge
from tollway.llm.providers.openai.request import encode
from tollway.llm.providers.openai.response import decode
from tollway.llm.providers.openai.stream import OpenAiStream
from tollway.llm.providers.wire import Endpoint, Wire, refused

FORM = "litellm.chat"
# The library takes addresses, keys and ways of its own to try again as fields of a request: only these may be set.
_EXTRA = frozenset(
    ("frequency_penalty", "logit_bias", "parallel_tool_calls", "presence_penalty", "reasoning_effort", "seed",
     "thinking", "user")
)  # fmt: skip


def wire(provider: Provider, key: str | None) -> Wire:
    """The wire to whatever the route's `model` names, as `vendor/model`. Raises ImportError without the extra."""
    return Wire({}, Endpoint(FORM, "", _encode, decode), OpenAiStream, channel=partial(Bridge, provider.base_url, key))


def _encode(request: LlmRequest, model: str) -> bytes:
    unknown = sorted(request.extra.keys() - _EXTRA)
    if unknown:
        raise refused(f"extra may not hold {', '.join(unknown)} here: it takes {', '.join(sorted(_EXTRA))}")
    return encode("max_tokens", replace(request, sent=None), model)
