"""The settings of money: what models cost, and what becomes of those whose price nobody knows. US dollars, exact."""

from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tollway.config.forms import Number, Section

UsdPerMtok = Annotated[Decimal, Number, Field(ge=0, le=1_000_000)]
Usd = Annotated[Decimal, Number, Field(ge=0, le=1_000_000)]


class Price(Section):
    """What a provider's model costs from the day `since` (the key is `from`); without a day, before all that have one.

    `cache_write_usd_per_mtok` is of input that the vendor writes to its prompt cache, `reasoning_usd_per_mtok` of those
    output tokens that are reasoning: left out, each costs as other tokens of its side. `per_call_usd` comes on top.
    Capacity that is paid by the hour, used or not, is shared out over the tokens expected of an hour: `usd_per_hour`
    over `mtok_per_hour` million tokens, input and output alike; its tokens need no price of their own beside that.
    """

    input_usd_per_mtok: UsdPerMtok
    output_usd_per_mtok: UsdPerMtok
    cached_input_usd_per_mtok: UsdPerMtok | None = None
    cache_write_usd_per_mtok: UsdPerMtok | None = None
    reasoning_usd_per_mtok: UsdPerMtok | None = None
    per_call_usd: Usd | None = None
    usd_per_hour: Usd | None = None
    mtok_per_hour: Annotated[Decimal, Number, Field(gt=0, le=1_000_000)] | None = None
    since: date | None = Field(default=None, alias="from")

    @model_validator(mode="before")
    @classmethod
    def _paid_by_the_hour(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "usd_per_hour" in raw:
            return {"input_usd_per_mtok": 0, "output_usd_per_mtok": 0, **raw}
        return raw

    @model_validator(mode="after")
    def _hours_and_tokens(self) -> "Price":
        if (self.usd_per_hour is None) != (self.mtok_per_hour is None):
            raise ValueError("usd_per_hour and mtok_per_hour belong together: give both, or neither")
        return self


class Spend(Section):
    """What holds for all money. A model whose price nobody knows is refused at start or, with `worst`, priced at the
    stated worst case: every token of input and output so much. On a budget's rung `fewer_tokens` an answer may have
    `fewer_tokens_share` of the tokens that were asked for.
    """

    unknown_model: Literal["refuse", "worst"] = "refuse"
    worst_input_usd_per_mtok: UsdPerMtok | None = None
    worst_output_usd_per_mtok: UsdPerMtok | None = None
    fewer_tokens_share: Annotated[float, Number, Field(gt=0, lt=1)] = 0.5
