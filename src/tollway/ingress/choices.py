"""Which words a place of a body may hold, for a refusal that names them."""

from collections.abc import Iterator
from functools import cache
from typing import Any

from msgspec import inspect

_type_of = cache(inspect.type_info)


def choices_at(body: Any, path: str) -> tuple[str, ...]:
    """The words that the body's type allows at a path such as `budgets.0.period`; none where it allows others too."""
    found = [_type_of(body)]
    for part in path.split(".") if path else ():
        found = [inner for kind in found for inner in _inside(kind, part)]
    return tuple(dict.fromkeys(word for kind in found for word in _words(kind)))


def _plain(kind: inspect.Type) -> Iterator[inspect.Type]:
    """The alternatives of a type, without what is said about them."""
    if isinstance(kind, inspect.Metadata):
        yield from _plain(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _plain(one)
    else:
        yield kind


def _inside(kind: inspect.Type, part: str) -> Iterator[inspect.Type]:
    for plain in _plain(kind):
        if isinstance(plain, inspect.StructType):
            yield from (field.type for field in plain.fields if field.encode_name == part)
        elif isinstance(plain, inspect.CollectionType):
            yield plain.item_type


def _words(kind: inspect.Type) -> Iterator[str]:
    for plain in _plain(kind):
        if isinstance(plain, inspect.EnumType):
            yield from (str(member.value) for member in plain.cls)
        elif isinstance(plain, inspect.LiteralType):
            yield from map(str, plain.values)
