"""What every demo does around its own part: start the system, say so, stop it whatever happens, tell how it went."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

from rich.console import Console

from demo_stack import Stack, StackFailed
from tollway.client import ApiError, Unreachable


def stage(console: Console, stack: Stack, act: Callable[[], Awaitable[bool]]) -> int:
    """Start the stack, play `act`, stop and remove everything. The exit code: 0 when `act` says that all went well."""
    try:
        return asyncio.run(_staged(console, stack, act))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted; everything is stopped", style="yellow")
        return 130
    finally:
        stack.remove()


async def await_ready(console: Console, stack: Stack, said: str | None) -> None:
    """Tell what is started and what is waited for, `said` among it, until everything is at work. Raises StackFailed."""
    typed = f"tollway up --agents {stack.agents}"
    console.print(f"Starting Tollway and its own PostgreSQL: {typed}", style="bold", markup=False)
    if said is not None:
        console.print(said, markup=False)
    took_s = await stack.ready(_teller(console))
    console.print(f"Ready after {took_s:.1f} s at {stack.url}", style="green")


async def _staged(console: Console, stack: Stack, act: Callable[[], Awaitable[bool]]) -> int:
    this = asyncio.current_task()
    if this is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    try:
        stack.start()
        good = await act()
    except (StackFailed, ApiError, Unreachable, TimeoutError, OSError) as error:
        console.print(f"The demo failed: {error}", style="bold red", markup=False)
        console.print(f"The end of the log:\n{stack.log_tail()}", markup=False)
        return 1
    finally:
        # stopping must end even if Ctrl-C is pressed again: it is a task of its own, waited for
        code = await asyncio.shield(asyncio.ensure_future(stack.stop()))
    if code != 0:
        console.print(
            f"`tollway up` did not stop in order (exit code {code}):\n{stack.log_tail()}", style="red", markup=False
        )
        return 1
    console.print("Everything is stopped.", style="bright_black")
    return 0 if good else 1


def _teller(console: Console) -> Callable[[str], None]:
    """Says what is waited for, each thing once."""
    said: set[str] = set()

    def tell(what: str) -> None:
        if what not in said:
            said.add(what)
            console.print(f"  waiting for {what}", style="bright_black", markup=False)

    return tell
