"""Changes that hold only if nobody changed the same meanwhile: entity tags, and `If-Match` as RFC 9110 has it."""

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import Request

from tollway.domain.errors import Problem

_TAG_BYTES = 12
_encode = msgspec.json.Encoder(order="sorted").encode


def entity_tag(settings: Any) -> str:
    """The tag of settings as JSON has them: the same for the same settings, on every process."""
    return f'"{hashlib.blake2b(_encode(settings), digest_size=_TAG_BYTES).hexdigest()}"'


def agreed(request: Request) -> Callable[[Any], None]:
    """A check of the settings that stand against the request's `If-Match`; without one everything will do.

    It raises Problem `precondition_failed`. A weak tag never matches, as the standard says.
    """
    given = ", ".join(request.headers.getlist("if-match"))
    tags = {tag.strip() for tag in given.split(",")}

    def check(settings: Any) -> None:
        if given and "*" not in tags and entity_tag(settings) not in tags:
            raise Problem(
                "precondition_failed",
                "Somebody changed this since it was read: If-Match names another state. Read it again, then change it.",
                headers={"ETag": entity_tag(settings)},
            )

    return check
