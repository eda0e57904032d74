"""The demo: starts Tollway on this machine, runs an agent over real customers' messages, reports, stops everything.

`make demo`, or `.venv/bin/python examples/demo.py --help`.
"""

import asyncio
import os
import sys
import time

import click
from rich.console import Console

from demo_costs import read_costs, show_costs
from demo_stack import PROVIDERS, ROOT, Stack, provider_totals, settings, simulate
from demo_stage import await_ready, stage
from demo_view import Progress, report
from demo_work import TENANTS, Work, messages, refresh, submit_all
from tollway.client import Client

_RUNS_SIMULATED, _RUNS_PAID = 600, 30
_SLOTS = 100
_END_TIMEOUT_S = 120.0
_REFRESH_MIN_S = 0.4
_KEY_SCOPES = ("submit", "read", "cancel")


@click.command()
@click.option("--runs", type=click.IntRange(6, 20_000), help="How many; 600, or 30 on a provider that charges.")
@click.option("--provider", type=click.Choice(["sim", *PROVIDERS]), default="sim", show_default=True)
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C.")
def main(runs: int | None, provider: str, keep: bool) -> None:
    """Run an example agent over customers' messages, in three lanes and for three tenants."""
    if provider != "sim" and not os.environ.get(PROVIDERS[provider][0]):
        raise click.UsageError(f"--provider {provider} needs its key in {PROVIDERS[provider][0]}")
    count = runs or (_RUNS_SIMULATED if provider == "sim" else _RUNS_PAID)
    console = Console(highlight=False, soft_wrap=True)
    stack = Stack(settings(provider, _SLOTS))

    async def act() -> bool:
        said = "No API key is needed: the LLM provider is simulated (--provider openai or anthropic takes a real one)."
        await await_ready(console, stack, said if provider == "sim" else None)
        good = await _work(console, stack, count)
        if keep:
            await _keep(console, stack)
        return good

    code = stage(console, stack, act)
    if code == 0:
        _tell_next(console)
    sys.exit(code)


async def _work(console: Console, stack: Stack, count: int) -> bool:
    """Submit and wait for everything, showing it; whether all went well."""
    sim_url = stack.sim_url
    if sim_url is not None:
        await simulate(sim_url)
    async with Client(stack.url, stack.admin_key()) as admin:
        keys = {}
        for tenant, weight in TENANTS.items():
            await admin.put_tenant(tenant, weight=weight)
            keys[tenant] = (await admin.create_key(tenant, "demo", _KEY_SCOPES))["key"]
        clients = {tenant: Client(stack.url, key) for tenant, key in keys.items()}
        console.print(
            f"Submitting {count} customers' messages to the agent `triage` for {len(clients)} tenants.", markup=False
        )
        work = Work()
        try:
            with Progress(console, work) as progress:
                submitting = asyncio.create_task(submit_all(clients, messages(count), work))
                await _await_ends(stack, admin, work, progress, submitting)
        finally:
            for client in clients.values():
                await client.close()
        totals = await provider_totals(sim_url) if sim_url is not None else None
        console.print()
        good = report(console, work, totals)
        console.print("\nWhat it cost, by GET /v1/usage", style="bold")
        costs = await read_costs(admin, sum(run.usage.llm_calls for run in work.runs.values()))
        good &= show_costs(console, costs, None if totals is None else totals["cost_nano"])
        console.print()
        return good


async def _await_ends(
    stack: Stack, admin: Client, work: Work, progress: Progress, submitting: asyncio.Task[None]
) -> None:
    """Until every accepted run has ended, or for as long as a demo may take."""
    deadline = time.monotonic() + _END_TIMEOUT_S
    try:
        while not submitting.done() or work.final < work.accepted:
            began = time.monotonic()
            await refresh(admin, work)
            progress.update()
            stack.check()
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(max(_REFRESH_MIN_S, 3 * (time.monotonic() - began)))
        await asyncio.wait_for(submitting, max(0.0, deadline - time.monotonic()))
    finally:
        submitting.cancel()
    await refresh(admin, work)
    progress.update()


async def _keep(console: Console, stack: Stack) -> None:
    console.print(
        f"It keeps running at {stack.url} until Ctrl-C: /docs, /metrics, /readyz. In another terminal:", markup=False
    )
    console.print(
        f"  cd {ROOT}; export TOLLWAY_URL={stack.url} TOLLWAY_DATABASE__DATA_DIR={stack.data_dir}", markup=False
    )
    console.print("  .venv/bin/tollway runs", markup=False)
    console.print("""  .venv/bin/tollway submit triage '{"text": "My card has not arrived"}' --watch""", markup=False)
    try:
        while True:
            stack.check()
            await asyncio.sleep(1)
    except asyncio.CancelledError:
        console.print("\nstopping …", style="yellow")
        raise


def _tell_next(console: Console) -> None:
    console.print("To keep it running:", style="bold")
    for line in (
        ".venv/bin/tollway up --agents examples.agents        then http://127.0.0.1:8700/docs, /metrics, /readyz",
        """.venv/bin/tollway submit triage '{"text": "My card has not arrived"}' --watch""",
        ".venv/bin/tollway runs                               and show, cancel, replay, dead-letters",
        "examples/agents.py                                   is the agent you saw at work",
    ):
        console.print(f"  {line}", markup=False)


if __name__ == "__main__":
    main()
