"""Calls the command line within the test's process."""

from click.testing import CliRunner, Result
from contract_server import KEY, ContractServer

from tollway.cli import main


def tollway(server: ContractServer | None, *args: str, stdin: str | None = None) -> Result:
    """The command line, called in this process, pointed at the server."""
    url = server.url if server is not None else "http://127.0.0.1:9"
    return CliRunner().invoke(main, args, input=stdin, env={"TOLLWAY_URL": url, "TOLLWAY_API_KEY": KEY})
