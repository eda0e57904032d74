"""What the sections of the settings share: their base, and the checks that more than one module of them makes."""

import re

from pydantic import BaseModel, BeforeValidator, ConfigDict

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class Section(BaseModel):
    """What every section shares: frozen, unknown keys refused, no infinities; a value it refuses is never echoed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


def env_name(text: str) -> str:
    """The name of an environment variable, or nothing. Raises ValueError."""
    if text and not _ENV_NAME.fullmatch(text):
        raise ValueError("must be the name of an environment variable, never the secret itself")
    return text


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Number = BeforeValidator(_no_bool)
