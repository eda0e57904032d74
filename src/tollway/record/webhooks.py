"""Webhook deliveries in the record: claimed under a lease, settled in groups, kept when they failed to the last.

A delivery is due at least once and claimed by one deliverer at a time; a claim that is not settled in its lease is
somebody else's, and what its first holder says afterwards is ignored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tollway.record.alerts import read_alerts
from tollway.record.database import Database
from tollway.record.group_commit import GroupCommit
from tollway.record.run_document import RunRow

FORGET_MAX = 5000


@dataclass(frozen=True, slots=True)
class Delivery:
    """A claimed delivery, of a run or of an alert. `attempts` counts this claim too.

    `run` is the row of `read_runs`, None when it is gone. One with an `alert_id` is of that alert, and `run_id` is then
    the delivery's own; `alert` is its document.
    """

    run_id: UUID
    url: str
    host: str
    secret_env: str | None
    attempts: int
    run: RunRow | None = None
    alert_id: UUID | None = None
    alert: Mapping[str, Any] | None = None

    @property
    def message_id(self) -> str:
        """What tells receivers that they were told before: the same at every attempt, and to each of an alert's."""
        return f"run_{self.run_id}" if self.alert_id is None else f"alert_{self.alert_id}"


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a claimed delivery went: no `error` means delivered; an error without `retry_s` (seconds) means given up."""

    run_id: UUID
    attempts: int
    error: str | None = None
    retry_s: float | None = None


class WebhookRecord:
    """The verbs of deliveries. All raise DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._settled: GroupCommit[Settlement, bool] = GroupCommit(self._settle)

    async def next_due_s(self, without_hosts: Sequence[str]) -> float | None:
        """Seconds until the next delivery is due, negative when it is overdue; None when there is none."""
        due_s: float | None = await self._database.value("next_webhook", without_hosts)
        return due_s

    async def claim(self, limit: int, lease_s: float, host_limit: int, places: Mapping[str, int]) -> Sequence[Delivery]:
        """Take at most `limit` due deliveries for `lease_s`, with their runs or alerts.

        Of one host at most `host_limit`, or what `places` leaves it.
        """
        claimed = await self._database.rows(
            "claim_webhooks", limit, lease_s, host_limit, list(places), list(places.values())
        )
        if not claimed:
            return []
        runs = await self._runs([row["run_id"] for row in claimed if row["alert"] is None])
        alerts = await read_alerts(self._database, [row["alert"] for row in claimed if row["alert"] is not None])
        return [
            Delivery(
                row["run_id"],
                row["url"],
                row["host"],
                row["secret_env"],
                row["attempts"],
                runs.get(row["run_id"]),
                row["alert"],
                alerts.get(row["alert"]),
            )
            for row in claimed
        ]

    async def settle(self, settlement: Settlement) -> bool:
        """Write how a delivery went; False when the claim was no longer ours."""
        return await self._settled.put(settlement)

    async def drain(self) -> None:
        """Wait until every settlement handed in is written or refused."""
        await self._settled.drain()

    async def forget_old(self, keep_days: int) -> None:
        """Forget deliveries given up more than `keep_days` ago (0: keep them for ever)."""
        while keep_days and len(await self._database.rows("drop_old_webhooks", keep_days, FORGET_MAX)) == FORGET_MAX:
            pass

    async def _runs(self, ids: Sequence[UUID]) -> dict[UUID, RunRow]:
        if not ids:
            return {}
        return {row[0]: tuple(row) for row in await self._database.rows("read_runs", ids, min(ids), max(ids))}

    async def _settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        rows = await self._database.rows(
            "settle_webhooks",
            [one.run_id for one in settlements],
            [one.attempts for one in settlements],
            [one.error for one in settlements],
            [one.retry_s for one in settlements],
        )
        settled = {row["run_id"] for row in rows}
        return [one.run_id in settled for one in settlements]
