"""The load generator's reading and writing of HTTP."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollway.domain.words import RunState
from tollway.simulator.load import wire
from tollway.simulator.load.wire import BadAnswer, Requests, read_answer

ID = "0190aaaa-0000-7000-8000-000000000001"
BODY = json.dumps({"id": ID, "state": "running"}, separators=(",", ":")).encode()
ANSWERS = {
    "plain": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY),
    "other case and order": b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH:%d\r\nServer: x\r\n\r\n%b" % (len(BODY), BODY),
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%b\r\n%x;ext=1\r\n%b\r\n0\r\n\r\n"
    % (BODY[:5], len(BODY) - 5, BODY[5:]),
    "chunks and trailers": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nA: b\r\n\r\n"
    % (len(BODY), BODY),
}


@pytest.mark.parametrize("form", ANSWERS)
def test_every_legal_form_of_an_answer_is_read_alike(form: str) -> None:
    """Header case and order, lengths and chunks make no difference to what is read."""
    data = ANSWERS[form]
    answer = read_answer(data + b"next")
    assert answer is not None
    assert (answer.status, answer.body, answer.end) == (200, BODY, len(data))


@pytest.mark.parametrize("form", ANSWERS)
def test_a_part_of_an_answer_is_never_taken_for_the_whole(form: str) -> None:
    """Cut anywhere, an answer reads as incomplete."""
    data = ANSWERS[form]
    assert all(read_answer(data[:size]) is None for size in range(len(data)))


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nendless",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"x" * (wire.HEAD_BYTES_MAX + 1),
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    """Garbage raises BadAnswer instead of waiting for ever."""
    with pytest.raises(BadAnswer):
        read_answer(data)


def test_closing_answers_and_empty_ones_are_known() -> None:
    """`connection: close` is seen in both ways of reading, and a 204 needs no length."""
    quick = read_answer(b"HTTP/1.1 503 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    careful = read_answer(b"HTTP/1.1 204 X\r\nConnection: Close\r\n\r\n")
    assert quick is not None
    assert careful is not None
    assert quick.close
    assert careful.close
    assert careful.status == 204


@pytest.mark.parametrize("style", [(",", ":"), (", ", ": ")])
def test_a_run_document_is_read_however_it_is_spaced(style: tuple[str, str]) -> None:
    """The quick search and the real parse find the same id, state and times."""
    run = {
        "id": ID,
        "input": {"text": 'a "state":"dead" trick'},
        "state": "succeeded",
        "ended_at": "2026-01-02T03:04:05.678Z",
    }
    body = json.dumps(run, separators=style).encode()
    assert wire.run_id(body) == ID.encode()
    assert wire.run_state(body) is RunState.SUCCEEDED
    assert wire.epoch_s(wire.run_time(body, b"ended_at")) == 1767323045.678


@pytest.mark.parametrize("body", [b'{"usage":{"llm_calls":12}}', b'{"usage" : {"llm_calls" : 12 } }'])
def test_the_calls_of_a_run_are_read(body: bytes) -> None:
    """However the document is spaced."""
    assert wire.run_calls(body) == 12


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"usage":{"llm_calls":null}}', b'{"usage":7}'])
def test_a_run_without_calls_told_is_no_run_document(body: bytes) -> None:
    """A document that does not tell them is a bad answer, not a crash."""
    with pytest.raises(BadAnswer):
        wire.run_calls(body)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"state":"odd","id":7,"ended_at":null}'])
def test_a_document_that_is_no_run_is_refused(body: bytes) -> None:
    """Missing, null and unknown values raise BadAnswer."""
    with pytest.raises(BadAnswer):
        wire.run_id(body)
    with pytest.raises(BadAnswer):
        wire.run_state(body)
    with pytest.raises(BadAnswer):
        wire.run_time(body, b"ended_at")


def test_a_refusal_says_how_long_to_wait() -> None:
    """Milliseconds win over seconds, nonsense means a second, and the wait is bounded."""
    assert wire.retry_after_s(b"HTTP/1.1 429 X\r\nRetry-After: 2\r\nRetry-After-Ms: 150") == 0.15
    assert wire.retry_after_s(b"HTTP/1.1 503 X\r\nretry-after: 2") == 2.0
    assert wire.retry_after_s(b"HTTP/1.1 503 X\r\nretry-after: soon") == 1.0
    assert wire.retry_after_s(b"HTTP/1.1 503 X\r\nretry-after: 9999") == wire.RETRY_AFTER_S_MAX


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4), st.integers(0, 10**8))
def test_every_submit_is_a_whole_request_with_a_text_of_its_own(texts: list[str], first: int) -> None:
    """Whatever the texts hold, the length is right, the JSON is valid, and no two runs carry the same text."""
    requests = Requests("localhost:1", "tw_key", "agent", texts, first)
    seen = set()
    for _ in range(2 * len(texts)):
        head, _, body = requests.submit().partition(b"\r\n\r\n")
        assert int(wire.headers(head)["content-length"]) == len(body)
        document = json.loads(body)
        assert document["agent"] == "agent"
        seen.add(document["input"]["text"])
    assert len(seen) == 2 * len(texts)


def test_a_poll_asks_for_its_run() -> None:
    """The request line names the run, the key rides along."""
    request = Requests("localhost:1", "tw_key", "agent", ["x"]).poll(ID.encode())
    assert request.startswith(f"GET /v1/runs/{ID} HTTP/1.1\r\n".encode())
    assert b"\r\nAuthorization: Bearer tw_key\r\n" in request
    assert request.endswith(b"\r\n\r\n")
