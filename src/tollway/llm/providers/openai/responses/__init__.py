"""OpenAI's Responses API, used without its state: the whole conversation goes with each request."""

from tollway.llm.providers.openai.responses.request import FORM, encode
from tollway.llm.providers.openai.responses.response import decode
from tollway.llm.providers.openai.responses.stream import ResponsesStream

__all__ = ["FORM", "ResponsesStream", "decode", "encode"]
