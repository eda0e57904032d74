"""What the provider has seen and billed: one row a call, in columns (about 80 bytes a row), totals kept as it goes.

A row is written when its call ends, before the last byte of the answer leaves: who has read an answer finds it here.
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from tollway.simulator.faults import Fault

_FAULTS: tuple[Fault | None, ...] = (None, *Fault)
_REFUSED = 429
_FAULT_CODES = {fault: code for code, fault in enumerate(_FAULTS)}


@dataclass(slots=True)
class Entry:
    """How one call ended. `at` is its arrival in epoch seconds, `took_s` what the provider spent on it."""

    call_id: bytes
    model: str
    at: float
    took_s: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0
    status: int = 200
    fault: Fault | None = None


class Row(msgspec.Struct, frozen=True):
    """An entry as it is shown. `n` counts from 1; `call_id` is null for a call that carried none."""

    n: int
    call_id: str | None
    model: str
    input_tokens: int
    output_tokens: int
    cost_nano: int
    status: int
    fault: str | None
    at: str
    took_ms: float


class Totals(msgspec.Struct, frozen=True):
    """Sums over all rows, `refused_by_model` the 429s; `in_flight` calls have arrived and have no row yet."""

    calls: int
    by_status: dict[str, int]
    by_fault: dict[str, int]
    by_model: dict[str, int]
    refused_by_model: dict[str, int]
    input_tokens: int
    output_tokens: int
    cost_nano: int
    in_flight: int


class Ledger:
    """Append-only until `clear`; `add` is O(1), `totals` too."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.clear()

    def clear(self) -> None:
        """Forget every row; calls in flight will be written to the emptied ledger."""
        self._ids = bytearray()
        self._id_ends = array("Q")
        self._models: dict[str, int] = {}
        self._numbers: tuple[array[Any], ...] = tuple(array(code) for code in "dfIIqHBI")
        self._sums = [0, 0, 0]
        self._by_status: Counter[int] = Counter()
        self._by_fault: Counter[Fault | None] = Counter()
        self._by_model: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._id_ends)

    def add(self, entry: Entry) -> None:
        """Write a row."""
        self._ids += entry.call_id
        self._id_ends.append(len(self._ids))
        model = self._models.setdefault(entry.model, len(self._models))
        at, took, tokens_in, tokens_out, cost, status, fault, models = self._numbers
        at.append(entry.at)
        took.append(entry.took_s)
        tokens_in.append(entry.input_tokens)
        tokens_out.append(entry.output_tokens)
        cost.append(entry.cost_nano)
        status.append(entry.status)
        fault.append(_FAULT_CODES[entry.fault])
        models.append(model)
        sums = self._sums
        sums[0] += entry.input_tokens
        sums[1] += entry.output_tokens
        sums[2] += entry.cost_nano
        self._by_status[entry.status] += 1
        self._by_fault[entry.fault] += 1
        self._by_model[entry.model] += 1
        if entry.status == _REFUSED:
            self._refused[entry.model] += 1

    def rows(self, after: int = 0, limit: int | None = None) -> Iterator[Row]:
        """The rows with `n` > `after`, oldest first, at most `limit`."""
        start = min(max(0, after), len(self))
        stop = len(self) if limit is None else min(len(self), start + limit)
        names = list(self._models)
        id_from = self._id_ends[start - 1] if start else 0
        columns = (column[start:stop] for column in (self._id_ends, *self._numbers))
        second, date_and_time = -1, ""
        for n, (id_to, at, took, tokens_in, tokens_out, cost, status, fault, model) in enumerate(
            zip(*columns, strict=True), start + 1
        ):
            call_id = self._ids[id_from:id_to].decode("latin-1") or None
            id_from = id_to
            if int(at) != second:
                second = int(at)
                date_and_time = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            yield Row(
                n=n,
                call_id=call_id,
                model=names[model],
                input_tokens=tokens_in,
                output_tokens=tokens_out,
                cost_nano=cost,
                status=status,
                fault=_FAULTS[fault],
                at=f"{date_and_time}.{int((at - second) * 1000):03}Z",
                took_ms=round(took * 1000, 3),
            )

    def totals(self) -> Totals:
        """The sums over all rows."""
        return Totals(
            calls=len(self),
            by_status={str(status): count for status, count in sorted(self._by_status.items())},
            by_fault={fault.value: count for fault, count in self._by_fault.items() if fault},
            by_model=dict(self._by_model),
            refused_by_model=dict(self._refused),
            input_tokens=self._sums[0],
            output_tokens=self._sums[1],
            cost_nano=self._sums[2],
            in_flight=self.in_flight,
        )
