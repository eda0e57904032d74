"""CPU and memory by process, read from /proc: who spent what while a load ran.

A snapshot holds, for each process of a tree, its own CPU time and that of the children it has reaped. When a process
ends, all it ever spent moves into its parent's reaped time, so the difference of two snapshots, own and reaped
together, is exact for the whole tree however short-lived its backends are, and needs no sampling in between. (A
process whose parent died without reaping it escapes; `missing` counts what vanished so.) Grain: 10 ms a process.
"""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_POSTGRES_KINDS = (
    "checkpointer",
    "background writer",
    "walwriter",
    "autovacuum",
    "logical replication",
    "io worker",
    "logger",
    "startup",
)
_COMMANDS = ("worker", "api", "keeper", "provider-sim")
_NOT_A_LETTER = re.compile(r"[^a-z]+")

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one instant; `started` (ticks since boot) tells it from a later one of the same pid."""

    pid: int
    started: int
    parent: int
    role: str
    own_s: float
    reaped_s: float
    rss_bytes: int

    @property
    def spent_s(self) -> float:
        """CPU seconds of its own and of the children it reaped."""
        return self.own_s + self.reaped_s


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A tree of processes at one instant (monotonic seconds)."""

    at: float
    processes: dict[Key, Process]

    def rss_by_role(self) -> dict[str, int]:
        """Resident bytes by role; pages shared between processes count in each."""
        total: dict[str, int] = {}
        for process in self.processes.values():
            total[process.role] = total.get(process.role, 0) + process.rss_bytes
        return total


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds by role between two snapshots; `missing` processes ended without being reaped in the tree."""

    by_role: dict[str, float]
    missing: int

    @property
    def total_s(self) -> float:
        """CPU seconds of all roles."""
        return sum(self.by_role.values())


def snapshot(root: int, folder: Path | None = None) -> Snapshot:
    """All descendants of the process `root`, itself included, and all whose command line carries `folder`."""
    at = time.monotonic()
    table: dict[int, list[str]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _stat(entry.name)) is not None:
            table[int(entry.name)] = fields
    roots = [root]
    if folder is not None:
        roots += [pid for pid in table if pid != os.getpid() and str(folder) in _command_line(pid)]
    processes = {}
    for pid in _descendants(roots, table):
        process = _process(pid, table[pid], _command_line(pid), pid == root)
        processes[(pid, process.started)] = process
    return Snapshot(at, processes)


def spent_between(before: Snapshot, after: Snapshot) -> Spent:
    """CPU seconds by role. What ended in between is charged to its role, or, if never seen, to its parent's."""
    by_role: dict[str, float] = {}
    ended, missing = _ended(before, after)
    for key, process in after.processes.items():
        earlier = before.processes.get(key)
        own_s = process.own_s - (earlier.own_s if earlier else 0.0)
        _add(by_role, process.role, own_s)
        reaped_s = process.reaped_s - (earlier.reaped_s if earlier else 0.0)
        children = ended.get(key, [])
        roles = {child.role for child in children}
        role = roles.pop() if len(roles) == 1 else _ended_role(process.role)
        # What they had spent by the first snapshot is in that one already; the rest was spent in between.
        _add(by_role, role, reaped_s - sum(child.spent_s for child in children))
    return Spent({role: max(0.0, seconds) for role, seconds in sorted(by_role.items())}, missing)


def _ended(before: Snapshot, after: Snapshot) -> tuple[dict[Key, list[Process]], int]:
    """What ended in between, by the nearest ancestor that lives on and so inherits its time; and how much has none."""
    by_pid = {process.pid: process for process in before.processes.values()}
    by_heir: dict[Key, list[Process]] = {}
    missing = 0
    for key, process in before.processes.items():
        if key in after.processes:
            continue
        heir = by_pid.get(process.parent)
        while heir is not None and (heir.pid, heir.started) not in after.processes:
            heir = by_pid.get(heir.parent)
        if heir is None:
            missing += 1
        else:
            by_heir.setdefault((heir.pid, heir.started), []).append(process)
    return by_heir, missing


def machine_busy_s() -> float:
    """CPU seconds this machine has spent on anything at all since it started."""
    fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, *rest = map(int, fields[:8])
    return (user + nice + system + sum(rest)) / _TICKS_PER_S


def role_of(command_line: str, is_root: bool = False) -> str:
    """What a process does, told by its command line or title: api, worker, keeper, supervisor, postgres …, other."""
    if is_root and "provider-sim" not in command_line:
        return "supervisor"
    if command_line.startswith("postgres:"):
        titles = command_line.split(": ")[1:]  # the cluster's name, if any, then what the process does
        kind = next((kind for kind in _POSTGRES_KINDS for title in titles if title.startswith(kind)), "backend")
        return f"postgres {kind}"
    program = command_line.split(" ", 1)[0].rsplit("/", 1)[-1]
    if program == "postgres":
        return "postgres postmaster"
    if "tollway" not in command_line:
        return "other"
    names = (word.rsplit("/", 1)[-1] for word in command_line.split())
    parts = (part for name in names for part in (name, *_NOT_A_LETTER.split(name)))
    return next((part for part in parts if part in _COMMANDS), "other")


def _ended_role(parent_role: str) -> str:
    if parent_role.startswith("postgres"):
        return "postgres ended backend"
    return parent_role


def _add(by_role: dict[str, float], role: str, seconds: float) -> None:
    if seconds:
        by_role[role] = by_role.get(role, 0.0) + seconds


def _descendants(roots: list[int], table: dict[int, list[str]]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, fields in table.items():
        children.setdefault(int(fields[1]), []).append(pid)
    members: set[int] = set()
    todo = [pid for pid in roots if pid in table]
    while todo:
        pid = todo.pop()
        if pid not in members:
            members.add(pid)
            todo.extend(children.get(pid, ()))
    return members


def thread_s(pid: int) -> float:
    """CPU seconds of a process' first thread, to the nanosecond: enough for a PostgreSQL backend, which has no other.

    Raises OSError when it has gone.
    """
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def _stat(pid: str) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on, or None when the process has gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _process(pid: int, fields: list[str], command_line: str, is_root: bool) -> Process:
    return Process(
        pid=pid,
        started=int(fields[19]),
        parent=int(fields[1]),
        role=role_of(command_line, is_root),
        own_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        reaped_s=(int(fields[13]) + int(fields[14])) / _TICKS_PER_S,
        rss_bytes=int(fields[21]) * _PAGE_BYTES,
    )


def _command_line(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode("utf-8", "replace").strip()
