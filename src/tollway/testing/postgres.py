"""A throw-away PostgreSQL for tests: the real server, quick because it does not wait for the disk."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tollway.record.server import EmbeddedOptions, EmbeddedPostgres

_OPTIONS = EmbeddedOptions(fsync=False, shared_buffers_mb=64)


@contextmanager
def ephemeral_postgres(options: EmbeddedOptions = _OPTIONS) -> Iterator[EmbeddedPostgres]:
    """A started server on a temporary folder, gone at the end; it dies with the thread that entered.

    Not to be entered from a running event loop. `url_of(role, database)` and `admin_url` let tests clone a template.
    """
    data_dir = Path(tempfile.mkdtemp(prefix="tollway-test-"))
    loop = asyncio.new_event_loop()
    server = EmbeddedPostgres(data_dir, options)
    try:
        loop.run_until_complete(server.start())
        yield server
    finally:
        try:
            loop.run_until_complete(server.stop())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
            shutil.rmtree(data_dir, ignore_errors=True)
