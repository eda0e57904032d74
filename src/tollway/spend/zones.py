"""Time zones as the package `tzdata` has them, never the machine's: a period begins at one moment on every process."""

from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_FOLDER = files("tzdata")


@cache
def zone_names() -> frozenset[str]:
    """Every zone there is, such as `UTC` and `Europe/Berlin`."""
    return frozenset(_FOLDER.joinpath("zones").read_text("utf-8").split())


@cache
def zone(name: str) -> ZoneInfo:
    """The zone of this name. Raises ZoneInfoNotFoundError for one that there is not."""
    if name not in zone_names():
        raise ZoneInfoNotFoundError(f"there is no time zone {name[:64]!r}")
    with _FOLDER.joinpath("zoneinfo", *name.split("/")).open("rb") as found:
        return ZoneInfo.from_file(found, key=name)
