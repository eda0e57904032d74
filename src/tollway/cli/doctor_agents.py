"""The doctor's checks of agent modules: each imported in a process of its own, its agents held to the settings."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tollway.cli.doctor_checks import Check
from tollway.config import Settings

_IMPORT_TIMEOUT_S = 30.0


def check_agents(modules: Sequence[str], settings: Settings | None) -> Iterator[Check]:
    """Whether each module can be imported and registers agents whose lanes and tiers the settings have.

    Several must also go together, as a worker imports them: a name can be registered once.
    """
    checks = [check_together((module,), settings) for module in modules]
    yield from checks
    if len(checks) > 1 and not any(check.state == "fail" for check in checks):
        together = check_together(modules, settings)
        if together.state == "fail":
            yield together


def check_together(modules: Sequence[str], settings: Settings | None) -> Check:
    """The same of all modules in one process, as a worker imports them."""
    names = ", ".join(modules)
    command = [sys.executable, "-m", "tollway.cli.agent_probe", *modules]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_IMPORT_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        remedy = "look for work done at import time (network, models) and move it into the agent"
        return Check("agents", "fail", f"{names}: its import did not end within {_IMPORT_TIMEOUT_S:g} s", remedy)
    except (ValueError, IndexError):
        end = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        remedy = f"try `{sys.executable} -c 'import {names}'`"
        return Check("agents", "fail", f"{names}: importing it ended the process ({end})", remedy)
    if found["error"]:
        module = found["module"]
        return Check("agents", "fail", f"{module}: {found['error']}", _import_remedy(module, found))
    return _check_registered(names, found["agents"], settings)


def _check_registered(module: str, agents: list[dict[str, str]], settings: Settings | None) -> Check:
    if not agents:
        remedy = "put @tollway.agent before each async function that is to be an agent"
        return Check("agents", "fail", f"{module} registers no agent", remedy)
    if settings is not None:
        for agent in agents:
            if agent["lane"] not in settings.lanes:
                remedy = f"add [lanes.{agent['lane']}] or choose one of {', '.join(settings.lanes)}"
                return Check("agents", "fail", f"{module}: {agent['name']} wants lane {agent['lane']}", remedy)
            if agent["tier"] not in settings.served_tiers:
                served = ", ".join(settings.served_tiers)
                remedy = f'add a [[routes]] with tier = "{agent["tier"]}", or choose one of {served}'
                return Check("agents", "warn", f"{module}: {agent['name']} wants tier {agent['tier']}", remedy)
    return Check("agents", "ok", f"{module} registers {', '.join(agent['name'] for agent in agents)}")


def _import_remedy(module: str, found: Mapping[str, Any]) -> str:
    missing = found["missing"]
    if module.endswith(".py") or "/" in module:
        return f"give the module's name, not its file: {module.removesuffix('.py').strip('./').replace('/', '.')}"
    if found["kind"] == "ModuleNotFoundError" and missing and (module == missing or module.startswith(f"{missing}.")):
        return "modules are sought in the working directory, then PYTHONPATH: go to its folder, or set PYTHONPATH"
    at = f" (at {found['at']})" if found["at"] else ""
    if found["kind"] == "ModuleNotFoundError" and missing:
        return f"install what it needs: `pip install {missing.partition('.')[0]}` or its distribution{at}"
    return f"mend the module{at}"
