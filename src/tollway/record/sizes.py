"""How much room tables take on disk, so that growth without an end is seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from tollway.record.database import Database

HOT_TABLES = ("queue", "flow", "flow_floor")
"""What every claim reads: live state alone, so that it stays small however much was done."""


@dataclass(frozen=True, slots=True)
class TableSize:
    """Bytes of a table with its free space map and the like, and of all its indexes."""

    name: str
    bytes: int
    index_bytes: int

    @property
    def whole_bytes(self) -> int:
        """Table and indexes."""
        return self.bytes + self.index_bytes


async def table_sizes(database: Database, names: Sequence[str] = HOT_TABLES) -> list[TableSize]:
    """The sizes of these tables, by name. Raises DatabaseUnavailable."""
    return [TableSize(*row) for row in await database.rows("table_sizes", list(names))]
