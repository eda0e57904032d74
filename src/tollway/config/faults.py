"""Faults in the settings as people read them: which key, what value, what to do. Secrets are never shown."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tollway.config.settings import Settings
from tollway.domain.errors import ConfigError

_SECRET = re.compile(r"key|secret|webhook|token(?!s)|password|passwd|credential|authorization", re.IGNORECASE)
_HIDDEN = "(hidden)"
_SHOWN_MAX = 80


class ConfigErrors(ConfigError):
    """Every fault found, one a line; `key`, `value` and `remedy` are those of the first."""

    def __init__(self, faults: Sequence[ConfigError]) -> None:
        first = faults[0]
        super().__init__(first.key, first.value, first.remedy)
        self.faults = tuple(faults)
        self.args = ("\n".join(str(fault) for fault in faults),)


def shown(key: str, value: object) -> object:
    """What of a value may be shown: nothing of a secret, no credentials in an address, not more than a line."""
    if _SECRET.search(key):
        return _HIDDEN
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return f"a table of {len(value)}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = re.sub(r"://[^/\s]*@", "://(hidden)@", str(value))
    text = re.sub(r"(?i)(password=)[^&\s]*", r"\1(hidden)", text)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"


def nearest(word: str, known: list[str]) -> str:
    """A hint: the known word that was probably meant, or all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def from_validation(error: ValidationError, tree: Mapping[str, Any], origin: Mapping[str, str]) -> list[ConfigError]:
    """The faults that the models found in `tree`, in the words of the settings."""
    faults = []
    for detail in error.errors(include_url=False, include_context=False):
        location = _as_given(tree, [part for part in detail["loc"] if part != "[key]"])
        key = _dotted(location)
        value = shown(key, _value_at(tree, location))
        remedy = _remedy(detail, location, key)
        if key in origin:
            remedy += f" (from {origin[key]})"
        faults.append(ConfigError(key, value, remedy))
    return faults


def _remedy(detail: ErrorDetails, location: Sequence[str | int], key: str) -> str:
    if detail["type"] == "extra_forbidden":
        if _SECRET.search(key):
            return "unknown key; a secret is given by the name of an environment variable, as in api_key_env"
        return f"unknown key; {nearest(str(location[-1]), _known_at(location[:-1]))}"
    if detail["type"] == "missing":
        return "is missing: add it"
    if detail["type"] in ("model_type", "mapping_type", "dict_type"):
        return f"must be a table: [{key}]"
    if detail["type"] == "tuple_type":
        if location[0] == "prices":
            return f'must be a table: [prices."{location[1]}"], or a list of them, each with from'
        return f"must be a list of tables: [[{key}]]" if key == "routes" else "must be a list"
    message = detail["msg"].removeprefix("Value error, ")
    message = re.sub(r"^Input should be ", "must be ", message)
    return message[:1].lower() + message[1:]


def _dotted(location: Sequence[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _as_given(tree: Any, location: Sequence[str | int]) -> list[str | int]:
    """Where it stands in the tree: one price given as a table is read as a list of one, so its index stands nowhere."""
    found: list[str | int] = []
    for part in location:
        if isinstance(part, int) and isinstance(tree, Mapping):
            continue
        found.append(part)
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            tree = None
    return found


def _value_at(tree: Any, location: Sequence[str | int]) -> object:
    """The value that was given, or None: from the tree, since the models keep refused values to themselves."""
    for part in location:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def _known_at(location: Sequence[str | int]) -> list[str]:
    """The keys that may stand in the table at `location`."""
    model: Any = Settings
    for part in location:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(part)].annotation
        elif get_origin(model) is not None:
            model = get_args(model)[0 if get_origin(model) is tuple else 1]
    if get_origin(model) is tuple:
        model = get_args(model)[0]
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [info.alias or name for name, info in model.model_fields.items()]
    return []
