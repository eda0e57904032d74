"""What is kept: a model's whole, good answer with what it cost, or the result of a task. Compact, in MessagePack.

Both are arrays on the wire: later versions add fields at the end, with defaults, and earlier ones ignore them.
"""

import msgspec

from tollway.domain.llm import Completion, ToolCall, Usage
from tollway.llm.calls import CallResult

GOOD_ENDS = frozenset({"stop", "tool_calls", "length"})
"""Stop reasons of answers worth giving again. `length` is one: the bound is part of the call's fingerprint."""


class Kept(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A model's answer. `cost_nano` is what it cost when it was made, and what each hit saves."""

    text: str
    stop_reason: str
    model: str
    cost_nano: int
    route: str
    provider: str
    route_model: str
    usage: tuple[int, int, int, int, bool, int, int]
    tool_calls: tuple[tuple[str, str, str], ...] = ()
    reasoning: str = ""
    vectors: tuple[tuple[float, ...], ...] = ()
    body: bytes = b""
    form: str = ""
    tier: str = ""

    @classmethod
    def of(cls, result: CallResult) -> "Kept":
        """What to keep of a call that came back whole."""
        answer, usage = result.completion, result.completion.usage
        return cls(
            answer.text,
            answer.stop_reason,
            answer.model,
            result.cost_nano,
            result.route,
            result.provider,
            result.model,
            (
                usage.input_tokens,
                usage.output_tokens,
                usage.cached_tokens,
                usage.reasoning_tokens,
                usage.estimated,
                usage.cache_write_tokens,
                usage.cache_write_long_tokens,
            ),
            tuple((call.id, call.name, call.arguments) for call in answer.tool_calls),
            answer.reasoning,
            answer.vectors,
            answer.body,
            answer.form,
            result.tier,
        )

    @property
    def keepable(self) -> bool:
        """Whether it is good enough to be given again."""
        return self.stop_reason in GOOD_ENDS

    @property
    def completion(self) -> Completion:
        """The answer as the provider gave it; its usage is that of the call that was paid."""
        return Completion(
            self.text,
            tuple(ToolCall(*call) for call in self.tool_calls),
            Usage(*self.usage),
            self.stop_reason,
            self.model,
            self.reasoning,
            self.vectors,
            self.body,
            self.form,
        )

    def result(self) -> CallResult:
        """The call as it was made, but that it took no time."""
        completion = self.completion
        return CallResult(completion, self.cost_nano, self.route, self.provider, self.route_model, 0.0, tier=self.tier)


class KeptResult(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a task returned, as JSON."""

    result: bytes

    @property
    def keepable(self) -> bool:
        """A task that returned is worth keeping."""
        return True
