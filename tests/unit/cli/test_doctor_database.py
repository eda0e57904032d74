"""What the doctor makes of a database that answered: each shortcoming is its own check with its own remedy."""

from dataclasses import replace

import pytest

from tollway.cli import doctor_database
from tollway.cli.doctor_checks import Check
from tollway.config import load_settings
from tollway.record.probe import ProbeResult

SOUND = ProbeResult(version="18.4", version_num=180004, vector_installed=True, vector_available=True, took_s=0.001)
URL = "postgresql://app@db/tollway"


def diagnose(monkeypatch: pytest.MonkeyPatch, *found: ProbeResult, direct_url: str = "") -> dict[str, Check]:
    answers = iter(found)

    async def answered(url: str) -> ProbeResult:
        return next(answers)

    monkeypatch.setattr(doctor_database, "probe", answered)
    settings = load_settings(flags={"database.url": URL, "database.direct_url": direct_url}, environ={})
    return {check.name: check for check in doctor_database.check_database(settings)}


def test_a_sound_server_has_nothing_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new enough, durable server with pgvector gives one good check, telling version and schema."""
    checks = diagnose(monkeypatch, replace(SOUND, schema_version=3))
    assert list(checks) == ["database"]
    assert checks["database"].state == "ok"
    assert "PostgreSQL 18.4, schema version 3" in checks["database"].found


@pytest.mark.parametrize(
    ("change", "name", "state", "says"),
    [
        ({"version": "14.9", "version_num": 140009}, "database", "fail", "PostgreSQL 15"),
        ({"standby": True}, "database", "fail", "primary"),
        ({"took_s": 0.2}, "database", "warn", "nearer"),
        ({"durable": False}, "durability", "fail", "fsync = on"),
        ({"vector_installed": False}, "pgvector", "ok", ""),
        ({"vector_installed": False, "vector_available": False}, "pgvector", "warn", "pgvector"),
        ({"pooled": True}, "pooler", "warn", "database.direct_url"),
        ({"clock_ahead_s": -60.0}, "clock", "warn", "NTP"),
    ],
)
def test_each_shortcoming_has_its_remedy(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object], name: str, state: str, says: str
) -> None:
    """What the server lacks is told as a check of that name, with what to do."""
    check = diagnose(monkeypatch, replace(SOUND, **change))[name]
    assert check.state == state
    assert says in check.remedy


def test_a_direct_address_is_tried_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a direct address the pooler is no matter, unless the address cannot be reached or passes a pooler too."""
    pooled = replace(SOUND, pooled=True)
    assert list(diagnose(monkeypatch, pooled, SOUND, direct_url=URL)) == ["database"]
    assert diagnose(monkeypatch, pooled, pooled, direct_url=URL)["database"].state == "warn"
    refused = diagnose(monkeypatch, pooled, ProbeResult(error="refused"), direct_url=URL)["database"]
    assert refused.state == "fail"
    assert "direct_url" in refused.found
