"""What every route of one API process shares."""

from dataclasses import dataclass

from tollway.ingress.admission import Admission
from tollway.ingress.auth import Authenticator
from tollway.ingress.catalogue import Catalogue
from tollway.ingress.gatekeeper import Gatekeeper
from tollway.ingress.hot import HotRoutes
from tollway.ingress.scaling import LoadBoard
from tollway.ingress.services import ApiServices
from tollway.ingress.submission import Submissions
from tollway.ingress.wire.accounts import KeyDesk, WireLedger
from tollway.ingress.wire.door import Door, DoorServices
from tollway.record.accept import Accepted, NewRun
from tollway.spend.budgets import NO_BUDGETS


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The services and what is built on them."""

    services: ApiServices
    authenticator: Authenticator
    catalogue: Catalogue
    submissions: Submissions
    gatekeeper: Gatekeeper
    admission: Admission
    hot: HotRoutes
    wire: Door | None
    board: LoadBoard

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
    board = LoadBoard(services.database, services.sync, services.clock, services.options, services.metrics)
    admission = Admission(services, board)
    submissions = Submissions(catalogue, services.options, services.ids, services.clock, admission.place)
    gatekeeper = Gatekeeper(services.accepts, services.options, services.metrics.loop_lag_seconds.observe)
    hot = HotRoutes(services, authenticator, submissions, gatekeeper, admission)
    wire = _make_wire(services, authenticator, gatekeeper, admission)
    return ApiContext(services, authenticator, catalogue, submissions, gatekeeper, admission, hot, wire, board)


def _make_wire(
    services: ApiServices, authenticator: Authenticator, gatekeeper: Gatekeeper, admission: Admission
) -> Door | None:
    wire = services.wire
    if wire is None:
        return None
    ledger = WireLedger(
        wire.calls,
        services.ids,
        services.clock,
        lambda: services.sync.process_id,
        admission.quotas,
        services.guard or NO_BUDGETS,
    )
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
            admission.knock_to_call,
        )
    )
