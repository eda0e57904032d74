"""Submits that ask for more than a receipt: `Prefer: wait=N` and `Accept: text/event-stream`."""

import time
from uuid import UUID

from tollway.domain.errors import DatabaseUnavailable
from tollway.hotstate.run_news import RunNews
from tollway.record.reads import RunReads
from tollway.record.run_document import RunRow, run_is_final

_POLL_S = 1.0


async def wait_until_final(reads: RunReads, run_news: RunNews, run_id: UUID, wait_s: float) -> RunRow | None:
    """The run's row when it has ended, or as it stands after `wait_s` seconds.

    Raises DatabaseUnavailable when it cannot be read at the end.
    """
    give_up_at = time.monotonic() + wait_s
    with run_news.listen(str(run_id)) as listener:
        while True:
            left_s = give_up_at - time.monotonic()
            try:
                row = await reads.run(run_id)
                if row is None or run_is_final(row) or left_s <= 0:
                    return row
            except DatabaseUnavailable:
                if left_s <= 0:
                    raise
            await listener.wait(min(_POLL_S, max(0.0, left_s)))
