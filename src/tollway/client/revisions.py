"""Changes of a document that somebody else may be changing too: read, changed, put, and again if he was quicker."""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

from tollway.client.errors import ApiError
from tollway.client.transport import Call, Transport, backoff_s, encode_settings

TRIES_MAX = 8


async def revise(transport: Transport, path: str, change: Callable[[Any], Any]) -> Any:
    """Put what `change` makes of the document at `path`, if it still stands as read; returns it as it stands then.

    Raises what `change` raises, ValueError for a number that is not finite, and ApiError `precondition_failed` when
    others were quicker each time.
    """
    for tried in count(1):
        found = await transport.send(Call("GET", path))
        body, tag = encode_settings(change(found.json())), found.headers.get("etag")
        try:
            put = await transport.send(Call("PUT", path, headers={} if tag is None else {"if-match": tag}, body=body))
        except ApiError as error:
            if error.code != "precondition_failed" or tried >= TRIES_MAX:
                raise
            await asyncio.sleep(backoff_s(tried))
        else:
            return put.json()
    raise AssertionError("unreachable: the loop above only ends by return or raise")
