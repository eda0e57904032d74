"""Logs: both forms, secrets hidden, texts and floods bounded."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Literal

import pytest

from tollway.telemetry import Log, configure, get_logger
from tollway.telemetry import logs as logs_module


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("tollway")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def start(form: Literal["console", "json"], level: str = "info") -> tuple[Log, io.StringIO]:
    out = io.StringIO()
    configure("worker", form, level, out)
    return get_logger("tollway.test"), out


def test_json_lines_are_whole_objects() -> None:
    """A machine reads each line as one object with time, level, role, pid, event and the fields given."""
    log, out = start("json")
    log.info("run.claimed", lane="batch", runs=3)
    line = json.loads(out.getvalue())
    assert {"at", "pid"} < set(line)
    assert (line["level"], line["role"], line["event"], line["lane"], line["runs"]) == (
        "info",
        "worker",
        "run.claimed",
        "batch",
        3,
    )


def test_fields_cannot_pose_as_the_lines_own() -> None:
    """A field called `level` or `event` does not replace the line's."""
    log, out = start("json")
    log.info("real", event="fake", level="fatal", at="never")
    line = json.loads(out.getvalue())
    assert (line["event"], line["level"]) == ("real", "info")
    assert line["at"] != "never"


def test_console_lines_stay_lines() -> None:
    """A value with line breaks or colours cannot forge a second line."""
    log, out = start("console")
    log.info("note", text="a\nb \x1b[31m", empty="")
    assert out.getvalue().count("\n") == 1
    assert "\x1b" not in out.getvalue()
    assert "empty=''" in out.getvalue()


@pytest.mark.parametrize("form", ["console", "json"])
def test_secrets_are_hidden(form: Literal["console", "json"]) -> None:
    """Keys, tokens and passwords are hidden by field name and by look, in exceptions as well."""
    log, out = start(form)
    log.info(
        "secrets",
        api_key="hunter2",
        note="Bearer hunter2-hunter2",
        url="postgres://u:hunter2@h/d",
        tw="tw_hunter2hunter2",
        vendor="sk-hunter2hunter2",
        key_id="shown",
    )
    try:
        raise ValueError("tw_hunter2hunter2")
    except ValueError as error:
        log.failure("failed", error)
    assert "hunter2" not in out.getvalue()
    assert "shown" in out.getvalue()
    assert "ValueError" in out.getvalue()


def test_texts_are_bounded() -> None:
    """No value and no traceback makes a line of unbounded length."""
    log, out = start("json")
    log.info("big", text="x" * 100_000)
    try:
        raise ValueError("y" * 100_000)
    except ValueError as error:
        log.failure("failed", error, **{f"f{i}": i for i in range(100)})
    assert len(out.getvalue()) < 10_000


def test_a_flood_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one event a burst is shown; the next window's first line tells how many were left out; others still pass."""
    now = 100.0
    monkeypatch.setattr(logs_module.time, "monotonic", lambda: now)
    log, out = start("json")
    for _ in range(1000):
        log.warning("database.lost")
    log.warning("other")
    shown = [json.loads(line)["event"] for line in out.getvalue().splitlines()]
    assert shown.count("database.lost") == 20
    assert shown.count("other") == 1
    now += 11
    log.warning("database.lost")
    assert json.loads(out.getvalue().splitlines()[-1])["left_out"] == 980


def test_levels_are_kept() -> None:
    """Below the level nothing is written, and other libraries are heard only when they warn."""
    log, out = start("console", "warning")
    log.info("quiet")
    log.debug("quiet")
    logging.getLogger("somebody").info("quiet")
    assert out.getvalue() == ""
    logging.getLogger("somebody").warning("loud %s", 1)
    log.error("loud")
    assert out.getvalue().count("loud") == 2


def test_a_closed_stream_harms_nobody() -> None:
    """Logging to a stream that is gone is silent."""
    log, out = start("console")
    out.close()
    log.error("lost")


def test_configuring_twice_writes_once() -> None:
    """The second call replaces the first."""
    _, first = start("console")
    log, second = start("console")
    log.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
