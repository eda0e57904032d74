"""A run's JSON, put together by hand, against a plain encoder."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from tollway.record.run_document import rfc3339, rfc3339_epoch, run_is_final, run_json, run_state, usd_text

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@given(nano=st.integers(0, 10**18))
def test_dollars_are_exact(nano: int) -> None:
    """The number shown has at most nine decimals and is the very amount."""
    text = usd_text(nano)
    assert Decimal(text) * 10**9 == nano
    assert len(text.partition(".")[2]) <= 9
    assert json.loads(text) >= 0


@given(moment=MOMENTS)
def test_times_from_seconds_and_from_the_record_agree(moment: datetime) -> None:
    """A moment of whole microseconds reads the same as epoch seconds and as the database's timestamp."""
    assert rfc3339_epoch(moment.timestamp()) == rfc3339(moment)
    assert abs(datetime.fromisoformat(rfc3339(moment)) - moment) < timedelta(milliseconds=1)


@given(
    texts=st.tuples(TEXT, TEXT),
    value=st.lists(TEXT),
    state=st.sampled_from([None, "failed"]),
    gate=st.none() | TEXT,
    made=MOMENTS,
)
def test_a_run_is_valid_json_whatever_its_texts(
    texts: tuple[str, str], value: list[str], state: str | None, gate: str | None, made: datetime
) -> None:
    """Quotes, controls and line separators within any text come back as they went in."""
    tenant, agent = texts
    run = UUID(int=1 << 100)
    end = made if state else None
    error = ("code", agent) if state else (None, None)
    row = (
        *(run, tenant, agent, "1", "standard", json.dumps(value).encode(), None, made, made, None),
        *(state, None, *error, end, None, None if state else 0, gate, 1, None, 1, 2, 3, 4, 5, 6, 7, None, None, None),
    )
    shown = json.loads(run_json(row))
    assert (shown["tenant"], shown["agent"], shown["input"]) == (tenant, agent, value)
    assert shown["state"] == run_state(row) == (state or "queued")
    assert run_is_final(row) == (state is not None)
    assert (shown["blocked"] is None) == (state is not None or gate is None)
    assert shown["usage"]["cost_nano"] == 7
    assert shown["ended_at"] == (rfc3339(made) if state else None)
