"""What the chaos tests share: one data folder a test process, so that only the first start makes a cluster."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from stack import Stack, Start, running


@pytest.fixture(scope="session")
def data_dir() -> Iterator[Path]:
    """The folder that every `tollway up` of this test process runs on, one after the other."""
    folder = Path(tempfile.mkdtemp(prefix="tollway-chaos-"))
    yield folder / "data"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def up(data_dir: Path, tmp_path: Path) -> Start:
    """Starts `tollway up`: `async with up(workers=2, latency_s=1.0, lease_ttl_s=2) as stack`."""

    def start(**options: Any) -> AbstractAsyncContextManager[Stack]:
        return running(tmp_path, data_dir, **options)

    return start
