"""Money is integer nano-dollars; floats appear only at the border."""

from decimal import ROUND_HALF_UP, Decimal

NANO = 1_000_000_000


def usd(nano: int) -> float:
    """Nano-dollars as the number the API shows beside them (at most 9 decimals)."""
    return nano / NANO


def nano(amount: Decimal | float | int | str) -> int:
    """Dollars as nano-dollars, rounded half up.

    Raises ValueError for what is not a finite number.
    """
    value = amount if isinstance(amount, Decimal) else Decimal(str(amount))
    if not value.is_finite():
        raise ValueError(f"not a finite amount of money: {amount}")
    return int((value * NANO).to_integral_value(rounding=ROUND_HALF_UP))
