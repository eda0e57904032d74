"""The base of the settings' sections, and numbers as all of them take them."""

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Number = BeforeValidator(_no_bool)


class Section(BaseModel):
    """What every section shares: frozen, unknown keys refused, no infinities; a value it refuses is never echoed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
