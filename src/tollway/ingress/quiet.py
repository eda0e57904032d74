"""uvicorn without what costs and is not needed: no lifespan, no logs, no headers of its own, no signal handlers."""

import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn


class QuietServer(uvicorn.Server):
    """uvicorn's server without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the wiring."""
        yield


def quiet_config(app: Any, http: type, backlog: int, **more: Any) -> uvicorn.Config:
    """How the app is served by the protocol `http`; `more` are uvicorn's own settings."""
    return uvicorn.Config(
        app,
        http=http,
        ws="none",
        loop="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=backlog,
        **more,
    )
