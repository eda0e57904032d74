"""A call before it is made and after: what was planned and reserved, and what came of it."""

from dataclasses import dataclass

import msgspec

from tollway.config import Route
from tollway.domain.errors import LlmError
from tollway.domain.llm import Completion, LlmRequest
from tollway.llm.channel import Channel
from tollway.llm.providers.wire import Wire, vendor_message, vendor_wait
from tollway.spend.model_price import ModelPrice

_TRY_AGAIN = (408, 409, 425)
# Said by servers that lack an operation, as llama.cpp without embeddings: it is the request that asks too much.
_NOT_IMPLEMENTED = 501


@dataclass(frozen=True, slots=True)
class Served:
    """A route with what it takes to call it; `context_tokens` is its model's window, None if nobody knows it."""

    route: Route
    provider_kind: str
    context_tokens: int | None
    wire: Wire
    transport: Channel


class Plan(msgspec.Struct, frozen=True, gc=False):
    """A call on a route, its money counted at the worst case; nothing is sent yet. `price` holds to its settlement.

    `instead_of` is the route that should have served the call, and the code of why it did not. Where the tier was
    shifted, `shifted` is the tier that was asked for, with the price of its first route.
    """

    request: LlmRequest
    served: Served
    body: bytes
    price: ModelPrice
    input_tokens: int
    reserve_nano: int
    instead_of: tuple[str, str] | None = None
    shifted: tuple[str, ModelPrice] | None = None

    @property
    def tier(self) -> str:
        """The tier of the route."""
        return self.served.route.tier

    @property
    def asked(self) -> str:
        """What was asked for: a tier or a model, before any shift."""
        return self.request.tier if self.shifted is None else self.shifted[0]

    @property
    def route(self) -> str:
        """The route's name."""
        return self.served.route.name

    @property
    def provider(self) -> str:
        """The provider's name as configured."""
        return self.served.route.provider

    @property
    def model(self) -> str:
        """The model asked for."""
        return self.served.route.model

    def standing_in(self, route: str, code: str) -> "Plan":
        """The same call, made because another route could not serve it."""
        return msgspec.structs.replace(self, instead_of=(route, code))

    def result(self, completion: Completion, latency_s: float) -> "CallResult":
        """The whole call. Raises LlmError, with what it cost, where the model refused to answer.

        Clients of the wire get a refusal as the answer that it is.
        """
        result = self.priced(completion, latency_s)
        usage = completion.usage
        if completion.stop_reason == "refusal" and self.request.sent is None:
            raise LlmError(
                "refused",
                "the model refused to answer",
                route=self.route,
                status=200,
                final=True,
            ).charged(usage, None if usage.estimated else result.cost_nano)
        return result

    def priced(self, completion: Completion, latency_s: float) -> "CallResult":
        """The call with its price, however it ended."""
        usage = completion.usage
        cost_nano = self.price.cost_nano(usage)
        shift_nano = 0 if self.shifted is None else self.shifted[1].cost_nano(usage) - cost_nano
        return CallResult(
            completion,
            cost_nano,
            self.route,
            self.provider,
            self.model,
            latency_s,
            tier=self.tier,
            saved_prompt_nano=self.price.prompt_saving_nano(usage),
            saved_shift_nano=shift_nano,
        )


class CallResult(msgspec.Struct, frozen=True, gc=False):
    """An answer and its price. Where `completion.usage` is estimated, so is `cost_nano`.

    An answer without a call is `cached`: `exact` (kept from an earlier call) or `flight` (another's call, made at the
    same time); it costs nothing and saved `saved_nano`. `degraded` names the rungs it stood on: those of budgets, and
    `fallback`.
    Of a call that was made, the vendor's prompt cache saved `saved_prompt_nano`, and the shift of its tier
    `saved_shift_nano` (below 0: it cost more), which are part of no other sum.
    """

    completion: Completion
    cost_nano: int
    route: str
    provider: str
    model: str
    latency_s: float
    cached: str = ""
    saved_nano: int = 0
    degraded: tuple[str, ...] = ()
    tier: str = ""
    saved_prompt_nano: int = 0
    saved_shift_nano: int = 0

    def given_again(self, cached: str) -> "CallResult":
        """The same answer without a call: what it cost is saved."""
        return msgspec.structs.replace(
            self, cached=cached, saved_nano=self.cost_nano, cost_nano=0, saved_prompt_nano=0, saved_shift_nano=0
        )

    def standing_on(self, rung: str) -> "CallResult":
        """The same answer, one rung lower."""
        return msgspec.structs.replace(self, degraded=(*self.degraded, rung))


def failure(status: int, body: bytes, retry_after_s: float | None) -> LlmError:
    """The error an unsuccessful status stands for; where no header says when to come again, the body may."""
    if retry_after_s is None and status >= 400:
        retry_after_s = vendor_wait(body)
    said = vendor_message(body) or "no reason given"
    message = f"the provider answered {status}: {said}"
    if status == 429:
        return LlmError("rate_limited", message, status=status, retry_after_s=retry_after_s)
    if status >= 500 and status != _NOT_IMPLEMENTED:
        return LlmError("provider_5xx", message, status=status, retry_after_s=retry_after_s)
    if status >= 400:
        final = status not in _TRY_AGAIN
        return LlmError("refused", message, status=status, retry_after_s=retry_after_s, final=final)
    return LlmError("bad_response", message, status=status)
