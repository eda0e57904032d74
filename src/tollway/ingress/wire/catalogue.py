"""What may be asked for over the wire: the tiers, then the models that serve them, as `GET /v1/models` lists them."""

from collections.abc import Iterable
from typing import Any

import msgspec

from tollway.config import Route
from tollway.domain.errors import LlmError

_LONG_AGO = "1970-01-01T00:00:00Z"


class ModelCatalogue:
    """Tiers and models of the configuration, and the most each may write."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._owners: dict[str, str] = {}
        self._bounds: dict[str, int | None] = {}
        given = tuple(routes)
        for route in given:
            self._owners.setdefault(route.tier, "tollway")
        for route in given:
            self._owners.setdefault(route.model, route.provider)
        for route in given:
            for name in {route.tier, route.model, f"{route.provider}/{route.model}"}:
                self._bound(name, route.output_tokens_max)

    def output_tokens_max(self, name: str) -> int | None:
        """The most that some route of a tier or model writes in one answer, tokens; None where no bound is known."""
        return self._bounds.get(name)

    def listed(self) -> bytes:
        """All of them. One document for the SDKs of both vendors: each reads its own fields."""
        data = [self._told(name) for name in self._owners]
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        whole = {"object": "list", "data": data, "has_more": False, "first_id": first, "last_id": last}
        return msgspec.json.encode(whole)

    def one(self, name: str) -> bytes:
        """One of them. Raises LlmError `unknown_tier`."""
        if name not in self._owners:
            known = ", ".join(self._owners)
            raise LlmError("unknown_tier", f"there is no tier or model {name[:200]!r}; there are {known}", final=True)
        return msgspec.json.encode(self._told(name))

    def _bound(self, name: str, bound: int | None) -> None:
        known = self._bounds.get(name, 0)
        self._bounds[name] = None if bound is None or known is None else max(known, bound)

    def _told(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "type": "model",
            "created": 0,
            "created_at": _LONG_AGO,
            "owned_by": self._owners[name],
            "display_name": name,
        }
