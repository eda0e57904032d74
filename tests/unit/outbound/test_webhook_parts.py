"""Webhooks without I/O: what is said, how it is signed, when it is tried again."""

import base64
import json
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from standardwebhooks import Webhook

from tollway.outbound._payload import PAYLOAD_BYTES_MAX, webhook_payload
from tollway.outbound._retries import RETRIES_S, asked_delay_s, retry_delay_s
from tollway.outbound._sign import DEFAULT_SECRET_ENV, SecretUnusable, signed_headers, signing_secret
from tollway.record.run_document import run_json

RUN_ID = UUID("01890000-0000-7000-8000-000000000001")
MOMENT = datetime(2026, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC)
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


def run_row(**changed: Any) -> list[Any]:
    row = {
        "id": RUN_ID,
        "tenant": "acme",
        "agent": "triage",
        "version": "1",
        "lane": "batch",
        "input": b'{"text":"hi"}',
        "metadata": '{"order":"7"}',
        "created_at": MOMENT,
        "predicted_start_at": None,
        "replay_of": None,
        "state": "succeeded",
        "output": b'{"label":"card"}',
        "error_code": None,
        "error_message": None,
        "ended_at": MOMENT,
        "degraded": None,
        "live_state": None,
        "gate": None,
        "attempt": 1,
        "started_at": MOMENT,
        **dict.fromkeys(("llm_calls", "steps", "tool_calls", "input_tokens", "output_tokens", "cached_tokens"), 1),
        "cost_nano": 1_500,
        **dict.fromkeys(("opens_at", "concurrency_key", "full")),
    }
    return list((row | changed).values())


def said(row: list[Any]) -> dict[str, Any]:
    body = webhook_payload(row)
    assert body is not None
    assert len(body) <= PAYLOAD_BYTES_MAX
    found: dict[str, Any] = json.loads(body)
    return found


def test_the_payload_is_the_run_under_its_type() -> None:
    """The body holds `run.<state>`, the moment of the end, and the run exactly as its document shows it."""
    row = run_row()
    assert said(row) == {
        "type": "run.succeeded",
        "timestamp": "2026-05-01T12:00:00.250Z",
        "data": json.loads(run_json(row)),
    }


def test_a_run_that_has_not_ended_has_no_payload() -> None:
    """Nothing is said of a live run."""
    assert webhook_payload(run_row(state=None, output=None, ended_at=None, live_state=1)) is None


@pytest.mark.parametrize("part", ["input", "output"])
def test_a_large_part_is_left_out_and_said_so(part: str) -> None:
    """A part that makes the payload too long is null and marked; the others stay."""
    data = said(run_row(**{part: json.dumps("x" * 30_000).encode()}))["data"]
    assert data[part] is None
    assert data[f"{part}_omitted"] is True
    other = "input" if part == "output" else "output"
    assert data[other] is not None
    assert f"{other}_omitted" not in data
    assert data["metadata"] == {"order": "7"}


def test_the_payload_is_bounded_whatever_the_run_holds() -> None:
    """Input, output, metadata and error message together beyond every bound still make a short, valid payload."""
    big = json.dumps("x" * 50_000).encode()
    metadata = json.dumps({"m": "y" * 25_000})
    data = said(run_row(input=big, output=big, metadata=metadata))["data"]
    assert (data["input_omitted"], data["output_omitted"], data["metadata_omitted"]) == (True, True, True)
    dead = run_row(state="dead", output=None, error_code="error", error_message="é" * 40_000, input=big)
    assert said(dead)["data"]["error"]["code"] == "error"


def test_a_payload_at_the_bound_is_whole() -> None:
    """Exactly PAYLOAD_BYTES_MAX bytes are sent whole, one more is not."""
    short = webhook_payload(run_row(output=b'""'))
    assert short is not None
    room = PAYLOAD_BYTES_MAX - len(short)
    assert said(run_row(output=b'"%b"' % (b"x" * room)))["data"]["output"] == "x" * room
    assert said(run_row(output=b'"%b"' % (b"x" * (room + 1))))["data"]["output_omitted"] is True


def test_the_published_library_verifies_the_signature() -> None:
    """A receiver with the standardwebhooks library and the secret accepts the delivery; with another secret not."""
    body = webhook_payload(run_row(input='{"text":"é"}'.encode()))
    assert body is not None
    headers = signed_headers("run_1", time.time(), body, signing_secret({"HOOK": SECRET}, "HOOK"))
    assert Webhook(SECRET).verify(body, headers)["type"] == "run.succeeded"
    other = "whsec_" + base64.b64encode(bytes(32)).decode()
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(other).verify(body, headers)


def test_which_secret_signs() -> None:
    """The run's own variable comes first, then the default one; with neither asked for nothing is signed."""
    raw = bytes(range(32))
    assert signing_secret({"HOOK": SECRET}, "HOOK") == raw
    assert signing_secret({DEFAULT_SECRET_ENV: SECRET.rstrip("=")}, None) == raw
    assert signing_secret({}, None) is None
    assert "webhook-signature" not in signed_headers("run_1", 1.0, b"{}", None)


@pytest.mark.parametrize(
    "value", [None, "", "sk-a-provider-key-of-this-process", "whsec_", "whsec_!!!", "whsec_c2hvcnQ="]
)
def test_only_webhook_secrets_sign(value: str | None) -> None:
    """A named variable that is missing, or holds anything but a webhook secret, is refused; its value is not told."""
    with pytest.raises(SecretUnusable) as refused:
        signing_secret({} if value is None else {"HOOK": value}, "HOOK")
    assert "HOOK" in str(refused.value)
    assert not value or value not in str(refused.value) or value == "whsec_"


def test_a_broken_default_secret_is_not_passed_over() -> None:
    """A default secret that is set but is none stops deliveries rather than sending them unsigned."""
    with pytest.raises(SecretUnusable):
        signing_secret({DEFAULT_SECRET_ENV: "hunter2"}, None)


def test_rests_grow_jittered_and_end() -> None:
    """Each failed attempt rests as long as the ladder says, ± 20 %, and after the last rung it is given up."""
    for attempts, rest_s in enumerate(RETRIES_S, 1):
        assert retry_delay_s(attempts, 0.0, None) == pytest.approx(rest_s * 0.8)
        assert retry_delay_s(attempts, 0.5, None) == pytest.approx(rest_s)
    assert retry_delay_s(len(RETRIES_S) + 1, 0.5, 5.0) is None
    assert 23 * 3600 < sum(RETRIES_S) < 25 * 3600


def test_the_receivers_wish_lengthens_the_rest() -> None:
    """`retry-after` makes a rest longer, never shorter, and no longer than a day."""
    assert retry_delay_s(1, 0.5, 60.0) == 60
    assert retry_delay_s(4, 0.5, 1.0) == 600
    assert retry_delay_s(1, 0.5, 10.0**9) == 86_400


@pytest.mark.parametrize(
    ("header", "asked_s"),
    [
        (None, None),
        ("120", 120.0),
        ("Fri, 01 May 2026 12:01:00 GMT", 60.0),
        ("Fri, 01 May 2020 12:01:00 GMT", None),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("Fri, 99 May 99999999999 12:01:00 GMT", None),
    ],
)
def test_retry_after_is_read(header: str | None, asked_s: float | None) -> None:
    """Seconds and dates are understood; what is past, negative or nonsense asks for nothing."""
    now = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC).timestamp()
    assert asked_delay_s(header, now) == asked_s
