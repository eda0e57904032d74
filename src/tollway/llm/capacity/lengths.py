"""What calls of an agent's step really take: learned output lengths, and how far input estimates are off.

Both fade, so that a changed prompt or model is learned anew within some dozens of calls. Bounded in number; the least
recently used is forgotten. Pure.
"""

import math
from collections import OrderedDict
from typing import Generic, TypeVar

from tollway.domain.llm import Caller
from tollway.llm.capacity.costs import Cost

QUANTILE = 0.9
FADE = 0.97
"""What an observation weighs after the next one: half after 23."""

KNOWN_MAX = 4096
_BINS_PER_DOUBLING = 4
_BINS = 21 * _BINS_PER_DOUBLING
_ENOUGH = 3
_RATIO_MIN, _RATIO_MAX = 0.2, 5.0

V = TypeVar("V")


class _Lengths:
    """A fading histogram of lengths over bins that grow by 2^(1/4)."""

    __slots__ = ("_bins", "_total", "seen")

    def __init__(self) -> None:
        self._bins: dict[int, float] = {}
        self._total = 0.0
        self.seen = 0

    def learn(self, tokens: int) -> None:
        at = min(_BINS, int(math.log2(max(1, tokens)) * _BINS_PER_DOUBLING) + 1) if tokens > 0 else 0
        self.seen += 1
        self._total = self._total * FADE + 1
        self._bins = {bin_: weight * FADE for bin_, weight in self._bins.items() if weight > 1e-3}
        self._bins[at] = self._bins.get(at, 0.0) + 1

    def quantile(self) -> int:
        """The upper edge of the bin in which the quantile lies."""
        seen, bound = 0.0, self._total * QUANTILE
        for at in sorted(self._bins):
            seen += self._bins[at]
            if seen >= bound:
                return math.ceil(2 ** (at / _BINS_PER_DOUBLING)) if at else 0
        return math.ceil(2 ** (max(self._bins, default=0) / _BINS_PER_DOUBLING))


class _Ratio:
    """Actual over estimated, of fading sums, so that large calls count as much as they cost."""

    __slots__ = ("_actual", "_estimated", "seen")

    def __init__(self) -> None:
        self._actual = 0.0
        self._estimated = 0.0
        self.seen = 0

    def learn(self, estimated: int, actual: int) -> None:
        self.seen += 1
        self._actual = self._actual * FADE + actual
        self._estimated = self._estimated * FADE + estimated

    def value(self) -> float:
        return min(_RATIO_MAX, max(_RATIO_MIN, self._actual / self._estimated)) if self._estimated else 1.0


class _Known(Generic[V]):
    """Values by key, the least recently used forgotten."""

    def __init__(self) -> None:
        self._values: OrderedDict[tuple[str, ...], V] = OrderedDict()

    def get(self, key: tuple[str, ...]) -> V | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: tuple[str, ...], value: V) -> V:
        self._values[key] = value
        if len(self._values) > KNOWN_MAX:
            self._values.popitem(last=False)
        return value


class Lengths:
    """One process' knowledge of all agents' steps and routes."""

    def __init__(self) -> None:
        self._outputs: _Known[_Lengths] = _Known()
        self._ratios: _Known[_Ratio] = _Known()

    def cost(self, route: str, caller: Caller, estimated_input: int, max_tokens: int) -> Cost:
        """What to expect of a call: the input corrected by what was learned, the p90 of the output."""
        ratio = self._ratios.get((route, caller.agent, caller.step))
        if ratio is not None and ratio.seen >= _ENOUGH:
            estimated_input = max(1, math.ceil(estimated_input * ratio.value()))
        output = self._outputs.get((caller.agent, caller.step))
        expected = output.quantile() if output is not None and output.seen >= _ENOUGH else max_tokens
        return Cost(estimated_input, min(expected, max_tokens), max_tokens)

    def learn(self, route: str, caller: Caller, estimated_input: int, input_tokens: int, output_tokens: int) -> None:
        """A call ended: its input as it was estimated (not as corrected) and what the vendor counted."""
        key = (caller.agent, caller.step)
        output = self._outputs.get(key) or self._outputs.put(key, _Lengths())
        output.learn(output_tokens)
        if estimated_input > 0 and input_tokens > 0:
            ratio = self._ratios.get((route, *key)) or self._ratios.put((route, *key), _Ratio())
            ratio.learn(estimated_input, input_tokens)
