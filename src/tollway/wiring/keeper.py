"""What a keeper process is made of."""

import contextlib
from dataclasses import replace

from tollway.config import Settings
from tollway.domain import money
from tollway.domain.errors import DatabaseUnavailable
from tollway.hotstate.answers import PostgresAnswers
from tollway.outbound.webhooks import DeliverOptions, WebhookDeliverer
from tollway.record.alerts import AlertHook, AlertRecord
from tollway.record.processes import leave_process, register_process
from tollway.record.rollup import Rollup
from tollway.record.spending import SpendRecord
from tollway.record.upkeep import Upkeep
from tollway.record.webhooks import WebhookRecord
from tollway.runtime.alert_watch import AlertOptions, AlertParts, AlertWatch
from tollway.runtime.heartbeat import Heartbeat, HeartbeatOptions
from tollway.runtime.keeper import Keeper, KeeperOptions
from tollway.runtime.rollup import UsageRollup
from tollway.spend.spikes import SpikeRule
from tollway.wiring.base import Base, base, stop_event
from tollway.wiring.caches import SHARED_TIMES

LOOK_EVERY_S = 1.5


async def run_keeper(settings: Settings) -> int:
    """One keeper until SIGTERM; the exit code. Raises ConfigError, DatabaseUnavailable."""
    stop = stop_event()
    async with base(settings, "keeper") as parts:
        ttl_s = settings.worker.lease_ttl_s
        keeper_id = await register_process(parts.database, "keeper", ttl_s)
        kept = settings.retention
        days = {"run": kept.runs_days, "step": kept.runs_days, "event": kept.events_days, "ledger": kept.ledger_days}
        look_every_s = min(LOOK_EVERY_S, settings.worker.lease_ttl_s / 4)
        keeper = Keeper(
            Upkeep(parts.database, keeper_id),
            PostgresAnswers(parts.database),
            parts.broadcast,
            parts.clock,
            KeeperOptions(look_every_s, days, SHARED_TIMES * settings.llm.cache_bytes_max),
            (UsageRollup(Rollup(parts.database), parts.clock),),
        )
        deliverer = WebhookDeliverer(
            WebhookRecord(parts.database),
            parts.broadcast,
            parts.clock,
            parts.metrics,
            DeliverOptions(keep_days=kept.runs_days),
        )
        watch = _alert_watch(parts, keeper)
        heartbeat = Heartbeat(
            replace(parts.database.options, connections_max=1),
            keeper_id,
            HeartbeatOptions(settings.worker.heartbeat_s, settings.worker.loop_block_max_s),
            lambda: {"metrics": parts.metrics.snapshot()},
            stop.set,
            parts.metrics.loop_lag_seconds.observe,
        )
        heartbeat.start()
        await keeper.start()
        await watch.start()
        await deliverer.start()
        try:
            await stop.wait()
        finally:
            await deliverer.stop()
            await watch.stop()
            await keeper.stop()
            await deliverer.stop()
            heartbeat.stop()
            with contextlib.suppress(DatabaseUnavailable):
                await leave_process(parts.database, keeper_id)
    return 0


def _alert_watch(parts: Base, keeper: Keeper) -> AlertWatch:
    settings = parts.settings.alerts
    hook = AlertHook(settings.webhook_url, settings.webhook_secret_env, settings.kinds)
    return AlertWatch(
        AlertParts(
            parts.database,
            AlertRecord(parts.database, parts.ids, hook),
            SpendRecord(parts.database),
            parts.broadcast,
            parts.clock,
            parts.metrics,
            lambda: keeper.in_office,
        ),
        AlertOptions(
            percents=settings.soft_pct,
            spike=SpikeRule(settings.spike_factor, money.nano(settings.spike_min_usd)),
            keep_days=parts.settings.retention.events_days,
        ),
    )
