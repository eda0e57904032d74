"""What a client submits, checked, and the run it becomes. Nothing here touches the database.

The same checks serve single submits, batches and replays.
"""

import re
from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from tollway.domain.clock import Clock
from tollway.domain.concurrency import POLICIES
from tollway.domain.errors import Problem
from tollway.domain.ids import IdMaker
from tollway.domain.money import nano
from tollway.ingress.auth import Caller
from tollway.ingress.bodies import decode_raw
from tollway.ingress.catalogue import Catalogue, CataloguedAgent
from tollway.ingress.forecasts import Entry
from tollway.ingress.problems import invalid
from tollway.ingress.services import ApiOptions
from tollway.record.accept import NewRun

YEAR_S = 31_536_000
METADATA_KEYS_MAX = 64
METADATA_BYTES_MAX = 16_384
PRIORITY_S_MAX = 86_400
USD_MAX = 1_000_000_000

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted", enc_hook=str).encode

Place = Callable[[Entry, float | None, float | None], float]
"""When a run should start, given its deadline and `ttl_s`; raises Problem when it is not taken."""

Seconds = Annotated[float, Meta(gt=0, le=YEAR_S)]
Text = Annotated[str, Meta(min_length=1, max_length=255)]


class Webhook(msgspec.Struct, forbid_unknown_fields=True):
    """Where to tell of something, and the keeper's environment variable that holds the signing secret."""

    url: Annotated[str, Meta(max_length=2048)]
    secret_env: str | None = None


class RunBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/runs`."""

    agent: Annotated[str, Meta(max_length=255)]
    input: msgspec.Raw
    lane: Annotated[str, Meta(max_length=64)] | None = None
    priority_s: Annotated[float, Meta(ge=-PRIORITY_S_MAX, le=PRIORITY_S_MAX)] | None = None
    metadata: dict[str, Any] | None = None
    delay_s: Annotated[float, Meta(ge=0, le=YEAR_S)] | None = None
    deadline_s: Seconds | None = None
    ttl_s: Seconds | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=100)] | None = None
    budget_usd: Annotated[float, Meta(ge=0, le=USD_MAX)] | None = None
    concurrency_key: Text | None = None
    concurrency_policy: str | None = None
    webhook: Webhook | None = None


class BatchItem(RunBody):
    """One run of a batch."""

    idempotency_key: str | None = None


class Asked(NamedTuple):
    """The run a request asks for.

    With a `refusal` it is not taken now, and only what its idempotency key made before is answered. `charged` says that
    the request took one of its tenant's `runs_per_s`.
    """

    run: NewRun
    refusal: Problem | None = None
    charged: bool = True


class Submissions:
    """Turns checked bodies into runs."""

    def __init__(self, catalogue: Catalogue, options: ApiOptions, ids: IdMaker, clock: Clock, place: Place) -> None:
        self._catalogue = catalogue
        self._options = options
        self._ids = ids
        self._clock = clock
        self._place = place

    def new_run(
        self, caller: Caller, body: RunBody, idempotency_key: str | None, refusal: Problem | None = None
    ) -> Asked:
        """The run a body asks for, refused already or not. Raises Problem for whatever does not fit.

        A run that is not to be placed is refused at once without a key; with one it may be a repeat.
        """
        charged = refusal is None
        agent = self._catalogue.find(body.agent)
        record = agent.record
        lane = body.lane if body.lane is not None else record.lane
        self.check_lane(lane)
        created_at = self.stamp()
        delay_s = body.delay_s or 0.0
        deadline_at = None if body.deadline_s is None else created_at + body.deadline_s
        priority_s = record.priority_s if body.priority_s is None else body.priority_s
        key_id, task_type = caller.key.id, task_type_text(body.metadata)
        entry = Entry(caller.home, record.name, lane, created_at, delay_s, priority_s, key_id, task_type)
        start_at = created_at
        try:
            if refusal is None:
                start_at = self._place(entry, deadline_at, body.ttl_s)
        except Problem as late:
            if idempotency_key is None:
                raise
            refusal = late
        raw = bytes(body.input)
        value = decode_raw(raw, "input")
        agent.check(value)
        metadata = None if body.metadata is None else metadata_text(body.metadata)
        if body.concurrency_policy is not None:
            _check_policy(body)
        if body.webhook is not None:
            check_webhook(body.webhook, "webhook")
        run = NewRun(
            id=self._ids.new(),
            tenant=caller.home,
            key_id=key_id,
            agent=record.name,
            version=record.version,
            lane=lane,
            input=raw,
            metadata=metadata,
            created_at=created_at,
            priority_s=priority_s,
            delay_s=delay_s,
            deadline_at=deadline_at,
            ttl_s=body.ttl_s,
            max_attempts=body.max_attempts or record.max_attempts,
            budget_nano=None if body.budget_usd is None else nano(body.budget_usd),
            concurrency_key=body.concurrency_key,
            concurrency_policy=body.concurrency_policy,
            webhook_url=body.webhook.url if body.webhook else None,
            webhook_secret_env=body.webhook.secret_env if body.webhook else None,
            replay_of=None,
            predicted_start_at=start_at,
            est_nano=self._options.est_nano,
            idempotency_key=idempotency_key,
            body_hash=None if idempotency_key is None else _body_hash(body, value),
        )
        return Asked(run, refusal, charged)

    def agent(self, name: str) -> CataloguedAgent:
        """The agent a replay runs on. Raises Problem `unknown_agent`."""
        return self._catalogue.find(name)

    def check_lane(self, lane: str) -> None:
        """Raise Problem `unknown_lane`."""
        if lane not in self._options.lanes:
            known = ", ".join(self._options.lanes)
            raise Problem("unknown_lane", f"There is no lane {lane[:64]!r}; the lanes are {known}.")

    def stamp(self) -> float:
        """Now, in whole microseconds, as the record holds it."""
        return int(self._clock.now() * 1_000_000) / 1_000_000


def task_type_text(metadata: dict[str, Any] | None) -> str:
    """`metadata.task_type` as text (as JSON where it is none); empty without."""
    value = None if metadata is None else metadata.get("task_type")
    try:
        return "" if value is None else value if isinstance(value, str) else _encode(value).decode()
    except OverflowError:  # as `metadata_text` is about to say
        return ""


def metadata_text(metadata: dict[str, Any]) -> str:
    """The metadata as JSON text. Raises Problem `invalid_input` beyond its bounds."""
    if len(metadata) > METADATA_KEYS_MAX:
        raise invalid("metadata", f"has {len(metadata)} keys; {METADATA_KEYS_MAX} are the most")
    try:
        text = _encode(metadata)
    except OverflowError:
        raise invalid("metadata", "holds an integer beyond 64 bits; send it as a string") from None
    if len(text) > METADATA_BYTES_MAX:
        raise invalid("metadata", f"is {len(text)} bytes of JSON; {METADATA_BYTES_MAX} are the most")
    return text.decode()


def read_idempotency_key(header: bytes | str | None, path: str = "Idempotency-Key") -> str | None:
    """The key, quoted or bare. Raises Problem `invalid_input`."""
    if header is None:
        return None
    text = header.decode("latin-1").strip() if isinstance(header, bytes) else header
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if not _IDEMPOTENCY_KEY.fullmatch(text):
        raise invalid(path, "must be 1 to 255 printable ASCII characters")
    return text


def _body_hash(body: RunBody, value: Any) -> bytes:
    """What the request means, whatever its white space and the order of its fields."""
    meaning = {name: getattr(body, name) for name in RunBody.__struct_fields__ if name != "input"}
    meaning["input"] = value
    return sha256(_encode_sorted(meaning)).digest()


def _check_policy(body: RunBody) -> None:
    if body.concurrency_policy not in POLICIES:
        raise invalid("concurrency_policy", f"must be one of {', '.join(POLICIES)}")
    if body.concurrency_key is None:
        raise invalid("concurrency_policy", "needs a concurrency_key")


def check_webhook(webhook: Webhook, path: str) -> None:
    """Raise Problem `invalid_input`, naming the field under `path`, unless it can be posted to and its secret found."""
    try:
        parts = urlsplit(webhook.url)
        fit = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fit = False
    if not fit or not webhook.url.isascii() or any(character <= " " for character in webhook.url):
        raise invalid(f"{path}.url", "must be an absolute http or https URL")
    if webhook.secret_env is not None and not _ENV_NAME.fullmatch(webhook.secret_env):
        raise invalid(f"{path}.secret_env", "must be the name of an environment variable")
