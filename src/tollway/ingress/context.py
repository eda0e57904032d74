"""What every route of one API process shares."""

from dataclasses import dataclass

from tollway.ingress.auth import Authenticator
from tollway.ingress.catalogue import Catalogue
from tollway.ingress.gatekeeper import Gatekeeper
from tollway.ingress.hot import HotRoutes
from tollway.ingress.services import ApiServices
from tollway.ingress.submission import Submissions
from tollway.ingress.wire.accounts import KeyDesk, WireLedger
from tollway.ingress.wire.door import Door, DoorServices
from tollway.record.accept import Accepted, NewRun


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The services and what is built on them."""

    services: ApiServices
    authenticator: Authenticator
    catalogue: Catalogue
    submissions: Submissions
    gatekeeper: Gatekeeper
    hot: HotRoutes
    wire: Door | None

    def told(self, run: NewRun, accepted: Accepted) -> None:
        """A new run is on record: count it, and tell the workers of its lane."""
        services = self.services
        services.metrics.runs_accepted.add(run.lane)
        services.metrics.accept_seconds.observe(services.clock.now() - run.created_at)
        if accepted.ended:
            services.news.publish("webhook", "")
            return
        if not accepted.waits:
            services.news.publish("queue", run.lane)
        if run.delay_s > 0 or run.deadline_at is not None or run.ttl_s is not None:
            services.news.publish("due", "")


def make_context(services: ApiServices) -> ApiContext:
    """Put the parts of the door together."""
    authenticator = Authenticator(services.sync)
    catalogue = Catalogue()
    services.sync.on_change(catalogue.take)
    waits = Waits(services)
    submissions = Submissions(catalogue, services.options, services.ids, services.clock, waits.of)
    gatekeeper = Gatekeeper(services.accepts, services.options, services.metrics.loop_lag_seconds.observe)
    hot = HotRoutes(services, authenticator, submissions, gatekeeper)
    wire = _make_wire(services, authenticator, gatekeeper)
    return ApiContext(services, authenticator, catalogue, submissions, gatekeeper, hot, wire)


def _make_wire(services: ApiServices, authenticator: Authenticator, gatekeeper: Gatekeeper) -> Door | None:
    wire = services.wire
    if wire is None:
        return None
    ledger = WireLedger(wire.calls, services.ids, services.clock, lambda: services.sync.process_id)
    return Door(
        DoorServices(
            wire.governor,
            KeyDesk(authenticator, services.sync, ledger, services.options.lanes),
            wire.catalogue,
            services.ids,
            services.clock,
            services.metrics,
            gatekeeper.check_open,
            wire.options,
        )
    )


class Waits:
    """How long runs of a lane waited lately, as workers tell in their beats (`facts.waits`): the mean over them."""

    def __init__(self, services: ApiServices) -> None:
        self._sync = services.sync
        self._from: object = None
        self._waits: dict[str, float] = {}

    def of(self, lane: str) -> float:
        """Seconds; 0 while no worker has said anything."""
        workers = self._sync.workers
        if workers is not self._from:
            self._from = workers
            said: dict[str, list[float]] = {}
            for worker in workers:
                told = worker.facts.get("waits")
                for name, wait_s in told.items() if isinstance(told, dict) else ():
                    said.setdefault(name, []).append(float(wait_s))
            self._waits = {name: sum(values) / len(values) for name, values in said.items()}
        return self._waits.get(lane, 0.0)
