"""What stands between this process and being ready."""

import asyncio
import time
from typing import Any

from tollway.domain.errors import DatabaseUnavailable
from tollway.ingress.context import ApiContext
from tollway.record.processes import live_processes

_KEEP_S = 0.2
_TIMEOUT_S = 2.0


class Readiness:
    """Answers `/readyz`; many askers share one look within _KEEP_S."""

    def __init__(self, api: ApiContext) -> None:
        self._api = api
        self._looked_at = float("-inf")
        self._found: dict[str, Any] = {}
        self._lock = asyncio.Lock()

    async def look(self) -> dict[str, Any]:
        """`{ready, missing: [what and why], workers, agents}`."""
        async with self._lock:
            if time.monotonic() - self._looked_at > _KEEP_S:
                self._found = await self._look()
                self._looked_at = time.monotonic()
            return self._found

    async def _look(self) -> dict[str, Any]:
        services, options = self._api.services, self._api.services.options
        missing: list[str] = []
        agents: set[str] = set()
        if self._api.gatekeeper.draining:
            missing.append("this process is shutting down")
        claiming = 0
        try:
            live = await asyncio.wait_for(live_processes(services.database, "worker"), _TIMEOUT_S)
            workers = [
                worker
                for worker in live
                if worker.facts.get("claiming") is True
                and not worker.stopping
                and options.supervisor in ("", worker.facts.get("supervisor"))
            ]
            claiming = len(workers)
            agents = {str(name) for worker in workers for name in worker.facts.get("agents", ())}
        except (DatabaseUnavailable, TimeoutError) as error:
            missing.append(f"the database cannot be reached: {str(error) or 'no answer in time'}")
        else:
            if claiming < options.workers_expected:
                missing.append(f"{claiming} of {options.workers_expected} worker processes are claiming")
        if not services.sync.fresh:
            missing.append("the settings in memory are too old to rely on")
        known = self._api.catalogue.names()
        missing += [f"agent {name} is not published yet" for name in sorted(agents - set(known))]
        return {"ready": not missing, "missing": missing, "workers": claiming, "agents": sorted(known)}
