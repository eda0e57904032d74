"""What the machine can do at the moment: the speed of its CPU and of its disk, taken beside every figure.

Figures from two machines, or from one whose speed drifts, compare only beside these.
"""

import os
import platform
import time
from pathlib import Path

import msgspec

from tollway.simulator.load.latency import Latency

_FSYNC_SECONDS = 1.0
_FSYNC_COUNT_MAX = 300
_BLOCK = b"\0" * 8192
_ROUNDS = 7
_VOLATILE = frozenset({"tmpfs", "ramfs", "overlay-tmpfs"})


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine at one instant."""

    calibration_ms: float
    fdatasync: Latency
    filesystem: str
    cpus: int
    cpu: str
    python: str
    kernel: str

    @property
    def durable(self) -> bool:
        """Whether the folder survives a loss of power, as far as the kind of its file system tells."""
        return self.filesystem not in _VOLATILE


def inspect(folder: Path) -> Machine:
    """Calibrate CPU and disk; takes about two seconds and blocks."""
    return Machine(
        calibration_ms=calibrate(),
        fdatasync=fdatasync(folder),
        filesystem=filesystem(folder),
        cpus=len(os.sched_getaffinity(0)),
        cpu=_cpu_name(),
        python=platform.python_version(),
        kernel=platform.release(),
    )


def calibrate() -> float:
    """CPU milliseconds of a fixed piece of pure Python: the median of a few rounds."""
    spent = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        _work()
        spent.append(time.process_time() - began)
    return round(sorted(spent)[_ROUNDS // 2] * 1000, 2)


def _work() -> int:
    """Dictionaries, strings and integers, as a service's own code uses them. Never change it: figures hang on it."""
    table: dict[str, int] = {}
    total = 0
    for n in range(40_000):
        key = f"k{n % 997}"
        table[key] = table.get(key, 0) + n
        total += len(key.encode()) ^ (n * 31 & 0xFF)
    return total + sum(sorted(table.values())[:10])


def fdatasync(folder: Path) -> Latency:
    """How long the disk under `folder` takes to make 8 KiB durable."""
    path = folder / f".fdatasync-{os.getpid()}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, _BLOCK * 16)
        os.fsync(descriptor)
        samples: list[float] = []
        stop = time.monotonic() + _FSYNC_SECONDS
        while len(samples) < _FSYNC_COUNT_MAX and time.monotonic() < stop:
            os.pwrite(descriptor, _BLOCK, len(samples) % 16 * len(_BLOCK))
            began = time.perf_counter()
            os.fdatasync(descriptor)
            samples.append(time.perf_counter() - began)
        return Latency.of(samples)
    finally:
        os.close(descriptor)
        path.unlink()


def filesystem(folder: Path) -> str:
    """The kind of file system `folder` lies on, or `unknown`."""
    best, kind = "", "unknown"
    target = str(folder.resolve())
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    except OSError:
        return kind
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        inside = point in ("/", target) or target.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
