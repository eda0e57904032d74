"""The command line: one file a command."""

import click

from tollway.cli.provider_sim import provider_sim


@click.group()
def main() -> None:
    """Tollway runs AI agents the way a payment system runs transactions."""


main.add_command(provider_sim)
