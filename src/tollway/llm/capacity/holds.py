"""What a call holds of a route's capacity from before it is sent until its end is known; ended exactly once."""

from typing import Protocol

from tollway.hotstate.capacity import NOTHING, Vector
from tollway.llm.capacity.costs import Counts, charge_of


class Holder(Protocol):
    """Who lent it."""

    counts: Counts

    def ended(self, hold: "Hold", back: Vector) -> None:
        """A hold has ended; `back` is what it was charged too much (below 0: too little)."""


class Hold:
    """The right to send one call. Say once what became of it; what is said afterwards is not heard."""

    __slots__ = ("_holder", "_open", "charge", "since", "tag")

    def __init__(self, holder: Holder, charge: Vector, since: float, tag: object = None) -> None:
        self._holder = holder
        self._open = True
        self.charge = charge
        self.since = since
        self.tag = tag

    def settle(self, input_tokens: int, output_tokens: int) -> None:
        """The vendor counted so many tokens."""
        _, tokens, front_input, front_output = self.charge
        output = output_tokens if self._holder.counts == "actual" else front_output
        _, counted, counted_input, counted_output = charge_of(input_tokens, output)
        self._end((0.0, tokens - counted, front_input - counted_input, front_output - counted_output))

    def release(self) -> None:
        """It surely was not sent, or was not counted: all of it goes back."""
        self._end(self.charge)

    def failed(self) -> None:
        """It was sent, and nothing is known: what was charged stays charged."""
        self._end(NOTHING)

    def _end(self, back: Vector) -> None:
        if self._open:
            self._open = False
            self._holder.ended(self, back)
