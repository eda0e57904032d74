"""What processes tell each other of breakers: who speaks of what, on which channel, in which form."""

from dataclasses import dataclass
from typing import Literal

import msgspec


@dataclass(frozen=True, slots=True)
class Subject:
    """What a kind of breaker guards: its word in logs, and the channel its news travels on."""

    noun: str
    channel: str


ROUTES = Subject("route", "breaker")
DEPENDENCIES = Subject("dependency", "dependency")


class Told(msgspec.Struct, omit_defaults=True):
    """A change as it travels; `at` and `until` are seconds of the database's time, `by` is the process that says it."""

    name: str = msgspec.field(name="route")
    state: Literal["open", "probing", "ramping"]
    by: str
    at: float
    until: float = 0.0
    pause_s: float = 0.0


_decode = msgspec.json.Decoder(Told).decode
_encode = msgspec.json.Encoder().encode


def read_told(message: str) -> Told | None:
    """The change a message tells; None where a version of Tollway speaks otherwise."""
    try:
        return _decode(message)
    except msgspec.DecodeError:
        return None


def told_text(told: Told) -> str:
    """The message that tells a change."""
    return _encode(told).decode()
