"""The wire in a process: its bounds, and in workers the endpoint of `run.wire`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tollway.config import Settings
from tollway.llm.governor import Governor
from tollway.runtime.wire import RunWire
from tollway.wiring.base import Base

if TYPE_CHECKING:
    from tollway.ingress.wire.door import DoorOptions
    from tollway.ingress.wire.local import LocalWire


def door_options(settings: Settings) -> "DoorOptions":
    """The bounds of the wire."""
    from tollway.ingress.wire.door import DoorOptions  # noqa: PLC0415 - workers load it when a run asks for it

    return DoorOptions(
        settings.llm.max_tokens_default,
        settings.llm.timeout_s + settings.llm.park_after_s,
        settings.server.body_bytes_max,
        settings.server.json_depth_max,
        settings.llm.wire_cache == "exact",
    )


@asynccontextmanager
async def run_wire(parts: Base, governor: Governor) -> AsyncIterator[RunWire]:
    """`run.wire` of a worker; the server behind it begins with the first run that asks for it."""
    serving: list[LocalWire] = []

    def begin() -> str:
        if not serving:
            serving.append(_local_wire(parts, governor, wire))
        return serving[0].base_url()

    wire = RunWire(parts.ids, parts.metrics, begin)
    try:
        yield wire
    finally:
        for server in serving:
            await server.stop()


def _local_wire(parts: Base, governor: Governor, wire: RunWire) -> "LocalWire":
    from tollway.ingress.wire.catalogue import ModelCatalogue  # noqa: PLC0415 - as above
    from tollway.ingress.wire.desk import RunDesk  # noqa: PLC0415
    from tollway.ingress.wire.door import Door, DoorServices  # noqa: PLC0415
    from tollway.ingress.wire.local import LocalWire  # noqa: PLC0415

    services = DoorServices(
        governor,
        RunDesk(wire.guest),
        ModelCatalogue(parts.settings.routes),
        parts.ids,
        parts.clock,
        parts.metrics,
        lambda: None,
        door_options(parts.settings),
    )
    return LocalWire(Door(services))
