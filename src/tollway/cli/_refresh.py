"""A view that is asked for anew every second, until Ctrl-C."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import RenderableType
from rich.live import Live

from tollway.cli._command import Session
from tollway.cli._output import console

_REFRESH_S = 1.0


async def show(
    session: Session,
    path: str,
    query: Sequence[tuple[str, str]],
    view: Callable[[dict[str, Any]], RenderableType],
    found: dict[str, Any],
    *,
    watch: bool,
) -> None:
    """Print what was found at a path; with `watch` go on asking and show it in place."""
    if not watch:
        console().print(view(found))
        return
    with Live(view(found), console=console(), auto_refresh=False) as live:
        while True:
            await asyncio.sleep(_REFRESH_S)
            live.update(view(await session.client.call("GET", path, query=query)), refresh=True)
