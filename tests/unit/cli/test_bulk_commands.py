"""Dead letters and bulk cancels at the command line: counted, asked about, and acted on as counted."""

import json

import pytest
from command_kit import tollway
from contract_server import RUN_ID, ContractServer, Reply

GROUP = {"fingerprint": "f1", "count": 3, "agent": "triage", "code": "boom", "message": "no", "run_ids": [RUN_ID]}
LETTERS = "POST /v1/dead-letters"


def test_dead_letters_are_listed_and_shown(server: ContractServer) -> None:
    """The list is of groups; `show` is of a group's runs with their failed steps, and no more than asked for."""
    server.on("GET /v1/dead-letters", Reply(200, {"items": [GROUP], "next": None}))
    assert "boom: no" in tollway(server, "dead-letters", "list", "--code", "boom").output
    step = {"n": 2, "name": "look", "kind": "task", "state": "failed", "error": "no"}
    letter = {
        "run_id": RUN_ID,
        "tenant": "acme",
        "attempts": 3,
        "cost_nano": 5_000_000,
        "code": "boom",
        "message": "no",
    }
    server.on("GET /v1/dead-letters/f1", Reply(200, {"items": [{**letter, "failed_step": step}, letter], "next": None}))
    shown = tollway(server, "dead-letters", "show", "f1").output
    for word in (RUN_ID, "2 look", "boom: no", "$0.005", "--from failed-step"):
        assert word in shown
    assert len(json.loads(tollway(server, "dead-letters", "show", "f1", "--limit", "1", "--json").stdout)["items"]) == 1


def test_dead_letters_are_replayed_by_count(server: ContractServer) -> None:
    """A replay by filter first asks how many, and confirms that number of that snapshot."""
    counted = Reply(200, {"count": 3, "snapshot": "s"})
    server.on(f"{LETTERS}/replay", counted, Reply(202, {"count": 3, "replayed": 2, "refused": {}}))
    result = tollway(server, "dead-letters", "replay", "--agent", "triage", "--yes", "--from", "failed-step")
    assert result.exit_code == 0
    assert "replayed 2 of 3" in result.output
    wanted = {"filter": {"agent": "triage"}, "from": "failed_step"}
    assert [seen.body for seen in server.asked(f"{LETTERS}/replay")] == [
        {**wanted, "snapshot": True},
        {**wanted, "confirm": 3, "snapshot": "s"},
    ]


def test_dead_letters_are_replayed_by_id(server: ContractServer) -> None:
    """Ids go as they are, with another input or a change to it; a refusal is told and is a failure."""
    refusal = {"id": RUN_ID, "status": 409, "error": {"detail": "was replayed already"}}
    server.on(
        f"{LETTERS}/replay", Reply(202, {"count": 1, "replayed": 0, "refused": {"conflict": 1}, "results": [refusal]})
    )
    result = tollway(server, "dead-letters", "replay", RUN_ID, "--input", "[1]")
    assert result.exit_code == 1
    assert "was replayed already" in result.output
    assert tollway(server, "dead-letters", "replay", RUN_ID, "--patch", '{"a": null}').exit_code == 1
    assert [seen.body for seen in server.asked(f"{LETTERS}/replay")] == [
        {"ids": [RUN_ID], "input": [1]},
        {"ids": [RUN_ID], "input_patch": {"a": None}},
    ]


def test_dead_letters_are_discarded(server: ContractServer) -> None:
    """By filter when confirmed, by id at once; nothing to discard is no failure."""
    counted, none = Reply(200, {"count": 2, "snapshot": "s"}), Reply(200, {"count": 0})
    done = Reply(202, {"count": 2, "discarded": 2, "refused": {}})
    server.on(f"{LETTERS}/discard", counted, counted, done, done, none)
    said_no = tollway(server, "dead-letters", "discard", "--lane", "batch", stdin="n\n")
    assert (said_no.exit_code, "Discard 2 dead runs?" in said_no.output) == (1, True)
    assert "discarded 2" in tollway(server, "dead-letters", "discard", "--lane", "batch", "--yes").output
    assert tollway(server, "dead-letters", "discard", RUN_ID).exit_code == 0
    assert tollway(server, "dead-letters", "discard", "--tenant", "acme").exit_code == 0
    bodies = [seen.body for seen in server.asked(f"{LETTERS}/discard")]
    assert bodies[2:4] == [{"filter": {"lane": "batch"}, "confirm": 2, "snapshot": "s"}, {"ids": [RUN_ID]}]


def test_many_runs_are_cancelled_by_count(server: ContractServer) -> None:
    """`cancel` with filters counts, asks, and cancels what it counted; what it did is told in numbers."""
    counted = Reply(200, {"count": 1200, "snapshot": "s"})
    done = {"count": 1200, "cancelled": 1190, "cancelling": 7, "ended_before": 3, "left": 0}
    server.on("POST /v1/runs/cancel", counted, Reply(202, done), counted, Reply(202, done), Reply(200, {"count": 0}))
    words = ("cancel", "--lane", "batch", "--state", "queued", "--metadata", "job=42")
    result = tollway(server, *words, stdin="y\n")
    assert "Cancel 1,200 runs?" in result.output
    assert "of 1,200 runs: cancelled 1,190, cancelling 7, ended before 3" in result.output
    assert json.loads(tollway(server, *words, "--yes", "--json").stdout) == done
    assert "no runs match" in tollway(server, "cancel", "--all", "--yes").output
    wanted = {"lane": "batch", "state": "queued", "metadata": {"job": "42"}}
    bodies = [seen.body for seen in server.asked("POST /v1/runs/cancel")]
    assert bodies[1] == {"filter": wanted, "confirm": 1200, "snapshot": "s"}
    assert bodies[4] == {"filter": {}, "snapshot": True}


@pytest.mark.parametrize(
    "words",
    [
        "cancel",
        f"cancel {RUN_ID} --lane batch",
        "cancel --lane batch --all",
        "cancel --state dead",
        "dead-letters replay",
        f"dead-letters replay {RUN_ID} --agent triage",
        "dead-letters replay --agent triage --input 1",
        f"dead-letters replay {RUN_ID} --patch [1]",
        f"dead-letters replay {RUN_ID} --from nowhere",
        "dead-letters discard",
        "dead-letters show",
        f"replay {RUN_ID} --from-step 1 --from-failed-step",
        f"replay {RUN_ID} --input 1 --patch {{}}",
    ],
)
def test_bulk_words_that_make_no_sense_exit_with_2(server: ContractServer, words: str) -> None:
    """Neither or both of runs and filters, and options that exclude each other, are usage errors; nothing is sent."""
    assert tollway(server, *words.split()).exit_code == 2
    assert server.seen == []
