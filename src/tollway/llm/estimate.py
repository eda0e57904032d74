"""How many input tokens a request will be counted as, cheaply and rather too many than too few.

ASCII text is taken at four characters a token, other text at three bytes of UTF-8; each message and each part costs
some framing. An exact counter for vendors whose tokenizer is at hand would stand behind the same function.
"""

from typing import Any

import msgspec

from tollway.domain.llm import LlmRequest

PER_REQUEST = 4
PER_MESSAGE = 4
PER_ATTACHMENT = 2000


def input_tokens(request: LlmRequest) -> int:
    """The estimate for messages, texts to embed, tools, schema and extra fields together. Tokens, at least 1.

    Raises AttributeError or TypeError for messages that are not in the chat form.
    """
    total = PER_REQUEST + request.ready_tokens + sum(text_tokens(text) for text in request.inputs)
    for message in request.messages:
        content = message.get("content")
        total += PER_MESSAGE
        if isinstance(content, str):
            total += text_tokens(content)
        elif content is not None:
            total += _parts(content)
        if len(message) > 2:
            rest = {key: value for key, value in message.items() if key != "content"}
            total += _json_tokens(rest)
    if request.tools:
        total += _json_tokens(request.tools)
    if request.schema:
        total += _json_tokens(request.schema)
    if request.extra:
        total += _json_tokens(request.extra)
    return total


def text_tokens(text: str) -> int:
    """The estimate for plain text."""
    if text.isascii():
        return (len(text) + 3) // 4
    return (len(text.encode("utf-8", "surrogatepass")) + 2) // 3


def _parts(content: Any) -> int:
    total = 0
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, dict) else None
        total += PER_MESSAGE + (text_tokens(text) if isinstance(text, str) else PER_ATTACHMENT)
    return total


def _json_tokens(value: object) -> int:
    return (len(msgspec.json.encode(value)) + 2) // 3
