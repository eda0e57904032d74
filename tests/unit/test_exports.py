"""What `import tollway` gives, and what it costs."""

import subprocess
import sys

import pytest

import tollway


@pytest.mark.parametrize("name", tollway.__all__)
def test_every_name_is_there(name: str) -> None:
    """Every name of `__all__` can be had, is the same each time, and is told by `dir`."""
    assert getattr(tollway, name) is getattr(tollway, name)
    assert name in dir(tollway)


def test_what_is_not_there() -> None:
    """Any other name is an AttributeError that names it."""
    with pytest.raises(AttributeError, match="nonsense"):
        tollway.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tollway", {"pydantic", "pyreqwest", "asyncpg", "msgspec", "asyncio"}),
        ("from tollway import Client", {"pydantic", "asyncpg", "tollway.runtime"}),
        ("from tollway import Reject", {"pydantic", "pyreqwest", "asyncpg", "tollway.runtime"}),
        ("from tollway import agent", {"pyreqwest", "asyncpg", "fastapi", "tollway.client"}),
    ],
)
def test_only_what_is_asked_for_is_imported(statement: str, absent: set[str]) -> None:
    """A client loads no runtime, an agent's decorator no HTTP client, and the package itself next to nothing."""
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not set(done.stdout.split()) & absent
