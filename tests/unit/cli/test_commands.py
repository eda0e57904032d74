"""The client commands: what they print, as words and as JSON, and how they end."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_kit import tollway
from contract_server import KEY, RUN_ID, ContractServer, Reply, event, problem, run_document, sse

from tollway.cli import COMMANDS, LazyGroup, main

RUN = f"/v1/runs/{RUN_ID}"
CLIENT_COMMANDS = (
    "submit",
    "runs",
    "show",
    "cancel",
    "replay",
    "dead-letters",
    "tenant",
    "key",
    "alerts",
    "budget",
    "shifts",
    "prices",
    "usage",
)
BUDGET = {
    "id": "7", "period": "month", "timezone": "Europe/Berlin", "agent": "triage", "lane": None, "task_type": None,
    "key": None, "hard_usd": 100, "soft_usd": 80, "spent_usd": 12.5, "reserved_usd": 0.5, "left_usd": 87, "pct": 12.5,
    "on_hard": "park", "ladder": [], "exhausted": False, "ends_at": "2026-02-28T23:00:00.000Z",
}  # fmt: skip
STEP = {
    "n": 1, "name": "classify", "kind": "llm", "state": "done", "attempt": 1, "route": "sim-fast", "cached": False,
    "input_tokens": 90, "output_tokens": 40, "cost_usd": 0.0000375, "calls": 1,
    "started_at": "2026-01-31T12:00:00.200Z", "ended_at": "2026-01-31T12:00:00.900Z", "error": None,
}  # fmt: skip


def leaves(name: str) -> list[list[str]]:
    """The command and its subcommands, as words of the command line."""
    command = main.get_command(click.Context(main), name)
    if isinstance(command, click.Group):
        return [[name, sub] for sub in command.commands]
    return [[name]]


@pytest.mark.parametrize("words", [words for name in CLIENT_COMMANDS for words in leaves(name)], ids=" ".join)
def test_every_client_command_has_json_and_an_example(words: list[str]) -> None:
    """`--help` of each command shows `--json` and an example that begins as one types it."""
    result = tollway(None, *words, "--help")
    assert result.exit_code == 0
    assert "--json" in result.output
    assert f"tollway {' '.join(words)}" in result.output.partition("Example:")[2]


def test_help_imports_no_command() -> None:
    """`tollway --help` lists every command without importing one, nor rich, nor the HTTP client."""
    code = (
        "import sys\nfrom tollway.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.stderr.write(' '.join(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert all(name in done.stdout for name, entry in COMMANDS.items() if entry.help)
    loaded = set(done.stderr.split())
    assert not loaded & {"rich", "pyreqwest", "fastapi", "asyncpg", "pydantic", "tollway.cli.submit"}


def test_the_table_is_the_group() -> None:
    """Every client command of the table is there under its name, as a click command."""
    assert isinstance(main, LazyGroup)
    for name in CLIENT_COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        assert command.name == name
    assert main.get_command(click.Context(main), "nonsense") is None


def test_submit_says_where_to_look(server: ContractServer) -> None:
    """An accepted run's id is printed and the exit code is 0; input is passed on exactly as written."""
    server.on("POST /v1/runs", Reply(202, run_document()))
    result = tollway(server, "submit", "triage", '{"n": 12345678901234567890123}', "--metadata", "a=b", "--delay", "2m")
    assert result.exit_code == 0
    assert RUN_ID in result.output
    assert server.seen[0].body == {
        "agent": "triage", "input": {"n": 12345678901234567890123}, "metadata": {"a": "b"}, "delay_s": 120.0,
    }  # fmt: skip


def test_submit_reads_stdin_and_files(server: ContractServer, tmp_path: Path) -> None:
    """`-` is stdin, `@file` a file."""
    server.on("POST /v1/runs", Reply(202, run_document()))
    (tmp_path / "t.json").write_text('{"from": "file"}')
    assert tollway(server, "submit", "triage", "-", stdin='{"from": "stdin"}').exit_code == 0
    assert tollway(server, "submit", "triage", f"@{tmp_path}/t.json").exit_code == 0
    assert [seen.body["input"] for seen in server.seen] == [{"from": "stdin"}, {"from": "file"}]


@pytest.mark.parametrize(
    "args",
    [
        ("submit", "triage", "{not json"),
        ("submit", "triage", "@/no/such/file"),
        ("submit", "triage", "1", "--metadata", "novalue"),
        ("submit", "triage", "1", "--delay", "soon"),
        ("submit", "triage", "1", "--watch", "--wait", "3"),
        ("submit",),
        ("runs", "--state", "asleep"),
        ("dead-letters", "replay"),
        ("tenant", "set", "a", "--max-queued", "many"),
        ("tenant", "set", "a", "--runs-per-s", "nan"),
        ("tenant", "set", "a", "--weight", "inf"),
        ("budget", "set", "a", "--period", "day", "--soft", "1", "--hard", "nan"),
        ("budget", "set", "a", "--period", "day", "--hard", "1e400"),
        ("budget", "set", "a", "--period", "day", "--hard", "1", "--interactive-share", "nan"),
        ("budget", "set", "a", "--period", "day", "--hard", "1", "--ladder", "nan:park"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(args: tuple[str, ...]) -> None:
    """What is wrong on the command line itself is exit code 2, before any server is asked."""
    assert tollway(None, *args).exit_code == 2


def test_no_server_exits_with_3() -> None:
    """A refused connection is exit code 3, in words with a remedy or as JSON."""
    words = tollway(None, "runs")
    assert words.exit_code == 3
    assert "tollway up" in words.output
    as_json = tollway(None, "runs", "--json")
    assert as_json.exit_code == 3
    assert json.loads(as_json.output)["code"] == "unreachable"


def test_a_wrong_key_exits_with_2(server: ContractServer) -> None:
    """A key the server does not know is a matter of configuration."""
    result = CliRunner().invoke(main, ["runs"], env={"TOLLWAY_URL": server.url, "TOLLWAY_API_KEY": "tw_other"})
    assert result.exit_code == 2
    assert "TOLLWAY_API_KEY" in result.output


def test_the_admin_key_of_this_folder_is_used_here_and_not_sent_away(
    server: ContractServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without TOLLWAY_API_KEY the key beneath ./.tollway serves a server on this machine, and no other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOLLWAY_API_KEY", raising=False)
    monkeypatch.delenv("TOLLWAY_DATABASE__DATA_DIR", raising=False)
    server.on("GET /v1/runs", Reply(200, {"items": [], "next": None}))
    without = CliRunner().invoke(main, ["runs", "--url", server.url])
    assert without.exit_code == 2
    assert "TOLLWAY_API_KEY" in without.output
    (tmp_path / ".tollway").mkdir()
    (tmp_path / ".tollway" / "admin.key").write_text(KEY + "\n")
    assert CliRunner().invoke(main, ["runs", "--url", server.url]).exit_code == 0
    away = CliRunner().invoke(main, ["runs", "--url", "http://192.0.2.1:8700"])
    assert away.exit_code == 2


def test_a_refusal_shows_the_problem_and_its_fields(server: ContractServer) -> None:
    """A refusal is exit code 1 with title, code and field errors (or the detail); with --json the document itself."""
    document = problem(422, "invalid_input", detail="It does not fit", errors=[{"path": "text", "message": "missing"}])
    server.on("POST /v1/runs", Reply(422, document))
    words = tollway(server, "submit", "triage", "{}")
    assert words.exit_code == 1
    assert all(part in words.output for part in ("invalid_input", "text: missing"))
    as_json = tollway(server, "submit", "triage", "{}", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.output) == document


def test_watch_shows_events_and_tokens_and_ends_with_the_result(server: ContractServer) -> None:
    """Each event is a line, tokens run on, the output comes last; success is exit code 0."""
    server.on("POST /v1/runs", Reply(202, run_document()))
    stream = (
        event(1, "accepted"), event(2, "step.intent", n=1, name="classify", kind="llm"),
        event(0, "token", text="Hel"), event(0, "token", text="lo"), event(3, "step.done", n=1), event(4, "succeeded"),
    )  # fmt: skip
    server.on(f"GET {RUN}/events", Reply(200, sse(*stream)))
    server.on(f"GET {RUN}", Reply(200, run_document("succeeded", output={"intent": "card_arrival"})))
    result = tollway(server, "submit", "triage", "{}", "--watch")
    assert result.exit_code == 0
    assert "Hello\n" in result.output
    assert "classify" in result.output
    assert '"intent": "card_arrival"' in result.output.partition("succeeded")[2]


def test_watch_as_json_is_a_line_an_event_and_the_run(server: ContractServer) -> None:
    """With --json a watch is NDJSON: the events as they came, then the run; a dead run is exit code 1."""
    server.on("POST /v1/runs", Reply(202, run_document()))
    server.on(f"GET {RUN}/events", Reply(200, sse(event(1, "accepted"), event(2, "dead"))))
    dead = run_document("dead", error={"code": "boom", "message": "it broke"})
    server.on(f"GET {RUN}", Reply(200, dead))
    result = tollway(server, "submit", "triage", "{}", "--watch", "--json")
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert [line.get("type") for line in lines[:2]] == ["accepted", "dead"]
    assert lines[2] == dead


def test_wait_fails_unless_the_run_succeeded_in_time(server: ContractServer) -> None:
    """--wait sends the preference; a run still going, or ended badly, is exit code 1, a success 0 with its output."""
    server.on(
        "POST /v1/runs",
        Reply(202, run_document("running")),
        Reply(200, run_document("failed", error={"code": "rejected", "message": "no"})),
        Reply(200, run_document("succeeded", output="fine")),
    )
    results = [tollway(server, "submit", "triage", "{}", "--wait", "1") for _ in range(3)]
    assert [result.exit_code for result in results] == [1, 1, 0]
    assert "still running" in results[0].output
    assert "rejected: no" in results[1].output
    assert '"fine"' in results[2].output
    assert server.seen[0].headers["prefer"] == "wait=1"


def test_runs_is_a_table_or_a_list(server: ContractServer) -> None:
    """`runs` shows why a run is blocked; text of users cannot be markup or steer the terminal; --json is the list."""
    blocked = {"reason": "max_running", "key": "acme", "until": None}
    run = run_document(agent="[red]a\x1b[2J", blocked=blocked)
    server.on("GET /v1/runs", Reply(200, {"items": [run], "next": "more"}))
    words = tollway(server, "runs", "--limit", "1", "--lane", "batch")
    assert words.exit_code == 0
    assert "max_running acme" in words.output
    assert "[red]a" in words.output
    assert "\x1b[2J" not in words.output
    assert RUN_ID in words.output
    assert server.seen[0].query == "limit=1&lane=batch"
    as_json = json.loads(tollway(server, "runs", "--limit", "1", "--json").stdout)
    assert as_json == {"items": [run], "next": "more"}


def test_runs_follows_pages_up_to_the_limit(server: ContractServer) -> None:
    """`--limit` is met from as many pages as it takes."""
    server.on(
        "GET /v1/runs",
        Reply(200, {"items": [run_document()] * 2, "next": "c"}),
        Reply(200, {"items": [run_document()] * 2, "next": "d"}),
    )
    listed = json.loads(tollway(server, "runs", "--limit", "4", "--json").stdout)
    assert (len(listed["items"]), listed["next"]) == (4, "d")
    assert server.seen[1].query == "limit=2&cursor=c"


def test_show_tells_the_whole_run(server: ContractServer) -> None:
    """`show` prints state, money, time line, input and outcome; steps and events when asked for."""
    server.on(f"GET {RUN}", Reply(200, run_document("succeeded", output={"ok": True})))
    server.on(f"GET {RUN}/steps", Reply(200, {"items": [STEP], "next": None}))
    server.on(f"GET {RUN}/events", Reply(200, {"items": [event(1, "accepted")], "next": None}))
    result = tollway(server, "show", RUN_ID, "--steps", "--events")
    assert result.exit_code == 0
    for part in ("succeeded", "classify", "sim-fast", "$0.0000375", "█", '"ok": true', "accepted", "took 0.90 s"):
        assert part in result.output
    as_json = json.loads(tollway(server, "show", RUN_ID, "--steps", "--json").output)
    assert as_json["steps"] == [STEP]
    assert "events" not in as_json


def test_show_tells_what_a_hit_saved(server: ContractServer) -> None:
    """A step that was answered from a cache is marked, and shows what it saved in the place of its cost."""
    hit = {**STEP, "cached": True, "cost_usd": 0, "saved_usd": 0.00064, "saved_nano": 640_000, "calls": 0}
    server.on(f"GET {RUN}", Reply(200, run_document("succeeded", output={"ok": True})))
    server.on(f"GET {RUN}/steps", Reply(200, {"items": [hit], "next": None}))
    shown = tollway(server, "show", RUN_ID, "--steps").output
    assert "(cached)" in shown
    assert "saved $0.00064" in shown


def test_show_of_an_unknown_run_exits_with_1(server: ContractServer) -> None:
    """A 404 is a failure, said in words."""
    result = tollway(server, "show", "nonsense")
    assert result.exit_code == 1
    assert "not_found" in result.output


def test_cancel_and_replay(server: ContractServer) -> None:
    """`cancel` says whether it is done; `replay` sends only what was given."""
    server.on(f"POST {RUN}/cancel", Reply(202, run_document("running")), Reply(200, run_document("cancelled")))
    assert "being cancelled" in tollway(server, "cancel", RUN_ID).output
    assert tollway(server, "cancel", RUN_ID).output.startswith("cancelled")
    server.on(f"POST {RUN}/replay", Reply(202, run_document(replay_of=RUN_ID)))
    assert tollway(server, "replay", RUN_ID).exit_code == 0
    assert tollway(server, "replay", RUN_ID, "--from-step", "2", "--input", "null").exit_code == 0
    assert tollway(server, "replay", RUN_ID, "--from-failed-step", "--patch", '{"a": 1}').exit_code == 0
    assert [seen.body for seen in server.asked(f"POST {RUN}/replay")] == [
        {},
        {"input": None, "from_step": 2},
        {"input_patch": {"a": 1}, "from": "failed_step"},
    ]


def test_rungs_by_hand(server: ContractServer) -> None:
    """`budget force` and `lift` change one rung and leave the others; `clear` ends one, or all without asking."""
    path = "/v1/tenants/acme/budgets/7/rungs"
    stands = {"id": "7", "tenant": "acme", "forced": ["alert", "park"], "lifted": ["throttle"]}
    server.on(f"GET {path}", Reply(200, stands))
    server.on(f"PUT {path}", Reply(200, stands))
    for words, forced, lifted in (
        ("force acme 7 throttle", ["alert", "park", "throttle"], []),
        ("lift acme 7 park", ["alert"], ["park", "throttle"]),
        ("clear acme 7 alert", ["park"], ["throttle"]),
        ("clear acme 7", [], []),
    ):
        result = tollway(server, "budget", *words.split())
        assert (result.exit_code, server.asked(f"PUT {path}")[-1].body) == (0, {"forced": forced, "lifted": lifted})
        assert "budget 7 of acme: forced alert, park; lifted throttle" in result.output
    assert json.loads(tollway(server, "budget", "clear", "acme", "7", "--json").stdout) == stands
    assert tollway(server, "budget", "force", "acme", "7", "cheaper").exit_code == 2


def test_shifts(server: ContractServer) -> None:
    """`shifts` lists by default; `set` adds to the list or replaces its like; `clear` ends all, or those it names."""
    wide = {"from_tier": "powerful", "to_tier": "capable"}
    acme = {"tenant": "acme", "from_tier": "fast", "to_tier": "capable"}
    server.on("GET /v1/shifts", Reply(200, {"items": [wide, acme], "next": None}))
    server.on("PUT /v1/shifts", Reply(200, {"items": [acme], "next": None}))
    assert "acme" in tollway(server, "shifts").stdout
    assert json.loads(tollway(server, "shifts", "--json").stdout)["items"] == [wide, acme]
    for words, sent in (
        ("set fast powerful --tenant acme", [wide, acme | {"to_tier": "powerful"}]),
        (
            "set fast powerful --agent triage",
            [wide, acme, {"agent": "triage", "from_tier": "fast", "to_tier": "powerful"}],
        ),
        ("clear --tenant acme", [wide]),
        ("clear --tenant acme --task-type mail", [wide, acme]),
        ("clear --json", []),
    ):
        result = tollway(server, "shifts", *words.split())
        assert (result.exit_code, server.asked("PUT /v1/shifts")[-1].body) == (0, sent)
    assert tollway(server, "shifts", "nonsense").exit_code == 2


def test_tenant_use(server: ContractServer) -> None:
    """`tenant use` shows what is used beside its limit, and the budgets below; with `--json` both in one."""
    use = {"tenant": "acme", "queued": 7, "running": 2, "tokens_min": None, "tokens_day": None}
    server.on("GET /v1/tenants/acme/use", Reply(200, use | {"limits": {"max_queued": 10}}))
    server.on("GET /v1/tenants/acme/budgets", Reply(200, {"items": [BUDGET], "next": None}))
    told = {line.split()[0]: line.split()[1:] for line in tollway(server, "tenant", "use", "acme").output.splitlines()}
    assert (told["queued"], told["running"]) == (["7", "10"], ["2"])
    assert told["7"][:5] == ["month", "Europe/Berlin", "agent", "triage", "100"]
    shown = json.loads(tollway(server, "tenant", "use", "acme", "--json").stdout)
    assert (shown["limits"], shown["budgets"]) == ({"max_queued": 10}, [BUDGET])


def test_budgets(server: ContractServer) -> None:
    """`budget set` makes a budget or changes what is given of its like, `none` lifts; `remove` ends one."""
    week = {"period": "week", "timezone": "UTC", "hard_usd": 9}
    shown = [BUDGET, dict.fromkeys(BUDGET) | week | {"id": "8", "exhausted": True}]
    server.on("GET /v1/tenants/acme/budgets", Reply(200, {"items": shown, "next": None}))
    server.on("PUT /v1/tenants/acme/budgets", Reply(200, {"items": [BUDGET], "next": None}))
    kept = {
        "period": "month", "timezone": "Europe/Berlin", "agent": "triage", "hard_usd": 100, "soft_usd": 80,
        "on_hard": "park", "ladder": [],
    }  # fmt: skip
    assert "triage" in tollway(server, "budget", "list", "acme").output
    assert json.loads(tollway(server, "budget", "list", "acme", "--json").stdout)["items"] == shown
    like = ["--period", "month", "--timezone", "Europe/Berlin", "--agent", "triage"]
    steps = [{"at_pct": 80, "rung": "lower_tier"}, {"at_pct": 100, "rung": "park"}]
    for words, sent in (
        (["set", *like, "--hard", "200"], [kept | {"hard_usd": 200}, week]),
        (
            ["set", *like, "--soft", "none", "--on-hard", "refuse"],
            [kept | {"soft_usd": None, "on_hard": "refuse"}, week],
        ),
        (["set", *like, "--ladder", "80:lower_tier,100:park"], [kept | {"ladder": steps}, week]),
        (
            ["set", "--period", "total", "--soft", "5"],
            [kept, week, {"period": "total", "timezone": "UTC", "soft_usd": 5}],
        ),
        (["remove", "--period", "week"], [kept]),
    ):
        command, *options = words
        result = tollway(server, "budget", command, "acme", *options)
        assert (result.exit_code, server.asked("PUT /v1/tenants/acme/budgets")[-1].body) == (0, {"budgets": sent})
    asked = len(server.asked("PUT /v1/tenants/acme/budgets"))
    for wrong in (
        ["remove", "acme", "--period", "day"],
        ["set", "acme", "--hard", "1"],
        ["set", "acme", "--period", "day", "--hard", "much"],
        ["set", "acme", "--period", "day", "--ladder", "park"],
        ["set", "acme", "--period", "day", "--ladder", "80:jump"],
    ):
        assert tollway(server, "budget", *wrong).exit_code == 2
    assert len(server.asked("PUT /v1/tenants/acme/budgets")) == asked


def test_tenant_and_key(server: ContractServer) -> None:
    """`tenant set` sends what was given, `none` as null; `key create` prints the key alone on stdout."""
    server.on("PUT /v1/tenants/acme", Reply(200, {"id": "acme", "weight": 2.0}))
    result = tollway(server, "tenant", "set", "acme", "--weight", "2", "--max-queued", "none", "--paused")
    assert result.exit_code == 0
    assert server.seen[0].body == {"weight": 2.0, "max_queued": None, "paused": True}
    server.on("POST /v1/tenants/acme/keys", Reply(201, {"id": "k1", "key": "tw_new"}))
    assert tollway(server, "key", "create", "acme").stdout == "tw_new\n"
    server.on("DELETE /v1/tenants/acme/keys/k1", Reply(204))
    assert tollway(server, "key", "revoke", "acme", "k1").exit_code == 0
