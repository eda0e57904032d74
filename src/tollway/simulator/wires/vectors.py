"""Embeddings without meaning: the same text has the same vector, of length 1."""

import math
from functools import lru_cache
from random import Random
from zlib import crc32

DIMENSIONS = 16
DIMENSIONS_MAX = 4096


@lru_cache(maxsize=4096)
def vector(text: str, dimensions: int | None = None) -> tuple[float, ...]:
    """The vector of a text, of 16 dimensions if not told otherwise."""
    rng = Random(crc32(text.encode("utf-8", "surrogatepass")))
    drawn = [rng.gauss(0, 1) for _ in range(min(dimensions or DIMENSIONS, DIMENSIONS_MAX))]
    length = math.sqrt(sum(one * one for one in drawn)) or 1.0
    return tuple(round(one / length, 7) for one in drawn)
