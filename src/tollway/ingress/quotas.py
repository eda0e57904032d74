"""Quotas of tenants at the door, of runs and calls alike: requests a second, runs queued, tokens a minute and a day.

All of it is answered from memory. A run that has begun goes on: quotas close the door and nothing else.
"""

from collections.abc import Callable

from tollway.domain.clock import Clock
from tollway.domain.errors import Problem
from tollway.domain.spans import DAY_S, MINUTE_S
from tollway.ingress.depths import Depths
from tollway.ingress.problems import Limit, limited
from tollway.queue.quotas import RateBucket, day_opens_at, minute_opens_in, minute_use, part_of
from tollway.record.quotas import TokenBook
from tollway.record.run_document import rfc3339_epoch
from tollway.record.settings_sync import SettingsSnapshot, SettingsSync
from tollway.record.tenants import TenantRecord

FULL_AFTER_S = 1.0
_TOLD_MAX = 100
_WORTH_TELLING = 0.01


class Quotas:
    """The quotas of every tenant, in one API process."""

    def __init__(self, sync: SettingsSync, tokens: TokenBook, depths: Depths, clock: Clock) -> None:
        self._sync = sync
        self._clock = clock
        self.tokens = tokens
        self.depths = depths
        self._buckets: dict[str, RateBucket] = {}
        self._told: dict[str, float] = {}
        sync.on_change(self._take)

    def check_run(self, tenant: TenantRecord) -> None:
        """Let one more run of the tenant be submitted. Raises Problem."""
        self.check_tokens(tenant)
        if tenant.max_queued is not None and self.depths.is_full(tenant.id, tenant.max_queued):
            raise _queue_full(tenant.id, tenant.max_queued)
        self.check_rate(tenant)

    def check_call(self, tenant: TenantRecord) -> None:
        """Let one more call of the tenant be made. Raises Problem."""
        self.check_tokens(tenant)
        self.check_rate(tenant)

    def check_rate(self, tenant: TenantRecord) -> None:
        """Take one request of the tenant's `runs_per_s`. Raises Problem `rate_limited`."""
        rate = tenant.runs_per_s
        if rate is None:
            return
        now = self._clock.monotonic()
        bucket = self._buckets.get(tenant.id)
        if bucket is None:
            bucket = self._buckets[tenant.id] = RateBucket(now)
        after_s = bucket.take(now, self._part(tenant.id, rate))
        if after_s > 0.0:
            detail = f"Tenant {tenant.id} may make {rate:g} requests a second, runs and calls together."
            window_s = 1 if rate >= 1 else round(1 / rate)
            limit = Limit("runs_per_s", max(1.0, rate), window_s)
            raise limited("rate_limited", limit, after_s, f"{detail} Try again after {after_s:.2f} s.")

    def give_back(self, tenant: str) -> None:
        """What a request took of the tenant's `runs_per_s` was for nothing new."""
        bucket = self._buckets.get(tenant)
        if bucket is not None:
            bucket.give_back()

    def tokens_used(self, tenant: TenantRecord) -> dict[str, int | None]:
        """Settled tokens of the last minute and of this UTC day; None where the tenant has no quota, so none count."""
        if not tenant.counts_tokens:
            return {"tokens_min": None, "tokens_day": None}
        minute = minute_use(self.tokens.slices(tenant.id), self._clock.now())
        return {"tokens_min": minute, "tokens_day": self.tokens.day(tenant.id)}

    def check_tokens(self, tenant: TenantRecord) -> None:
        """Raise Problem `quota_exhausted` or `rate_limited` while the tenant's tokens are used up.

        What its calls under way in this process may still use counts as used.
        """
        if not tenant.counts_tokens:
            return
        held, now = self.tokens.held(tenant.id), self._clock.now()
        most = tenant.tokens_per_day
        if most is not None:
            used = self.tokens.day(tenant.id)
            opens_at = day_opens_at(used, held, most, now)
            if opens_at is not None and used >= most:
                raise _day_spent(tenant.id, most, opens_at, now)
            if opens_at is not None:
                raise _held("tokens_per_day", most, DAY_S, tenant.id)
        most = tenant.tokens_per_min
        if most is not None:
            after_s = minute_opens_in(self.tokens.slices(tenant.id), held, most, now)
            if after_s > 0.0:
                detail = f"Tenant {tenant.id} has used its {most} tokens of this minute."
                limit = Limit("tokens_per_min", most, MINUTE_S)
                raise limited("rate_limited", limit, after_s, f"{detail} Try again after {after_s:.1f} s.")

    def begin_call(self, tenant: str, tokens: Callable[[], int]) -> int:
        """Let a call of the tenant begin that may use so many tokens; returns what is held for it, to be released.

        Asked for its tokens only where they count. Raises Problem.
        """
        record = self._sync.snapshot.tenants.get(tenant)
        if record is None or not record.counts_tokens:
            return 0
        self.check_tokens(record)
        held = tokens()
        self.tokens.hold(tenant, held)
        return held

    def facts(self) -> dict[str, float]:
        """Requests a second of the tenants asked for most, for the beat; what was told here counts from now on."""
        now = self._clock.monotonic()
        asked = ((bucket.asked_per_s(now), tenant) for tenant, bucket in self._buckets.items())
        told = sorted((one for one in asked if one[0] > _WORTH_TELLING), reverse=True)[:_TOLD_MAX]
        self._told = {tenant: round(per_s, 3) for per_s, tenant in told}
        return self._told

    def _part(self, tenant: str, rate: float) -> float:
        """This process' part: of an only one, the whole."""
        own_id = self._sync.process_id
        others = []
        for process in self._sync.processes:
            if process.role == "api" and process.id != own_id and not process.stopping:
                asked = process.facts.get("asked")
                said = asked.get(tenant, 0.0) if isinstance(asked, dict) else 0.0
                others.append(float(said) if isinstance(said, int | float) else 0.0)
        return part_of(rate, self._told.get(tenant, 0.0), others)

    def _take(self, snapshot: SettingsSnapshot) -> None:
        tenants = snapshot.tenants.values()
        limited_now = {tenant.id for tenant in tenants if tenant.runs_per_s is not None}
        self._buckets = {tenant: bucket for tenant, bucket in self._buckets.items() if tenant in limited_now}
        self.tokens.govern(tenant.id for tenant in tenants if tenant.counts_tokens)
        self.depths.govern({tenant.id: tenant.max_queued for tenant in tenants if tenant.max_queued is not None})


def _queue_full(tenant: str, most: int) -> Problem:
    limit = Limit("max_queued", most)
    if most == 0:
        detail = (
            f"Tenant {tenant} may have nothing queued (max_queued = 0), so it can submit no runs; raise or lift it."
        )
    else:
        detail = f"Tenant {tenant} has {most} runs queued, as many as it may; try again when some have started."
    return limited("queue_full", limit, FULL_AFTER_S, detail)


def _day_spent(tenant: str, most: int, opens_at: float, now: float) -> Problem:
    opens = rfc3339_epoch(opens_at)
    detail = f"Tenant {tenant} has used its {most} tokens of this day; its quota opens at {opens}."
    problem = limited("quota_exhausted", Limit("tokens_per_day", most, DAY_S), opens_at - now, detail, opens_at=opens)
    problem.headers = {name: value for name, value in problem.headers.items() if name.startswith("RateLimit")}
    return problem


def _held(policy: str, most: int, window_s: int, tenant: str) -> Problem:
    detail = f"Calls under way may use up the {most} tokens of tenant {tenant}; try again when they have ended."
    return limited("rate_limited", Limit(policy, most, window_s), FULL_AFTER_S, detail)
