"""The arithmetic of a model's price: exact, in integer nano-dollars.

Rates are nano-dollars per million tokens, and a call's cost is rounded half up once, at the end. A vendor's price steps
(dearer above a number of input tokens) hold for all tokens of the call, as vendors charge.
"""

from dataclasses import dataclass

from tollway.domain.llm import Usage

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Nano-dollars per million tokens of each sort; `reasoning` None: as any other output."""

    input: int
    output: int
    cached_input: int
    cache_write: int
    cache_write_long: int
    reasoning: int | None = None


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """The price of a model at one time. `steps` are (input tokens, rates above them), the highest first.

    `version` says where the price comes from, for the ledger; `per_call_nano` is charged for every call.
    """

    base: Rates
    version: str
    steps: tuple[tuple[int, Rates], ...] = ()
    per_call_nano: int = 0

    def rates(self, input_tokens: int) -> Rates:
        """What a call of so many input tokens pays for each of its tokens."""
        for above, rates in self.steps:
            if input_tokens > above:
                return rates
        return self.base

    def cost_nano(self, usage: Usage) -> int:
        """What the call costs, in nano-dollars, rounded half up."""
        rates = self.rates(usage.input_tokens) if self.steps else self.base
        total = usage.output_tokens * rates.output
        if rates.reasoning is not None:
            total += min(usage.reasoning_tokens, usage.output_tokens) * (rates.reasoning - rates.output)
        if not (usage.cached_tokens or usage.cache_write_tokens):
            return (total + usage.input_tokens * rates.input + _MILLION // 2) // _MILLION + self.per_call_nano
        cached = min(usage.cached_tokens, usage.input_tokens)
        written = min(usage.cache_write_tokens, usage.input_tokens - cached)
        long = min(usage.cache_write_long_tokens, written)
        total += (usage.input_tokens - cached - written) * rates.input + cached * rates.cached_input
        total += (written - long) * rates.cache_write + long * rates.cache_write_long
        return (total + _MILLION // 2) // _MILLION + self.per_call_nano

    def prompt_saving_nano(self, usage: Usage) -> int:
        """What the vendor's prompt cache took off the call, in nano-dollars; below 0 where writing to it cost more."""
        if not (usage.cached_tokens or usage.cache_write_tokens):
            return 0
        plain = Usage(usage.input_tokens, usage.output_tokens, reasoning_tokens=usage.reasoning_tokens)
        return self.cost_nano(plain) - self.cost_nano(usage)

    def worst_nano(self, input_tokens: int, output_tokens_max: int, *, caches: bool = True) -> int:
        """The most a call of this size, or a smaller one, can cost.

        That is its output in full, all of it reasoning if that is dearer; its input uncached or, if it `caches`,
        written; at the dearest of the steps it may come to stand on.
        """
        most = _worst(self.base, input_tokens, output_tokens_max, caches=caches)
        for above, rates in self.steps:
            if input_tokens > above:
                most = max(most, _worst(rates, input_tokens, output_tokens_max, caches=caches))
        return -(-most // _MILLION) + self.per_call_nano


def _worst(rates: Rates, input_tokens: int, output_tokens: int, *, caches: bool) -> int:
    dearest = max(rates.input, rates.cached_input)
    if caches:
        dearest = max(dearest, rates.cache_write, rates.cache_write_long)
    return input_tokens * dearest + output_tokens * max(rates.output, rates.reasoning or 0)
