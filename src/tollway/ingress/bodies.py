"""JSON at the door: bounded depth, no NUL, no lone surrogates, no numbers that others cannot hold, clear errors.

The common body passes a few searches at C speed; only what looks suspicious is walked through.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from tollway.domain.errors import Problem
from tollway.ingress.choices import choices_at
from tollway.ingress.problems import invalid

T = TypeVar("T")

INT_MIN = -(1 << 63)
INT_MAX = (1 << 64) - 1
_LONG_NUMBER = re.compile(rb"\d{19}")
_AT = re.compile(r" - at `(.*)`$")
_OTHER_WORD = "Invalid enum value"
_FIELD = re.compile(r"(?:unknown|required) field `(.*?)`")
_KEEP = bytes(byte for byte in range(256) if byte not in b'"[]{}')
_BRACES = bytes.maketrans(b"{}", b"[]")
_STRINGS = re.compile(rb'"[^"]*"')


def decode_body(decoder: "msgspec.json.Decoder[T]", body: bytes, depth_max: int, *, check: bool = True) -> T:
    """The body as the decoder's type. Raises Problem `malformed_json`, `too_deep`, `invalid_input`.

    Without `check`, texts and numbers are left for the caller to look at.
    """
    check_depth(body, depth_max)
    try:
        found = decoder.decode(body)
        if check and (b"\\u" in body or _LONG_NUMBER.search(body)):
            check_values(msgspec.json.decode(body), "")
    except msgspec.ValidationError as error:
        raise _misfit(str(error), "", decoder.type) from None
    except UnicodeDecodeError:
        raise Problem("malformed_json", "The body is not valid UTF-8.") from None
    except RecursionError:
        raise too_deep(depth_max) from None
    except msgspec.DecodeError as error:
        raise _malformed(body, str(error), "") from None
    return found


def decode_raw(raw: bytes, path: str) -> Any:
    """A part of a body that was left as it came. Raises Problem."""
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError as error:
        raise _misfit(str(error), path) from None
    except UnicodeDecodeError:
        raise Problem("malformed_json", f"{path} is not valid UTF-8.") from None
    except msgspec.DecodeError as error:
        raise _malformed(raw, str(error), path) from None


def check_content_type(content_type: bytes | None) -> None:
    """Raise Problem `unsupported_media_type` unless the body is said to be JSON."""
    if content_type == b"application/json":
        return
    kind = (content_type or b"").partition(b";")[0].strip().lower()
    if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        said = f"'{content_type.decode('latin-1')[:100]}'" if content_type else "missing"
        raise Problem("unsupported_media_type", f"The Content-Type is {said}; send application/json.")


def check_depth(body: bytes, depth_max: int) -> None:
    """Raise Problem `too_deep` when brackets nest deeper than `depth_max`.

    Brackets outside strings are stripped pair by pair, the innermost first: as many rounds as levels.
    """
    if body.count(b"[") + body.count(b"{") <= depth_max:
        return
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_BRACES, _KEEP)
    plain = _STRINGS.sub(b"", plain) if b'"' in plain else plain
    for _ in range(depth_max):
        if not plain:
            return
        plain = plain.replace(b"[]", b"")
    if b"[" in plain:
        raise too_deep(depth_max)


def too_deep(depth_max: int) -> Problem:
    """422: the nesting is beyond the bound."""
    return Problem("too_deep", f"The JSON is nested deeper than {depth_max} levels; flatten it.")


def check_values(value: Any, path: str) -> None:
    """Raise Problem `invalid_input` for NUL, lone surrogates and integers beyond 64 bits, anywhere, naming the path."""
    for place, item in _walk(value, path):
        if isinstance(item, str):
            if "\x00" in item:
                raise invalid(place, "holds the character NUL (\\u0000), which cannot be stored; remove it")
            if not item.isascii() and any("\ud800" <= character <= "\udfff" for character in item):
                raise invalid(place, "holds half of a surrogate pair; send whole characters")
        elif isinstance(item, int) and not INT_MIN <= item <= INT_MAX:
            raise invalid(place, "is an integer beyond 64 bits; send it as a string")


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    waiting = [(path, value)]
    while waiting:
        place, item = waiting.pop()
        if isinstance(item, dict):
            for key, inner in item.items():
                yield place, key
                waiting.append((f"{place}.{key}" if place else str(key), inner))
        elif isinstance(item, list):
            waiting.extend((f"{place}.{index}" if place else str(index), inner) for index, inner in enumerate(item))
        else:
            yield place, item


def _misfit(message: str, prefix: str, body: Any = None) -> Problem:
    at = _AT.search(message)
    path = at.group(1).removeprefix("$").replace("[", ".").replace("]", "").strip(".") if at else ""
    text = message[: at.start()] if at else message
    named = _FIELD.search(text)
    if named:
        path = f"{path}.{named.group(1)}" if path else named.group(1)
        text = "is not known here" if "unknown" in text else "is required"
    elif body is not None and text.startswith(_OTHER_WORD):
        text += f"; it is one of {', '.join(choices_at(body, path))}"
    whole = ".".join(part for part in (prefix, path) if part)
    return invalid(whole, text[0].lower() + text[1:] if text else "does not fit")


def _malformed(body: bytes, message: str, prefix: str) -> Problem:
    """The strict decoder's complaint, unless all that is wrong is half a surrogate pair."""
    if b"\\u" in body:
        try:
            check_values(json.loads(body), prefix)
        except Problem as problem:
            return problem
        except (ValueError, RecursionError):
            pass
    return Problem("malformed_json", f"{message}. Send one JSON value in UTF-8; NaN and Infinity are not JSON.")
