"""The client commands as one types them, against a whole Tollway: output for people and programs, exit codes."""

import json
import signal
import subprocess
import uuid
from typing import Any

import pytest
from click.testing import CliRunner, Result
from stack_kit import ADMIN_KEY, PATIENCE_S, TOLLWAY, Http, Stack, free_port, plain_environ, until

from tollway.cli import main
from tollway.cli._output import console


class Shell:
    """A terminal that points at the stack; commands are called in this process, which is faster."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.environ = {
            "TOLLWAY_URL": f"http://127.0.0.1:{stack.port}",
            "TOLLWAY_API_KEY": ADMIN_KEY,
            "TOLLWAY_DATABASE__DATA_DIR": str(stack.folder / "nowhere"),
        }

    def __call__(self, *words: str, stdin: str | None = None, code: int = 0, **environ: str) -> Result:
        console.cache_clear()
        done = CliRunner().invoke(main, words, input=stdin, env=self.environ | environ)
        console.cache_clear()
        assert done.exit_code == code, f"{words}: {done.exit_code}\n{done.output}\n{done.exception!r}"
        return done

    def json(self, *words: str, code: int = 0, **environ: str) -> Any:
        return json.loads(self(*words, "--json", code=code, **environ).stdout)


@pytest.fixture
def tollway(stack: Stack) -> Shell:
    return Shell(stack)


def test_submit(tollway: Shell, http: Http) -> None:
    """`submit` prints the run's id and where to look; `--json` the run; what is given reaches the run."""
    words = ("submit", "echo", '{"a": [1]}', "--lane", "batch", "--metadata", "k=v", "--metadata", "x=y=z")
    run = tollway.json(*words)
    assert (run["input"], run["lane"], run["metadata"]) == ({"a": [1]}, "batch", {"k": "v", "x": "y=z"})
    assert http.ended(run["id"])["output"] == {"a": [1]}
    printed = tollway("submit", "echo", "1").stdout
    assert "accepted" in printed
    assert "tollway show 0" in printed


def test_submit_from_stdin_and_file(tollway: Shell, stack: Stack) -> None:
    """ "-" reads the input from stdin, "@file" from a file."""
    done = tollway("submit", "echo", "-", "--wait", "20", "--json", stdin='{"from": "stdin"}')
    assert json.loads(done.stdout)["output"] == {"from": "stdin"}
    (stack.folder / "in.json").write_text('"from a file"')
    assert tollway.json("submit", "echo", f"@{stack.folder / 'in.json'}", "--wait", "20")["output"] == "from a file"
    tollway("submit", "echo", "@nowhere.json", code=2)


def test_submit_once(tollway: Shell) -> None:
    """The same idempotency key gives the same run."""
    words = ("submit", "echo", "1", "--idempotency-key", uuid.uuid4().hex)
    assert tollway.json(*words)["id"] == tollway.json(*words)["id"]


@pytest.mark.parametrize(
    ("words", "code", "state"),
    [
        (("echo", "5", "--wait", "20"), 0, "succeeded"),
        (("troubled", '{"how":"reject"}', "--wait", "20"), 1, "failed"),
        (("slow", "3600", "--wait", "0.2", "--deadline", "3"), 1, None),
        (("echo", "1", "--delay", "1h", "--deadline", "0.3s", "--wait", "20"), 1, "expired"),
    ],
)
def test_waiting(tollway: Shell, words: tuple[str, ...], code: int, state: str | None) -> None:
    """`--wait` ends with 0 only when the run succeeded in time."""
    run = tollway.json("submit", *words, code=code)
    assert run["state"] == state or (state is None and run["state"] in ("queued", "running"))


def test_watching(tollway: Shell) -> None:
    """`--watch` tells every step and then the output; with `--json` a line an event and at last the run."""
    done = tollway("submit", "journey", "true", "--watch")
    for word in ("accepted", "claimed", "branch 2", "progress", "retried", "succeeded"):
        assert word in done.stdout, done.stdout
    lines = [json.loads(line) for line in tollway("submit", "tell", '"x"', "--watch", "--json").stdout.splitlines()]
    assert [lines[0]["type"], lines[-2]["type"], lines[-1]["state"]] == ["accepted", "succeeded", "succeeded"]
    assert "I will not" in tollway("submit", "troubled", '{"how":"reject"}', "--watch", code=1).stdout


def test_ctrl_c_leaves_the_run_alone(tollway: Shell, http: Http) -> None:
    """Ctrl-C while watching says that the run goes on and how to see it, and exits with 130."""
    mark = uuid.uuid4().hex
    words = [TOLLWAY, "submit", "slow", "3600", "--watch", "--metadata", f"mark={mark}"]
    with subprocess.Popen(
        words, env=plain_environ() | tollway.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        (run,) = until(lambda: http.items(f"/v1/runs?metadata.mark={mark}&state=running"), "the start")
        assert process.stdout is not None
        while "claimed" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert run["id"] in told
    assert "goes on" in told
    assert http.run(run["id"])["state"] == "running"
    assert tollway("cancel", run["id"]).stdout
    assert http.ended(run["id"])["state"] == "cancelled"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("submit", "echo", "{"), 2, "not valid JSON"),
        (("submit", "echo"), 2, "JSON"),
        (("submit", "echo", "1", "--delay", "soon"), 2, "no duration"),
        (("submit", "echo", "1", "--metadata", "x"), 2, "key=value"),
        (("submit", "echo", "1", "--watch", "--wait", "1"), 2, "exclude"),
        (("submit", "nobody", "1"), 1, "nobody"),
        (("submit", "greet", '{"name": ""}'), 1, "name"),
        (("submit", "echo", "1", "--lane", "fast"), 1, "interactive"),
        (("submit", "echo", "1", "--tenant", "nobody"), 1, "nobody"),
        (("show", "nonsense"), 1, "no run"),
        (("cancel", "nonsense"), 1, "no run"),
        (("replay", "nonsense"), 1, "no run"),
        (("runs", "--state", "asleep"), 2, "asleep"),
        (("runs", "--limit", "0"), 2, "limit"),
        (("runs", "--created-after", "yesterday"), 1, "RFC 3339"),
        (("dead-letters", "replay"), 2, "filter"),
        (("dead-letters", "replay", "nonsense"), 1, "no run"),
        (("tenant", "set", "bad name"), 1, "letters"),
        (("tenant", "set", "x", "--max-queued", "many"), 2, "many"),
        (("key", "create", "nobody-at-all"), 1, "nobody-at-all"),
        (("key", "create", "default", "--scope", "fly"), 2, "fly"),
        (("key", "revoke", "default", "nonsense"), 1, "nonsense"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_bad_words(tollway: Shell, words: tuple[str, ...], code: int, says: str) -> None:
    """What cannot be is said in a sentence: 2 for how the command was called, 1 for what the server refuses."""
    done = tollway(*words, code=code)
    assert says in done.stderr + done.stdout


def test_refusals_as_json(tollway: Shell) -> None:
    """With `--json` a refusal is the server's problem document."""
    assert tollway.json("show", "nonsense", code=1)["code"] == "not_found"
    (error,) = tollway.json("submit", "greet", "{}", code=1)["errors"]
    assert error["path"] == "input"
    assert "name" in error["message"]


def test_real_processes(tollway: Shell) -> None:
    """As a process of its own a command ends with the same codes, again and again, and no other noise."""
    for words, code in ((("submit", "echo", "1", "--wait", "20"), 0), (("show", "nonsense"), 1), (("submit",), 2)) * 2:
        done = subprocess.run(
            [TOLLWAY, *words],
            env=plain_environ() | tollway.environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert "Python" not in done.stderr
        assert "Traceback" not in done.stderr


def test_servers_that_are_not_there(tollway: Shell) -> None:
    """3 when nobody answers, 2 for a wrong key, an address that is none, or no key at all."""
    assert "tollway up" in tollway("runs", code=3, TOLLWAY_URL=f"http://127.0.0.1:{free_port()}").stderr
    assert "TOLLWAY_API_KEY" in tollway("runs", code=2, TOLLWAY_API_KEY="tw_wrong").stderr
    assert "TOLLWAY_URL" in tollway("runs", code=2, TOLLWAY_URL="nonsense").stderr
    assert "TOLLWAY_API_KEY" in tollway("runs", code=2, TOLLWAY_API_KEY="").stderr
    assert tollway.json("runs", code=3, TOLLWAY_URL=f"http://127.0.0.1:{free_port()}")["code"] == "unreachable"


def test_looking(tollway: Shell, http: Http) -> None:
    """`runs` lists with filters and pages, `show` tells a run whole with steps and events."""
    mark = uuid.uuid4().hex
    for _ in range(3):
        run = http.result("journey", False, metadata={"mark": mark})
    listed = tollway.json("runs", "--metadata", f"mark={mark}", "--limit", "2")
    assert len(listed["items"]) == 2
    rest = tollway.json("runs", "--metadata", f"mark={mark}", "--cursor", listed["next"])
    assert (len(rest["items"]), rest["next"]) == (1, None)
    table = tollway("runs", "--metadata", f"mark={mark}", "--agent", "journey", "--state", "succeeded").stdout
    assert table.count("succeeded") == 3
    assert "no runs match" in tollway("runs", "--metadata", "mark=none").stdout
    shown = tollway("show", run["id"], "--steps", "--events").stdout
    for word in (run["id"], "journey", "branch 1", "█", "step.intent", "outcome"):
        assert word in shown
    document = tollway.json("show", run["id"], "--steps", "--events")
    assert (len(document["steps"]), document["events"][-1]["type"]) == (8, "succeeded")


def test_again(tollway: Shell, http: Http) -> None:
    """`replay` starts an ended run anew, with another input if given."""
    old = http.result("greet", {"name": "Ada"})
    new = tollway.json("replay", old["id"], "--input", '{"name": "Grace"}')
    assert new["replay_of"] == old["id"]
    assert http.ended(new["id"])["output"]["text"] == "Hello Grace"
    assert "replay of" in tollway("replay", old["id"]).stdout
    assert "has ended" in tollway("cancel", old["id"], code=1).stderr


def test_dead_letters(tollway: Shell, http: Http) -> None:
    """`dead-letters list` shows groups with a run to look at; `replay` asks before many, and takes ids."""
    tenant = f"cli-{uuid.uuid4().hex[:8]}"
    client = http.make_key(tenant, "submit", "read")
    ids = [client.result("troubled", {"times": 9}, max_attempts=1)["id"] for _ in range(3)]
    shown = tollway("dead-letters", "list", "--tenant", tenant).stdout
    assert "RuntimeError: attempt 1 failed" in shown
    assert ids[2] in shown
    (group,) = tollway.json("dead-letters", "list", "--tenant", tenant)["items"]
    assert group["count"] == 3
    assert "replayed 1 of 1" in tollway("dead-letters", "replay", ids[0]).stdout
    assert [client.ended(run["id"])["state"] for run in client.items("/v1/runs")] == ["dead"] * 4
    words = ("dead-letters", "replay", "--tenant", tenant, "--fingerprint", group["fingerprint"])
    assert "Replay 3 dead runs?" in tollway(*words, stdin="n\n", code=1).stderr
    assert tollway.json(*words, "--yes")["replayed"] == 3
    again = [run["id"] for run in client.items("/v1/runs")][:3]
    assert [client.ended(run_id)["state"] for run_id in again] == ["dead"] * 3
    shown = tollway("dead-letters", "show", group["fingerprint"], "--tenant", tenant).stdout
    assert all(run_id in shown for run_id in again)
    assert "discarded 3 of 3" in tollway("dead-letters", "discard", "--tenant", tenant, "--yes").stdout
    assert "no dead letters" in tollway("dead-letters", "list", "--tenant", tenant).stdout


def test_cancel_by_filter(tollway: Shell, http: Http) -> None:
    """`cancel` with filters asks with the count, and cancels when told to."""
    mark = uuid.uuid4().hex
    ids = [http.submit("echo", n, delay_s=600, metadata={"mark": mark})["id"] for n in range(3)]
    words = ("cancel", "--state", "queued", "--metadata", f"mark={mark}")
    assert "Cancel 3 runs?" in tollway(*words, stdin="n\n", code=1).stderr
    assert http.run(ids[0])["state"] == "queued"
    assert tollway.json(*words, "--yes")["cancelled"] == 3
    assert "no runs match" in tollway(*words).stdout


def test_tenants_and_keys(tollway: Shell) -> None:
    """A tenant is made, changed and listed; a key is shown once, works, is listed, and is revoked."""
    tenant = f"cli-{uuid.uuid4().hex[:8]}"
    assert "weight 2" in tollway("tenant", "set", tenant, "--weight", "2", "--max-queued", "5").stdout
    assert tollway.json("tenant", "set", tenant, "--max-queued", "none", "--paused")["max_queued"] is None
    assert tenant in tollway("tenant", "list").stdout
    secret = tollway("key", "create", tenant, "--name", "mine", "--scope", "read").stdout.strip()
    assert tollway.json("runs", TOLLWAY_API_KEY=secret)["items"] == []
    assert "forbidden" in tollway("submit", "echo", "1", code=2, TOLLWAY_API_KEY=secret).stderr
    (listed,) = tollway.json("key", "list", tenant)["items"]
    assert listed["name"] == "mine"
    assert "mine" in tollway("key", "list", tenant).stdout
    tollway("key", "revoke", tenant, listed["id"])
    tollway("runs", code=2, TOLLWAY_API_KEY=secret)
    run = tollway.json("submit", "echo", "1", "--tenant", tenant)
    assert (run["tenant"], run["blocked"]["reason"]) == (tenant, "tenant")


def test_budgets(tollway: Shell, http: Http) -> None:
    """P8: runs of a budget without money wait and say so; `budget list` shows it spent; removed, they go on."""
    scope = ("acme-money", "--period", "total", "--agent", "ask")
    tollway("tenant", "set", "acme-money")
    (made,) = tollway.json("budget", "set", *scope, "--hard", "0")["items"]
    assert (made["hard_nano"], made["on_hard"], made["ends_at"]) == (0, "park", None)
    acme = Http(http.port, ADMIN_KEY, "acme-money")
    run = acme.submit("ask", "hello")["id"]
    seen = until(lambda: (found := acme.run(run))["blocked"] and found, "the run to wait")
    assert seen["blocked"]["reason"] == "budget"
    assert seen["blocked"]["key"] == made["id"]
    until(lambda: tollway.json("budget", "list", "acme-money")["items"][0]["exhausted"], "the budget to be spent")
    assert "exhausted" in tollway("tenant", "use", "acme-money").stdout
    assert tollway.json("budget", "remove", *scope)["items"] == []
    assert acme.ended(run)["state"] == "succeeded"
