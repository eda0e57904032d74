"""`tollway key`: API keys of a tenant."""

import click

from tollway.cli._command import Session, client_command, example
from tollway.cli._output import console, print_json, print_table
from tollway.domain.words import Scope


@click.group(epilog=example("tollway key create acme --name mobile-app"))
def key() -> None:
    """Create, list and revoke API keys."""


@key.command("create", epilog=example("tollway key create acme --name mobile-app --scope submit --scope read"))
@click.argument("tenant_id", metavar="TENANT")
@click.option("--name", default="cli", show_default=True, help="What the key is for.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    default=("submit", "read", "cancel"),
    show_default=True,
    help="What it may do; may be repeated.",
)
@client_command
async def create(session: Session, *, tenant_id: str, name: str, scopes: tuple[str, ...]) -> None:
    """Create a key for TENANT. It is shown this once, and stored hashed. Needs an admin key."""
    made = await session.client.create_key(tenant_id, name, scopes)
    if session.as_json:
        print_json(made)
        return
    console().print(f"{made['key']}", markup=False)
    click.echo(f"key {made['id']} of {tenant_id} ({', '.join(scopes)}): keep it, it is not shown again", err=True)


@key.command("revoke", epilog=example("tollway key revoke acme key_0123456789"))
@click.argument("tenant_id", metavar="TENANT")
@click.argument("key_id", metavar="KEY_ID")
@client_command
async def revoke(session: Session, *, tenant_id: str, key_id: str) -> None:
    """Revoke the key KEY_ID of TENANT; every request after this one is refused. Needs an admin key."""
    await session.client.revoke_key(tenant_id, key_id)
    if session.as_json:
        print_json({"id": key_id, "tenant": tenant_id, "revoked": True})
        return
    console().print(f"revoked {key_id}", markup=False)


@key.command("list", epilog=example("tollway key list acme"))
@click.argument("tenant_id", metavar="TENANT")
@client_command
async def list_keys(session: Session, *, tenant_id: str) -> None:
    """List the keys of TENANT, revoked ones included, without their secrets. Needs an admin key."""
    keys = [item async for item in session.client.keys(tenant_id)]
    if session.as_json:
        print_json({"items": keys, "next": None})
        return
    rows = (
        (item["id"], item["name"], " ".join(item["scopes"]), item["created_at"], item["revoked_at"] or "")
        for item in keys
    )
    print_table(("key", "name", "scopes", "created", "revoked"), rows, empty="no keys")
