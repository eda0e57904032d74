"""Lays single values over the tree that the file gave: the environment's, then the flags'.

A name is resolved against the models, so that an override of a key that does not exist is an error, not silence.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from tollway.config.faults import nearest, shown
from tollway.config.settings import Settings
from tollway.domain.errors import ConfigError

PREFIX = "TOLLWAY_"


@dataclass
class Layers:
    """The tree as laid so far, where each overriding value came from, and what could not be laid."""

    tree: dict[str, Any]
    origin: dict[str, str] = field(default_factory=dict)
    faults: list[ConfigError] = field(default_factory=list)


class _Unplaced(Exception):
    """The path leads nowhere; says what would."""


def apply_environment(layers: Layers, environ: Mapping[str, str]) -> None:
    """Lay every TOLLWAY_<SECTION>__<KEY> over the tree; other TOLLWAY_ names are no settings."""
    for name in sorted(environ):
        if not name.startswith(PREFIX) or "__" not in name:
            continue
        words = name.removeprefix(PREFIX).lower().split("__")
        try:
            path = _resolve(layers.tree, words)
        except _Unplaced as problem:
            layers.faults.append(ConfigError(name, shown(name, environ[name]), str(problem)))
            continue
        value: object = environ[name]
        if path == ["worker", "lanes"]:
            value = [lane.strip() for lane in environ[name].split(",") if lane.strip()]
        _lay(layers, path, value, name)


def apply_flags(layers: Layers, flags: Mapping[str, object]) -> None:
    """Lay the flags, by dotted key, over the tree; None is a flag that was not given."""
    for key, value in flags.items():
        if value is None:
            continue
        try:
            path = _resolve(layers.tree, key.split("."))
        except _Unplaced as problem:
            layers.faults.append(ConfigError(key, shown(key, value), str(problem)))
            continue
        _lay(layers, path, value, "a flag")


def _lay(layers: Layers, path: list[str], value: object, origin: str) -> None:
    table = layers.tree
    for word in path[:-1]:
        under = table.setdefault(word, {})
        if not isinstance(under, dict):
            return  # the file put a value where a table belongs; validation says so
        table = under
    table[path[-1]] = value
    layers.origin[".".join(path)] = origin


def _resolve(tree: Mapping[str, Any], words: list[str]) -> list[str]:
    """The path of keys that `words` mean; names in maps match whatever their case and punctuation."""
    section, *rest = words
    if section not in Settings.model_fields:
        raise _Unplaced(f"unknown section; {nearest(section, list(Settings.model_fields))}")
    annotation = Settings.model_fields[section].annotation
    if get_origin(annotation) is tuple:
        raise _Unplaced(f"{section} is a list: set it in tollway.toml")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [section, _key(annotation, rest)]
    model = get_args(annotation)[1]
    if len(rest) < 2:
        raise _Unplaced(f"name the entry and its key: {PREFIX}{section.upper()}__NAME__KEY")
    name, *keys = rest
    present = tree.get(section)
    names = list(present) if isinstance(present, Mapping) else []
    matches = [known for known in names if _plain(known) == _plain(name)]
    if section == "prices":
        if not matches:
            raise _Unplaced("no such price in tollway.toml; new prices are set there")
        if isinstance(present, Mapping) and isinstance(present[matches[0]], list):
            raise _Unplaced("this model has several dated prices: they are set in tollway.toml")
        model = get_args(model)[0]
    return [section, matches[0] if matches else name, _key(model, keys)]


def _key(model: type[BaseModel], words: list[str]) -> str:
    known = [info.alias or name for name, info in model.model_fields.items()]
    if len(words) == 1 and words[0] in known:
        return words[0]
    raise _Unplaced(f"unknown key; {nearest('.'.join(words), known)}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())
