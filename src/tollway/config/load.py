"""Reads the settings: flags over environment over `tollway.toml` over defaults, into one validated object.

Every fault is reported at once, each as key, value and remedy; the values of secrets are never shown.
"""

import os
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tollway.config.checks import contradictions
from tollway.config.faults import ConfigErrors, from_validation, shown
from tollway.config.overrides import Layers, apply_environment, apply_flags
from tollway.config.settings import LANES, SIMULATED, Settings
from tollway.domain.errors import ConfigError

DEFAULT_FILE = Path("tollway.toml")


def load_settings(
    path: Path | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """The settings from the file at `path` (else ./tollway.toml if there is one), `environ` and `flags`.

    `flags` maps dotted keys (`server.port`, `providers.sim.base_url`) to values; None means not given.
    Raises ConfigErrors, which is a ConfigError, naming everything that is wrong.
    """
    layers = Layers(_with_defaults(_read(path)))
    apply_environment(layers, environ)
    apply_flags(layers, flags or {})
    worker = layers.tree.setdefault("worker", {})
    lanes = layers.tree["lanes"]
    if isinstance(worker, dict):
        worker.setdefault("lanes", list(lanes if isinstance(lanes, dict) else LANES))
    try:
        settings = Settings.model_validate(layers.tree)
    except ValidationError as error:
        raise ConfigErrors([*layers.faults, *from_validation(error, layers.tree, layers.origin)]) from None
    faults = [*layers.faults, *contradictions(settings)]
    if faults:
        raise ConfigErrors(faults)
    return settings


def _read(path: Path | None) -> dict[str, Any]:
    """The file as TOML gives it, decimals exact; an empty tree when none was named and none is there."""
    file = path if path is not None else DEFAULT_FILE
    try:
        text = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        if path is None:
            return {}
        raise ConfigErrors([ConfigError("--config", str(file), "there is no such file")]) from None
    except UnicodeDecodeError:
        raise ConfigErrors([ConfigError("--config", str(file), "must be UTF-8 text")]) from None
    except OSError as error:
        remedy = f"cannot be read ({error.strerror}); check its path and permissions"
        raise ConfigErrors([ConfigError("--config", str(file), remedy)]) from None
    try:
        return tomllib.loads(text.removeprefix("\ufeff"), parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigErrors(
            [ConfigError("--config", str(file), f"is not valid TOML: {shown('', str(error))}")]
        ) from None


def _with_defaults(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree over the three lanes that always exist and, where no provider or route is named, the simulated ones."""
    defaults: dict[str, Any] = {"lanes": LANES}
    if not tree.get("routes") and not tree.get("providers"):
        defaults |= SIMULATED
    return _merged(defaults, {key: value for key, value in tree.items() if value != []})


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of `above` over `below`, table by table."""
    out = {key: _merged(value, {}) if isinstance(value, Mapping) else value for key, value in below.items()}
    for key, value in above.items():
        if isinstance(value, Mapping):
            under = below.get(key)
            out[key] = _merged(under if isinstance(under, Mapping) else {}, value)
        else:
            out[key] = value
    return out
