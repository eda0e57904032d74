"""What becomes of each call: limits first, then faults, then an answer and the time it takes; and what is billed.

Billed are: an answer in full, garbled or late ones too; of a cut one the whole input and the output sent; of a call the
client left, the same if it was streaming, else all of it, for the work goes on. 400, 429 and 500 cost nothing.
A prompt that holds the words "JSON Schema" and a schema is obeyed as a model would: with JSON, in a code fence.
Failed calls (500) count against the limits, refused ones (429) do not. The tokens billed are those of the law
`output_tokens` for every form of answer; one that must fit a schema is never cut short by max_tokens.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from tollway.simulator.buckets import Charge, Gauges, Limits, Rates
from tollway.simulator.faults import Fault
from tollway.simulator.fitting import Fitters, UnfitSchema
from tollway.simulator.ledger import Entry, Ledger
from tollway.simulator.meter import Meter
from tollway.simulator.neutral import Answer, Ask, BadAsk, estimate_tokens
from tollway.simulator.settings import Profile, Settings
from tollway.simulator.words import fingerprint, words

_INJECTED_RETRY_AFTER_S = 1.0
_CHARS_PER_TOKEN = 4


@dataclass(slots=True)
class Plan:
    """The fate of a call: an answer after `delay_s`, or an error with its `status` and `message`.

    `gauges` are the limits of requests and tokens after the call was counted.
    """

    status: int
    profile: Profile
    input_tokens: int
    answer: Answer | None = None
    fault: Fault | None = None
    delay_s: float = 0.0
    message: str = ""
    retry_after_s: float = math.inf
    gauges: Gauges | None = None
    limits: Limits | None = None
    reserved: int = 0

    def bill(self, entry: Entry, share: float = 1.0) -> None:
        """Write on the entry what this call used and costs, `share` being how much of the output was made."""
        entry.status = self.status
        if self.answer is None:
            return
        entry.input_tokens = self.input_tokens
        entry.output_tokens = int(self.answer.output_tokens * share)
        entry.cost_nano = self.profile.cost_nano(entry.input_tokens, entry.output_tokens, self.answer.cached_tokens)

    def correct(self, made: int, now: float) -> None:
        """The answer has ended: what was reserved of the limit of output and not made goes back."""
        if self.limits is not None and self.reserved != made:
            self.limits.correct(self.reserved - made, now)


class Desk:
    """Decides and keeps the books. Time is an argument (monotonic seconds); chance comes from the settings' seed."""

    def __init__(self, settings: Settings, now: float) -> None:
        self.ledger = Ledger()
        self._fitters = Fitters()
        self.meter = Meter(now)
        self._limits: dict[str, tuple[Rates, Limits | None]] = {}
        self._n = 0
        self.settings = settings
        self._rng = Random(settings.seed)
        self._make_limits(now)

    def change(self, settings: Settings, now: float) -> None:
        """Take new settings. Buckets whose limits did not change keep their level; a new seed starts chance anew."""
        if settings.seed != self.settings.seed:
            self._rng = Random(settings.seed)
        self.settings = settings
        self._make_limits(now)

    def reset(self, now: float) -> None:
        """Empty the ledger and the meter, fill the buckets, start chance anew."""
        self.ledger.clear()
        self.meter = Meter(now)
        self._rng = Random(self.settings.seed)
        for _, limits in self._limits.values():
            if limits is not None:
                limits.fill(now)

    def next_number(self) -> int:
        """A number for the next call, from which its ids are made."""
        self._n += 1
        return self._n

    def plan(self, ask: Ask, n: int, now: float) -> Plan:
        """Decide on a call that arrives at `now`. Raises BadAsk for a schema that nothing fits."""
        profile = self.settings.profile(ask.model)
        tokens = estimate_tokens(ask.texts)
        fault = profile.faults.draw(self._rng)
        limits = self._limits[profile.limits_of][1]
        if fault is Fault.STATUS_429:
            message = "Too many requests, by the rate of the fault status_429"
            gauges = limits.gauges(now) if limits else None
            self.meter.count(ask.model, 0, refused=True, now=now)
            return Plan(
                429, profile, tokens, fault=fault, message=message, retry_after_s=_INJECTED_RETRY_AFTER_S, gauges=gauges
            )
        wanted = 0 if ask.embeds else max(1, round(profile.output_tokens.draw(self._rng)))
        made = wanted if ask.max_tokens is None else min(wanted, ask.max_tokens)
        cached = int(tokens * profile.cached_share)
        reserved = made if ask.max_tokens is None or ask.embeds else ask.max_tokens
        charge = Charge(tokens + (reserved if ask.counts_output else 0), tokens - cached, reserved)
        gauges = None
        if limits is not None:
            refusal = limits.admit(charge, now)
            gauges = limits.gauges(now)
            if refusal is not None:
                self.meter.count(ask.model, 0, refused=True, now=now)
                message = _refusal_text(ask.model, refusal.what, refusal.retry_after_s)
                wait_s = refusal.retry_after_s
                return Plan(429, profile, tokens, message=message, retry_after_s=wait_s, gauges=gauges)
        self.meter.count(ask.model, charge.tokens, refused=False, now=now)
        plan = Plan(200, profile, tokens, None, fault, profile.latency.draw(self._rng), gauges=gauges)
        plan.limits, plan.reserved = limits, reserved
        if fault is Fault.STATUS_500:
            plan.status, plan.message = 500, "The server failed, by the rate of the fault status_500"
            return plan
        if fault is Fault.SLOW:
            plan.delay_s += profile.slow_s
        if not ask.stream:
            plan.delay_s += made * profile.s_per_token
        thought = int(made * profile.reasoning_share)
        text, structured = self._text(ask, made - thought)
        finish = "length" if made < wanted and not structured else ask.finish
        plan.answer = Answer(n, text, tokens, made, finish, cached, thought)
        return plan

    def _text(self, ask: Ask, made: int) -> tuple[str, bool]:
        """What is answered, and whether it had to fit a schema."""
        if ask.embeds:
            return "", False
        mark = fingerprint(ask.texts, self.settings.seed)
        told = ask.schema is None and _schema_told(ask.texts[0])
        schema = told or ask.schema
        if not schema:
            return words(mark, made), False
        try:
            value = self._fitters.of(schema).fit(ask.texts[-1], mark)
        except UnfitSchema as error:
            raise BadAsk(f"Invalid schema: {error}", field="response_format", model=ask.model) from None
        text = msgspec.json.encode(value).decode()
        return (f"```json\n{text}\n```" if told else text), True

    def _make_limits(self, now: float) -> None:
        held = self._limits
        self._limits = {}
        for profile in self.settings.profiles():
            key = profile.limits_key
            before = held.get(profile.limits_of)
            if profile.limits_of in self._limits:
                continue
            if before is not None and before[0] == key:
                self._limits[profile.limits_of] = before
                continue
            self._limits[profile.limits_of] = (key, Limits(key, now) if any(key[:4]) else None)


def _schema_told(text: str) -> bytes | None:
    """The JSON Schema that a prompt asks to fit, if it does."""
    _, asked, after = text.partition("JSON Schema")
    start = after.find("{")
    if not asked or start < 0:
        return None
    try:
        schema = msgspec.json.decode(after[start:].strip(), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None
    return msgspec.json.encode(schema)


def pieces(answer: Answer, structured: bool) -> list[str]:
    """An answer's text as a model would stream it: a token a piece."""
    text = answer.text
    if structured:
        return [text[at : at + _CHARS_PER_TOKEN] for at in range(0, len(text), _CHARS_PER_TOKEN)]
    first, *others = text.split(" ")
    return [first, *(" " + other for other in others)]


def _refusal_text(model: str, what: str, retry_after_s: float) -> str:
    if retry_after_s == math.inf:
        return f"Request too large for {model}: its tokens exceed what the limit ever allows at once"
    return f"Rate limit reached for {model} on {what} per min. Please try again in {retry_after_s:.3f}s."
