"""`tollway doctor` on broken set-ups: each fault is named with its remedy, and the exit code tells its kind."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

AGENT = """
from tollway.runtime.registry import agent

@agent(LANE_AND_TIER)
async def triage(run, text: str) -> str:
    return text
"""
DOCTOR = (sys.executable, "-m", "tollway.cli.doctor")


class Report:
    """One run of the doctor: its exit code, its printed text or its checks."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        self.code = done.returncode
        self.text = done.stdout
        self.stderr = done.stderr

    def checks(self, name: str) -> list[dict[str, str]]:
        return [check for check in json.loads(self.text)["checks"] if check["name"] == name]

    def one(self, name: str) -> dict[str, str]:
        (check,) = self.checks(name)
        return check


def run(folder: Path, *arguments: str, json_form: bool = True, **environ: str) -> Report:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TOLLWAY_", "PYTHONPATH"))}
    command = [*DOCTOR, *arguments, *(["--json"] if json_form else [])]
    if "--port" not in arguments:
        command += ["--port", "0"]
    return Report(
        subprocess.run(command, cwd=folder, env=kept | environ, capture_output=True, text=True, timeout=60, check=False)
    )


@contextmanager
def listening(answer: dict[str, object] | None) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_sound_set_up_passes(tmp_path: Path) -> None:
    """Nothing configured and nothing broken: exit 0, and the data folder is not made by looking."""
    report = run(tmp_path)
    assert report.code == 0, report.text + report.stderr
    assert json.loads(report.text)["ok"] is True
    assert "PostgreSQL" in report.one("postgres")["found"]
    assert "fdatasync" in report.one("disk")["found"]
    assert list(tmp_path.iterdir()) == []


def test_people_read_marks_and_remedies(tmp_path: Path) -> None:
    """Without --json each check is a line with its mark, and the remedy stands under what failed, unbroken."""
    report = run(tmp_path, "--agents", "nowhere", json_form=False)
    assert report.code == 1
    assert "✓ python" in report.text
    assert "✗ agents" in report.text
    assert "  → modules are sought in the working directory, then PYTHONPATH: go to its folder" in report.text
    assert "1 of" in report.text


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    """Another program on the port fails the check and the remedy names a way out."""
    with listening({"status": "ok"}) as port:
        report = run(tmp_path, "--port", str(port))
    assert report.code == 1
    assert report.one("port")["state"] == "fail"
    assert f"127.0.0.1:{port} is taken" in report.one("port")["found"]
    assert "--port N" in report.one("port")["remedy"]


def test_tollway_on_the_port_is_recognised(tmp_path: Path) -> None:
    """A Tollway that already runs is named as such, and is no failure."""
    with listening({"type": "https://tollway.dev/problems/unauthenticated"}) as port:
        report = run(tmp_path, "--port", str(port))
    assert report.code == 0
    assert "Tollway itself" in report.one("port")["found"]


@pytest.mark.parametrize(
    ("text", "found", "remedy"),
    [
        ("[server]\nprot = 1", "server.prot = 1", "did you mean port?"),
        ("[worker]\nslots = 0", "worker.slots = 0", "greater than or equal to 1"),
        ("[server", "tollway.toml", "not valid TOML"),
    ],
)
def test_a_bad_setting_is_told(tmp_path: Path, text: str, found: str, remedy: str) -> None:
    """A file that cannot be used fails with key and remedy and exit code 2; the other checks are still made."""
    (tmp_path / "tollway.toml").write_text(text)
    (tmp_path / "mine.py").write_text(AGENT.replace("LANE_AND_TIER", ""))
    report = run(tmp_path, "--config", "tollway.toml", "--agents", "mine")
    assert report.code == 2
    assert found in report.one("settings")["found"]
    assert remedy in report.one("settings")["remedy"]
    assert report.one("database")["state"] == "skip"
    assert report.one("agents")["state"] == "ok"


def test_a_bad_variable_is_told(tmp_path: Path) -> None:
    """An environment variable that names no setting is a fault of the settings."""
    report = run(tmp_path, TOLLWAY_SERVER__PROT="1")
    assert report.code == 2
    assert report.one("settings")["found"].startswith("TOLLWAY_SERVER__PROT")


def test_an_unreachable_database_is_told(tmp_path: Path) -> None:
    """A database nobody answers at fails the check within seconds and its password is not repeated."""
    report = run(tmp_path, TOLLWAY_DATABASE__URL=f"postgresql://app:hunter2@127.0.0.1:{closed_port()}/db")
    assert report.code == 1
    assert "cannot be reached" in report.one("database")["found"]
    assert "database.url" in report.one("database")["remedy"]
    assert "hunter2" not in report.text


def test_a_database_that_is_something_else_is_told(tmp_path: Path) -> None:
    """A port that speaks another protocol is a failed check, not a traceback."""
    with listening({}) as port:
        report = run(tmp_path, TOLLWAY_DATABASE__URL=f"postgresql://app@127.0.0.1:{port}/db")
    assert report.code == 1
    assert "cannot be reached" in report.one("database")["found"]
    assert "Traceback" not in report.stderr


@pytest.mark.parametrize(
    ("source", "found", "remedy"),
    [
        (None, "No module named 'mine'", "PYTHONPATH"),
        ("import no_such_library.part", "no_such_library", "pip install no_such_library"),
        ("def broken(:", "SyntaxError", "mend the module"),
        ("1 / 0", "ZeroDivisionError", "mine.py:1"),
        ("import sys; print('hello'); sys.exit(3)", "SystemExit", "mine.py:1"),
        ("import os; os._exit(3)", "exit code 3", "python -c"),
    ],
)
def test_a_broken_agent_module_is_told(tmp_path: Path, source: str | None, found: str, remedy: str) -> None:
    """Whatever stops an agent module from being imported is told with a remedy that fits."""
    if source is not None:
        (tmp_path / "mine.py").write_text(source)
    report = run(tmp_path, "--agents", "mine")
    assert report.code == 1
    assert found in report.one("agents")["found"]
    assert remedy in report.one("agents")["remedy"]


def test_a_file_is_not_a_module(tmp_path: Path) -> None:
    """A path given for a module is answered with the module's name."""
    (tmp_path / "mine.py").write_text("")
    assert "mine" in run(tmp_path, "--agents", "mine.py").one("agents")["remedy"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("", 0, "mine registers triage"),
        ("lane='nightly'", 1, "triage wants lane nightly"),
        ("tier='clever'", 0, "triage wants tier clever"),
        ("timeout=-1", 1, "timeout = -1"),
    ],
)
def test_agents_are_held_to_the_settings(tmp_path: Path, words: str, code: int, says: str) -> None:
    """The agents of a module are named; a lane that is not configured fails, a tier without a route is warned of."""
    (tmp_path / "mine.py").write_text(AGENT.replace("LANE_AND_TIER", words))
    report = run(tmp_path, "--agents", "mine")
    assert report.code == code, report.text
    assert says in report.one("agents")["found"]


def test_a_module_without_agents_is_told(tmp_path: Path) -> None:
    """A module that can be imported but registers nothing fails, naming the decorator."""
    (tmp_path / "mine.py").write_text("x = 1")
    report = run(tmp_path, "--agents", "mine")
    assert report.code == 1
    assert "@tollway.agent" in report.one("agents")["remedy"]


def test_a_provider_without_its_key_is_told(tmp_path: Path) -> None:
    """A route whose provider's key variable is not set fails; set, it passes and the key is not shown."""
    (tmp_path / "tollway.toml").write_text(
        '[providers.openai]\nkind = "openai"\napi_key_env = "MY_KEY"\n'
        '[[routes]]\nname = "r"\ntier = "fast"\nprovider = "openai"\nmodel = "gpt-4o-mini"\n'
    )
    report = run(tmp_path)
    assert report.code == 1
    assert "MY_KEY is not set" in report.one("providers")["found"]
    report = run(tmp_path, MY_KEY="hunter2")
    assert report.code == 0
    assert "hunter2" not in report.text


def test_a_data_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    """A data folder beneath a file is refused with another way."""
    (tmp_path / "file").write_text("")
    report = run(tmp_path, "--data-dir", "file/data")
    assert report.code == 1
    assert "--data-dir" in report.one("data folder")["remedy"]


@pytest.mark.parametrize(
    ("pid", "says"), [("4000000", "not stopped cleanly"), ("1", "not stopped cleanly"), ("x", "cannot be read")]
)
def test_a_stale_lock_is_no_obstacle(tmp_path: Path, pid: str, says: str) -> None:
    """A lock file of a server that is gone, or whose pid another program has now, is told and fails nothing."""
    (tmp_path / "data" / "postgres").mkdir(parents=True)
    (tmp_path / "data" / "postgres" / "postmaster.pid").write_text(f"{pid}\n")
    report = run(tmp_path, "--data-dir", "data")
    assert report.code == 0
    assert says in report.one("server")["found"]


def test_help_has_an_example(tmp_path: Path) -> None:
    """--help shows how the command is used."""
    report = run(tmp_path, "--help")
    assert report.code == 0
    assert "Example: tollway doctor" in report.text


def test_a_wrong_option_is_a_usage_error(tmp_path: Path) -> None:
    """An option that does not exist exits with 2."""
    assert run(tmp_path, "--nope").code == 2
