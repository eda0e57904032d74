"""The words and figures that commands print, and the fold behind the live view."""

import io

import pytest
from contract_server import event, run_document
from rich.console import Console

from tollway.cli._output import dollars, span
from tollway.cli._watch import WatchView
from tollway.client.sse import SseParser
from tollway.client.views import as_event, as_run


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (-1, "0.00 s"),
        (0.314, "0.31 s"),
        (42.4, "42 s"),
        (185, "3 m 05 s"),
        (7_800, "2 h 10 m"),
        (4e5, "4 d"),
    ],
)
def test_span(seconds: float | None, words: str) -> None:
    """Durations are told in their largest units."""
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("nano", "words"),
    [(0, "$0"), (37_500, "$0.0000375"), (341_200_000, "$0.3412"), (1_240_000_000, "$1.24"), (5 * 10**12, "$5,000.00")],
)
def test_dollars(nano: int, words: str) -> None:
    """Money is short, and small sums do not vanish."""
    assert dollars(nano) == words


def test_the_live_view_folds_events() -> None:
    """Steps, tokens, retries and the end show in the view as their events come."""
    view = WatchView(as_run(run_document()))
    for item in (
        event(1, "claimed"), event(2, "step.intent", n=1, name="classify", kind="llm"), event(0, "token", text="Hello"),
    ):  # fmt: skip
        view.take(as_event(item))
    screen = Console(file=io.StringIO(), width=100)
    screen.print(view)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "running" in shown
    assert "classify" in shown
    assert "Hello" in shown
    view.take(as_event(event(3, "step.done", n=1, route="sim-fast")))
    view.take(as_event(event(4, "retried", reason="lost")))
    assert view.state == "queued"
    assert "lost" in view.note
    view.take(as_event(event(5, "succeeded")))
    assert view.state == "succeeded"


def test_sse_is_parsed_whatever_the_chunks() -> None:
    """Comments, CRLF, several data lines and any chunking give the same events; a cut one is not given out."""
    stream = b': hi\r\n\r\nid: 7\r\nevent: claimed\r\ndata: {"a":\r\ndata: 1}\r\n\r\ndata: x\n\nid: 8\ndata: cut'
    whole = list(SseParser().feed(stream))
    parser = SseParser()
    pieces = [message for i in range(len(stream)) for message in parser.feed(stream[i : i + 1])]
    assert whole == pieces
    assert [tuple(message) for message in whole] == [("7", "claimed", b'{"a":\n1}'), ("", "message", b"x")]
