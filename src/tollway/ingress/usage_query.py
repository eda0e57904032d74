"""What a request for usage asks for: groups, days and filters out of its query, and cursors between pages."""

import base64
from datetime import UTC, date, datetime, time, timedelta

import msgspec

from tollway.domain.usage import GROUPS
from tollway.ingress.auth import Caller
from tollway.ingress.problems import invalid
from tollway.ingress.requests import bad_cursor, refuse_unknown
from tollway.record.usage import FILTERS, UsageQuery

DAYS_DEFAULT = 30
DAYS_MAX = 3660
_FIRST_DAY = date(2000, 1, 1)
_cursors = msgspec.json.Decoder(list[str])


def usage_query(
    query: dict[str, str], caller: Caller, now: float, known: tuple[str, ...] = (*GROUPS, *FILTERS)
) -> UsageQuery:
    """The usage that is meant, within what the caller may see; `known` bounds groups and filters.

    Without days it is the last 30, today among them (`now` in epoch seconds). Raises Problem `invalid_input`,
    `forbidden`.
    """
    groups = _groups(query.pop("group_by", ""), tuple(name for name in GROUPS if name in known))
    begin, end = _days(query.pop("from", None), query.pop("to", None), datetime.fromtimestamp(now, UTC).date())
    names = tuple(name for name in FILTERS if name in known)
    filters = {}
    for name in names:
        if name in query:
            filters[name] = _text(query.pop(name), name)
    refuse_unknown(query, ", ".join(("group_by", "from", "to", *names, "limit", "cursor", "format")))
    tenant = caller.narrowed(filters.get("tenant"))
    if tenant is not None:
        filters["tenant"] = tenant
    return UsageQuery(begin, end, groups, filters)


def cursor_of(key: list[str]) -> str:
    """Where a page ended, as the next one is asked for."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def read_cursor(text: str | None, length: int) -> list[str] | None:
    """The end of the page before; None without. Raises Problem `invalid_input`."""
    if text is None:
        return None
    try:
        key = _cursors.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, msgspec.DecodeError):
        raise bad_cursor() from None
    if len(key) != length or any("\x00" in part for part in key):
        raise bad_cursor()
    return key


def _groups(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    groups = [name.strip() for name in text.split(",")] if text.strip() else []
    for name in groups:
        if name not in known:
            raise invalid("group_by", f"{name[:64]!r} is no group of usage; any of {', '.join(known)} may be given")
        if groups.count(name) > 1:
            raise invalid("group_by", f"names {name} twice")
    return tuple(groups)


def _days(first: str | None, last: str | None, today: date) -> tuple[date, date]:
    end = today + timedelta(days=1) if last is None else _day(last, "to", up=True)
    begin = end - timedelta(days=DAYS_DEFAULT) if first is None else _day(first, "from")
    if begin >= end:
        raise invalid("from", f"{begin} is not before {end} ('to', the first day that is not meant)")
    if (end - begin).days > DAYS_MAX:
        raise invalid("from", f"lies more than {DAYS_MAX} days before 'to'; ask for fewer")
    return begin, end


def _day(text: str, path: str, *, up: bool = False) -> date:
    """A UTC day, as a date or by a moment of it: of one within a day, that day, or with `up` the next."""
    try:
        if len(text) == len("2026-01-31"):
            day = date.fromisoformat(text)
        else:
            moment = datetime.fromisoformat(text.replace(" ", "+"))
            moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
            within = moment.time() != time.min
            day = moment.date() + timedelta(days=up and within)
    except (ValueError, OverflowError):
        raise invalid(path, "must be a day such as 2026-01-31, or an RFC 3339 time") from None
    if not _FIRST_DAY <= day < date.max - timedelta(days=DAYS_MAX):
        raise invalid(path, f"must be a day from {_FIRST_DAY} on")
    return day


def _text(value: str, path: str) -> str:
    if not 0 < len(value) <= 255:
        raise invalid(path, "must be a text of 1 to 255 characters")
    return value
