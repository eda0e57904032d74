"""`tollway up` on set-ups that cannot work: it says what is wrong and how to mend it, and leaves nothing behind."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from stack_kit import ADMIN_KEY, PATIENCE_S, TOLLWAY, Http, Stack, descendants, free_port, plain_environ

from tollway.cli import main

AGENT = """
import tollway

@tollway.agent(WORDS)
async def mine(run: tollway.Run) -> None:
    pass
"""


def up(folder: Path, *words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """`tollway up` in a folder, which is expected to end by itself."""
    port = () if "--port" in words else ("--port", str(free_port()))
    return subprocess.run(
        [TOLLWAY, "up", *words, *port], cwd=folder, env=plain_environ() | environ, capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def refused(done: "subprocess.CompletedProcess[str]", *says: str) -> None:
    assert done.returncode == 2, done.stderr
    for words in says:
        assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "says", "remedy"),
    [
        (None, "No module named 'agents'", "PYTHONPATH"),
        ("import no_such_library", "no_such_library", "pip install no_such_library"),
        ("def broken(:", "SyntaxError", "mend the module"),
        ("x = 1", "registers no agent", "@tollway.agent"),
        (AGENT.replace("WORDS", "lane='nightly'"), "nightly", "interactive, standard, batch"),
        (AGENT.replace("WORDS", "timeout=0"), "timeout", "mend the module"),
    ],
    ids=["missing", "dependency", "syntax", "empty", "lane", "timeout"],
)
def test_agents_that_cannot_be(tmp_path: Path, source: str | None, says: str, remedy: str) -> None:
    """An agent module that cannot be used is told with its remedy and 2, before anything is started."""
    if source is not None:
        (tmp_path / "agents.py").write_text(source)
    refused(up(tmp_path, "--agents", "agents"), says, remedy)
    assert not (tmp_path / ".tollway").exists()


def test_two_agents_of_one_name(tmp_path: Path) -> None:
    """Modules that are fine alone but register one name twice are refused together."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(AGENT.replace("WORDS", ""))
    refused(up(tmp_path, "--agents", "one", "--agents", "two"), "two", "name=")


def test_a_provider_without_its_key(tmp_path: Path) -> None:
    """A route whose provider's key is not in the environment is refused before anything is started."""
    (tmp_path / "tollway.toml").write_text(
        '[providers.openai]\nkind = "openai"\napi_key_env = "MY_KEY"\n'
        '[[routes]]\nname = "r"\ntier = "fast"\nprovider = "openai"\nmodel = "m"\n'
    )
    refused(up(tmp_path), "MY_KEY is not set", "export MY_KEY=")
    assert not (tmp_path / ".tollway").exists()


def test_a_weak_admin_key(tmp_path: Path) -> None:
    """A first admin key that is too short is refused before anything is started, without repeating it."""
    done = up(tmp_path, TOLLWAY_ADMIN_KEY="tw_hunter2")
    refused(done, "TOLLWAY_ADMIN_KEY", "32")
    assert "hunter2" not in done.stderr
    assert not (tmp_path / ".tollway").exists()


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("--autoscale", "4..1"), "write 1..4"),
        (("--autoscale", "0..4"), "begin with 1"),
        (("--autoscale", "some"), "as in 1..4"),
        (("--autoscale", "1..500"), "the most on one machine"),
        (("--autoscale", "1..4", "--workers", "2"), "give one of them"),
    ],
)
def test_bounds_of_workers_that_cannot_be(words: tuple[str, ...], remedy: str) -> None:
    """P11: bounds that cannot be meant, or a number beside them, are told with the remedy and 2."""
    done = CliRunner().invoke(main, ["up", *words])
    assert done.exit_code == 2, done.output
    assert remedy in " ".join(done.output.split())


def test_a_taken_port(tmp_path: Path) -> None:
    """A port that another program holds is refused before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused(up(tmp_path, "--port", str(taken.getsockname()[1])), "server.port", "--port")
    assert not (tmp_path / ".tollway").exists()


def test_a_live_data_folder(stack: Stack, http: Http) -> None:
    """A data folder that another Tollway works on is refused, and the other is not disturbed."""
    environ = {"TOLLWAY_ADMIN_KEY": ADMIN_KEY}
    done = up(stack.folder, "--data-dir", str(stack.data_dir), **environ)
    assert done.returncode in (1, 2), done.stderr
    assert str(stack.data_dir) in done.stderr
    assert "Traceback" not in done.stderr
    assert http.result("echo", 1)["state"] == "succeeded"


def test_the_doctor_beside_a_live_one(stack: Stack) -> None:
    """`tollway doctor` knows a Tollway that runs here, port and data folder, and finds nothing in the way."""
    done = subprocess.run(
        [TOLLWAY, "doctor", "--port", str(stack.port), "--data-dir", stack.data_dir, "--agents", "contract_agents"],
        cwd=stack.folder, env=stack.environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Tollway itself answers" in done.stdout
    assert "contract_agents registers" in done.stdout
    assert "✗" not in done.stdout


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One more Tollway, on a folder of its own."""
    folder = tmp_path_factory.mktemp("fresh")
    started = Stack(folder, "contract_agents")
    try:
        yield started.ready()
    finally:
        started.stop()


def test_ctrl_c_and_a_second_life(fresh: Stack) -> None:
    """Ctrl-C stops every process with 0 and hands back what runs; the next start on the folder finishes it."""
    run_id = fresh.http.submit("slow", 1.0)["id"]
    delayed = fresh.http.submit("echo", 1, delay_s=1)["id"]
    children = descendants(fresh.process.pid)
    assert len(children) >= 4
    assert fresh.stop(signal.SIGINT) == 0, fresh.tail()
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    again = Stack(fresh.folder, "contract_agents")
    try:
        again.ready()
        assert again.http.ended(run_id)["state"] == "succeeded"
        assert again.http.ended(delayed)["state"] == "succeeded"
    finally:
        assert again.stop() == 0, again.tail()
