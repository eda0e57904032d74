"""Capacity leases in Postgres: no allocator, each process works out its own part under a lock on the route's row.

One exchange is one short transaction over all routes that a process has to talk of, so the leases of a route never
exceed its limit, whoever comes at once.
"""

import asyncio

import asyncpg
import msgspec

from tollway.domain.errors import DatabaseUnavailable
from tollway.hotstate.allotment import exchange
from tollway.hotstate.capacity import Grant, Want
from tollway.hotstate.route_state import Lease, RouteState, new_state
from tollway.record.database import Connection, Database

EXCHANGE_TIMEOUT_S = 2.0

_encode = msgspec.json.Encoder().encode
_read_state = msgspec.json.Decoder(RouteState).decode
_read_lease = msgspec.json.Decoder(Lease).decode


class PostgresCapacity:
    """A `CapacityStore` on the record's server. Its commits need not wait for the disk."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def exchange(self, process: int, wants: list[Want]) -> list[Grant]:
        """Renew, change or give up leases; one grant a want. Raises DatabaseUnavailable."""
        try:
            async with (
                asyncio.timeout(EXCHANGE_TIMEOUT_S),
                self._database.connection() as connection,
                connection.transaction(),
            ):
                return await self._exchange(connection, process, wants)
        except (TimeoutError, asyncpg.PostgresError) as error:
            raise DatabaseUnavailable(str(error) or type(error).__name__) from error

    async def _exchange(self, connection: Connection, process: int, wants: list[Want]) -> list[Grant]:
        routes = [want.route for want in wants]
        rows = await self._database.on(connection, "lock_capacity", routes)
        if len(rows) < len(routes):
            await self._database.on(connection, "enter_capacity_routes", routes)
            rows = await self._database.on(connection, "lock_capacity", routes)
        held = await self._database.on(connection, "read_capacity_leases", routes)
        now = float(held[0]["now"])
        leases: dict[str, dict[int, Lease]] = {route: {} for route in routes}
        for row in held:
            if row["route"] is not None:
                leases[row["route"]][row["process"]] = _read_lease(row["lease"])
        states = {row["route"]: _read_state(row["state"]) for row in rows if row["state"] is not None}
        fresh = {row["route"]: bool(row["fresh"]) for row in rows}
        await self._begin(connection, states, {w.route: w for w in wants}, fresh, now)
        days = {route: (state.day, state.day_used) for route, state in states.items()}
        grants: list[Grant] = []
        going: list[tuple[str, str]] = []
        ended: list[tuple[str, int]] = []
        for want in wants:
            state, of_route = states[want.route], leases[want.route]
            lease, grant = exchange(state, of_route, process, want, now)
            grants.append(grant)
            if lease is not None:
                going.append((want.route, _encode(lease).decode()))
            elif process in of_route:
                ended.append((want.route, process))
            ended += [(want.route, other) for other, its in of_route.items() if its.until <= now and other != process]
        await self._database.on(
            connection,
            "write_capacity",
            routes,
            [_encode(states[route]).decode() for route in routes],
            [route for route, _ in ended],
            [other for _, other in ended],
            process,
            [route for route, _ in going],
            [lease for _, lease in going],
        )
        spent = [route for route in routes if (states[route].day, states[route].day_used) != days[route]]
        if spent:
            told = [states[route] for route in spent]
            await self._database.on(
                connection, "write_capacity_book", spent, [s.day for s in told], [s.day_used for s in told]
            )
        return grants

    async def _begin(
        self,
        connection: Connection,
        states: dict[str, RouteState],
        wants: dict[str, Want],
        fresh: dict[str, bool],
        now: float,
    ) -> None:
        """Make the state of routes that have none."""
        missing = [route for route in wants if route not in states]
        if not missing:
            return
        for route in missing:
            states[route] = new_state(wants[route], now, fresh=fresh[route])
        for row in await self._database.on(connection, "read_capacity_book", missing):
            states[row["route"]].day, states[row["route"]].day_used = row["day"], row["day_tokens"]
