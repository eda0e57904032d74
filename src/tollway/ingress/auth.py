"""Who is asking: a presented key is hashed and looked up in memory, never in the database."""

from hashlib import sha256

from tollway.domain.errors import Problem
from tollway.domain.words import DEFAULT_TENANT, Scope
from tollway.ingress.problems import unavailable
from tollway.record.keys import KeyRecord, unknown_tenant
from tollway.record.settings_sync import SettingsSync

_HOW = "Send the header 'Authorization: Bearer tw_…' with a key made by POST /v1/tenants/{id}/keys."
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="tollway"'}


class Caller:
    """A key and the tenant it acts for; `tenant` is None when an admin key acts for all of them."""

    __slots__ = ("key", "scopes", "tenant")

    def __init__(self, key: KeyRecord, tenant: str | None) -> None:
        self.key = key
        self.tenant = tenant
        self.scopes = frozenset(scope.value for scope in Scope) if key.admin else key.scopes

    @property
    def home(self) -> str:
        """The tenant its submits go to."""
        return self.tenant or DEFAULT_TENANT

    def require(self, scope: str) -> None:
        """Raise Problem `forbidden` unless the key has the scope."""
        if scope not in self.scopes:
            has = ", ".join(sorted(self.key.scopes))
            detail = f"This needs the scope '{scope}'; key {self.key.id} has {has}. Ask an admin for a key that has it."
            raise Problem("forbidden", detail)

    def may_see(self, tenant: str) -> bool:
        """Whether a thing of this tenant exists for the caller."""
        return self.tenant is None or self.tenant == tenant

    def narrowed(self, tenant: str | None) -> str | None:
        """The tenant a list is about, given its `tenant` filter. Raises Problem `forbidden` for another's."""
        if tenant is None or self.tenant is None:
            return tenant or self.tenant
        if tenant != self.tenant:
            raise Problem("forbidden", f"Key {self.key.id} acts for tenant {self.tenant} only; leave the filter out.")
        return tenant


class Authenticator:
    """Turns headers into callers."""

    def __init__(self, sync: SettingsSync) -> None:
        self._sync = sync
        self._version = -1
        self._callers: dict[bytes, Caller] = {}

    def identify(self, authorization: bytes | None, tenant: bytes | None) -> Caller:
        """The caller. Raises Problem `unauthenticated`, `forbidden`, `not_found`, `database_unavailable`."""
        sync = self._sync
        if not sync.fresh:
            raise unavailable("the settings in memory are too old to rely on")
        if authorization is None:
            raise Problem("unauthenticated", f"The request carries no API key. {_HOW}", headers=_CHALLENGE)
        if authorization[:7].lower() != b"bearer ":
            raise Problem(
                "unauthenticated", f"The Authorization header is not of the form 'Bearer …'. {_HOW}", headers=_CHALLENGE
            )
        digest = sha256(authorization[7:].strip()).digest()
        snapshot = sync.snapshot
        if self._version != snapshot.version:
            self._callers = {}
            self._version = snapshot.version
        caller = self._callers.get(digest)
        if caller is None:
            key = snapshot.keys.get(digest)
            if key is None:
                raise Problem("unauthenticated", f"The API key is unknown or revoked. {_HOW}", headers=_CHALLENGE)
            caller = self._callers[digest] = Caller(key, None if key.admin else key.tenant)
        return caller if tenant is None else self._acting(caller, tenant.decode("latin-1"))

    def _acting(self, caller: Caller, tenant: str) -> Caller:
        if not caller.key.admin:
            if tenant == caller.tenant:
                return caller
            raise Problem(
                "forbidden", f"X-Tollway-Tenant is for admin keys; key {caller.key.id} acts for {caller.tenant}."
            )
        if tenant not in self._sync.snapshot.tenants:
            raise unknown_tenant(tenant)
        return Caller(caller.key, tenant)
