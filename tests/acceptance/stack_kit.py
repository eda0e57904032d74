"""A whole Tollway of the tests' own: real processes on this machine, talked to over HTTP."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

TOLLWAY = Path(sys.executable).parent / "tollway"
ADMIN_KEY = "tw_acceptance_" + "k" * 30
FINAL = ("succeeded", "failed", "cancelled", "expired", "dead")
PATIENCE_S = 30.0
CHANGING = """
import tollway

@tollway.agent(max_attempts=2)
async def changing(run: tollway.Run, seconds: float) -> str:
    await run.task("before", str, 1)
    import asyncio
    await asyncio.sleep(seconds)
    return await run.task("then", str, 2)
"""
"""The agent `changing`, which a test may change under its run."""


class Answer:
    """An answer, read whole."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body

    @property
    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.body)

    def problem(self, status: int, code: str) -> dict[str, Any]:
        """The problem document, which must be of this status and code and say something."""
        told = f"{self.status} {self.body[:500]!r}"
        assert self.status == status, told
        assert self.headers["content-type"] == "application/problem+json", told
        document: dict[str, Any] = self.json
        assert document["code"] == code, told
        assert document["status"] == status, told
        assert document["type"]
        assert document["title"]
        assert len(document["detail"]) > 10, told
        return document


class Http:
    """A client of one API process, with one key."""

    def __init__(self, port: int, key: str | None = ADMIN_KEY, tenant: str | None = None) -> None:
        self.port = port
        self.key = key
        self._tenant = tenant

    def call(self, method: str, path: str, body: Any = None, /, **headers: str) -> Answer:
        """One request on a connection of its own; bytes are sent as they are, anything else as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, self._headers(data, headers))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, /, **headers: str) -> Answer:
        """POST."""
        return self.call("POST", path, body, **headers)

    def submit(self, agent: str, input: Any = None, /, **fields: Any) -> dict[str, Any]:
        """An accepted run."""
        answer = self.post("/v1/runs", {"agent": agent, "input": input, **fields})
        assert answer.status == 202, answer.body
        run: dict[str, Any] = answer.json
        return run

    def run(self, run_id: str) -> dict[str, Any]:
        """The run as it stands."""
        answer = self.get(f"/v1/runs/{run_id}")
        assert answer.status == 200, answer.body
        run: dict[str, Any] = answer.json
        return run

    def ended(self, run_id: str) -> dict[str, Any]:
        """The run once it has ended."""
        return until(lambda: (run := self.run(run_id))["state"] in FINAL and run, f"the end of {run_id}")

    def result(self, agent: str, input: Any = None, /, **fields: Any) -> dict[str, Any]:
        """Submit a run and wait for its end."""
        return self.ended(self.submit(agent, input, **fields)["id"])

    def items(self, path: str) -> list[dict[str, Any]]:
        """The first page of a list."""
        answer = self.get(path)
        assert answer.status == 200, answer.body
        items: list[dict[str, Any]] = answer.json["items"]
        return items

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """A run's events."""
        return self.items(f"/v1/runs/{run_id}/events?limit=500")

    def steps(self, run_id: str) -> list[dict[str, Any]]:
        """A run's steps."""
        return self.items(f"/v1/runs/{run_id}/steps?limit=500")

    @contextlib.contextmanager
    def stream(
        self, method: str, path: str, body: Any = None, /, **headers: str
    ) -> Iterator[tuple[Answer, Iterator[dict[str, str]]]]:
        """Server-sent events as they come: the answer's head, and frames as their fields."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            data = None if body is None else json.dumps(body).encode()
            sent = self._headers(data, {"accept": "text/event-stream", **headers})
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            streams = response.getheader("content-type", "").startswith("text/event-stream")
            head = Answer(response.status, dict(response.getheaders()), b"" if streams else response.read())
            yield head, frames(response)
        finally:
            connection.close()

    def acting_for(self, tenant: str) -> "Http":
        """The same key, for a tenant."""
        return Http(self.port, self.key, tenant)

    def make_key(self, tenant: str, *scopes: str) -> "Http":
        """A client with a new key of a tenant, which is made if need be."""
        assert self.call("PUT", f"/v1/tenants/{tenant}", {}).status in (200, 201)
        answer = self.post(f"/v1/tenants/{tenant}/keys", {"name": "test", "scopes": list(scopes)})
        assert answer.status == 201, answer.body
        return Http(self.port, answer.json["key"])

    def _headers(self, data: bytes | None, given: Mapping[str, str]) -> dict[str, str]:
        headers = {} if self.key is None else {"authorization": f"Bearer {self.key}"}
        if self._tenant is not None:
            headers["x-tollway-tenant"] = self._tenant
        if data is not None:
            headers["content-type"] = "application/json"
        headers |= {name.replace("_", "-"): value for name, value in given.items()}
        return {name: value for name, value in headers.items() if value}


class Stack:
    """`tollway up` as a user starts it, in a folder of its own."""

    def __init__(self, folder: Path, *agents: str, settings: str = "", **environ: str) -> None:
        self.folder = folder
        folder.chmod(0o755)  # the database runs as another user when the tests are root's
        self.data_dir = folder / "data"
        self.log = folder / "tollway.log"
        self.port = free_port()
        (folder / "tollway.toml").write_text(settings)
        self.environ = plain_environ() | {
            "TOLLWAY_ADMIN_KEY": ADMIN_KEY,
            "PYTHONPATH": str(Path(__file__).parent),
            **environ,
        }
        modules = [part for module in agents for part in ("--agents", module)]
        command = [TOLLWAY, "up", *modules, "--port", str(self.port), "--data-dir", str(self.data_dir), "--json"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def http(self) -> Http:
        """A client with the admin key."""
        return Http(self.port)

    @property
    def sim(self) -> Http:
        """The simulated provider."""
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                return Http(int(json.loads(line)["provider_sim"].rpartition(":")[2]), None)
        raise AssertionError(f"no provider is announced:\n{self.tail()}")

    def ready(self) -> "Stack":
        """Wait until everything is at work."""
        wait_ready(self.port, self.check)
        return self

    def check(self) -> None:
        """Fails when it has ended."""
        assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.tail()}"

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Stop it in order; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()

    def pids(self, word: str) -> list[int]:
        """Its processes whose command line holds `word`."""
        return [pid for pid in descendants(self.process.pid) if word in command_line(pid)]


@contextlib.contextmanager
def another_api(stack: Stack) -> Iterator[Http]:
    """One more API process on the same database."""
    url = environ_of(stack.pids("tollway api")[0])["TOLLWAY_DATABASE__URL"]
    port = free_port()
    command = [TOLLWAY, "api", "--port", str(port)]
    with (stack.folder / "api2.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=stack.folder, env=stack.environ | {"TOLLWAY_DATABASE__URL": url}, stdout=log, stderr=log
        )
    try:
        wait_ready(port, lambda: None)
        yield Http(port)
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def wait_ready(port: int, check: Callable[[], None]) -> None:
    """Until /readyz answers 200."""

    def look() -> bool:
        check()
        with contextlib.suppress(OSError, http.client.HTTPException):
            return Http(port, None).get("/readyz").status == 200
        return False

    until(look, "readiness", 2 * PATIENCE_S)


def until(look: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + patience_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


def frames(response: http.client.HTTPResponse) -> Iterator[dict[str, str]]:
    """Server-sent events as their fields; comments are left out."""
    fields: dict[str, str] = {}
    for line in response:
        text = line.decode().rstrip("\n")
        if text:
            name, _, value = text.partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
        elif fields:
            yield fields
            fields = {}


def plain_environ() -> dict[str, str]:
    """Our environment without what would steer Tollway."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("TOLLWAY_", "PYTHONPATH"))}


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(root: int) -> list[int]:
    """Every process beneath one, itself left out."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def command_line(pid: int) -> str:
    """How a process was started; empty when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def environ_of(pid: int) -> dict[str, str]:
    """The environment a process was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
