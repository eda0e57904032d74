"""The two hottest routes, `POST /v1/runs` and `GET /v1/runs/{id}`, free of any framework and of any transport.

A transport gathers a `Head` and the body, calls `admit` and hands the run to the record, or calls `look_up` and reads
it; both are plain calls. What a plain request does not ask for (waiting, streaming) is in `waiting.py`.
"""

import re
from uuid import UUID

import msgspec

from tollway.domain.errors import DatabaseUnavailable, Problem
from tollway.domain.ids import parse_id
from tollway.ingress.accepted import accepted_json
from tollway.ingress.admission import Admission
from tollway.ingress.auth import Authenticator, Caller
from tollway.ingress.bodies import check_content_type, decode_body
from tollway.ingress.gatekeeper import Gatekeeper
from tollway.ingress.problems import Reply, invalid, unavailable
from tollway.ingress.services import ApiServices
from tollway.ingress.submission import Asked, RunBody, Submissions, read_idempotency_key
from tollway.record.accept import Accepted, NewRun
from tollway.record.run_document import RunRow, run_json, run_tenant

WAIT_S_MAX = 60
RUNS_PATH = "/v1/runs"
RUN_PREFIX = "/v1/runs/"
RUN_PATH_CHARS = len(RUN_PREFIX) + 36

_WAIT = re.compile(rb"(?:^|[,;])\s*wait\s*=\s*\"?([^,;\"]*)", re.IGNORECASE)
_REPLAYED = (b"idempotency-replayed", b"true")


class Head:
    """The headers the hot routes look at, as they came."""

    __slots__ = ("accept", "authorization", "content_type", "idempotency_key", "prefer", "tenant")

    def __init__(self) -> None:
        self.authorization: bytes | None = None
        self.tenant: bytes | None = None
        self.content_type: bytes | None = None
        self.idempotency_key: bytes | None = None
        self.prefer: bytes | None = None
        self.accept: bytes | None = None

    def take(self, name: bytes, value: bytes) -> None:
        """Note one header; the name is in lower case."""
        attribute = HEAD_FIELDS.get(name)
        if attribute is not None:
            setattr(self, attribute, value)

    @property
    def plain(self) -> bool:
        """Whether a single answer at once is all that is asked for."""
        return self.prefer is None and not self.streams

    @property
    def streams(self) -> bool:
        """Whether the client wants server-sent events."""
        return self.accept is not None and b"text/event-stream" in self.accept.lower()


HEAD_FIELDS = {
    b"authorization": "authorization",
    b"x-tollway-tenant": "tenant",
    b"content-type": "content_type",
    b"idempotency-key": "idempotency_key",
    b"prefer": "prefer",
    b"accept": "accept",
}


class HotRoutes:
    """Admits submits and looks up runs."""

    def __init__(
        self,
        services: ApiServices,
        authenticator: Authenticator,
        submissions: Submissions,
        gatekeeper: Gatekeeper,
        admission: Admission,
    ) -> None:
        self._services = services
        self._authenticator = authenticator
        self._submissions = submissions
        self._gatekeeper = gatekeeper
        self._admission = admission
        self.standing = admission.standing
        self._decoder = msgspec.json.Decoder(RunBody)

    def admit(self, head: Head, body: bytes) -> Asked:
        """The run to be accepted, or only looked up. Raises Problem, and then nothing is stored."""
        self._gatekeeper.check_open()
        caller = self._authenticator.identify(head.authorization, head.tenant)
        caller.require("submit")
        refusal = self._admission.knock(caller.home, keyed=head.idempotency_key is not None)
        check_content_type(head.content_type)
        key = None if head.idempotency_key is None else read_idempotency_key(head.idempotency_key)
        decoded = decode_body(self._decoder, body, self._services.options.json_depth_max)
        return self._submissions.new_run(caller, decoded, key, refusal)

    def accepted(self, run: NewRun, accepted: Accepted) -> Reply:
        """202 for a run that was written now and has not ended with that."""
        return Reply(202, accepted_json(run, self.standing, waits=accepted.waits))

    async def fresh(self, run: NewRun, accepted: Accepted) -> Reply:
        """202 for a run that was written now. Raises DatabaseUnavailable."""
        if not accepted.ended:
            return self.accepted(run, accepted)
        return self.ended(run.id, await self._services.reads.run(run.id))

    def ended(self, run_id: UUID, row: RunRow | None) -> Reply:
        """202 for a run that ended with its accept, given its row. Raises Problem `not_found`."""
        if row is None:
            raise no_such_run(str(run_id))
        return Reply(202, run_json(row))

    def look_up(self, head: Head, run: str) -> tuple[Caller, UUID]:
        """Who asks for which run. Raises Problem."""
        caller = self._authenticator.identify(head.authorization, head.tenant)
        caller.require("read")
        run_id = parse_id(run)
        if run_id is None:
            raise no_such_run(run)
        return caller, run_id

    def found(self, caller: Caller, run_id: UUID, row: RunRow | None) -> Reply:
        """200 with the run. Raises Problem `not_found`, for another tenant's run too."""
        return Reply(200, self.document(caller, run_id, row))

    def document(self, caller: Caller, run_id: UUID, row: RunRow | None) -> bytes:
        """The run's JSON for this caller. Raises Problem `not_found`."""
        if row is None or not caller.may_see(run_tenant(row)):
            raise no_such_run(str(run_id))
        return run_json(row, self.standing)

    async def known(self, run_id: UUID, status: int = 202) -> Reply:
        """The answer to a repeated idempotency key: the run it made, as it stands now."""
        return self.repeated(run_id, await self._services.reads.run(run_id), status)

    def repeated(self, run_id: UUID, row: RunRow | None, status: int = 202) -> Reply:
        """The same, given the run's row. Raises Problem `not_found`."""
        if row is None:
            raise Problem("not_found", f"Run {run_id}, which this Idempotency-Key made, is past its retention.")
        body = run_json(row, self.standing)
        return Reply(status, body, [_REPLAYED])


def no_such_run(run: str) -> Problem:
    """404 for a run that is not there, or not for this caller."""
    return Problem("not_found", f"There is no run {run[:64]!r} for this key; GET /v1/runs lists what there is.")


def read_wait(prefer: bytes | None) -> float | None:
    """The seconds of `Prefer: wait=N`, None without. Raises Problem `invalid_input`."""
    found = None if prefer is None else _WAIT.search(prefer)
    if found is None:
        return None
    try:
        wait_s = float(int(found.group(1).strip()))
    except ValueError:
        wait_s = -1.0
    if not 0 <= wait_s <= WAIT_S_MAX:
        raise invalid("Prefer", f"wait must be a whole number of seconds from 0 to {WAIT_S_MAX}")
    return wait_s


def as_problem(error: BaseException) -> Problem | None:
    """The refusal an error stands for, or None when it is ours."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, DatabaseUnavailable):
        return unavailable(str(error))
    return None
