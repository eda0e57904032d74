"""Plain words, one a token: the same for the same request and seed, and cheap to cut from one precomputed text."""

from collections.abc import Sequence
from random import Random
from zlib import crc32

_VOCABULARY = """
    the a we you it this that they here there now then soon also often still with from over under near about
    can will may should help check find send keep open close move add take give show know need want call wait
    card bank note team order email date price file page form line plan step list name case item reply time day week
    good new full safe clear quick simple small right ready whole early exact known open calm kind fair true
"""
_COUNT = 4096


def _precompute() -> tuple[str, list[int]]:
    rng = Random(7)
    vocabulary = _VOCABULARY.split()
    text: list[str] = []
    starts = [0]
    for _ in range(2 * _COUNT):
        text.append(rng.choice(vocabulary))
        starts.append(starts[-1] + len(text[-1]) + 1)
    return " ".join(text) + " ", starts


_TEXT, _STARTS = _precompute()


def fingerprint(texts: Sequence[str], seed: int) -> int:
    """A number that stands for a prompt: equal prompts under an equal seed have equal ones."""
    value = seed
    for text in texts:
        value = crc32(text.encode("utf-8", "surrogatepass"), value)
    return value


def words(fingerprint: int, count: int) -> str:
    """Exactly `count` ASCII words, separated by single spaces; a longer text begins with the shorter one."""
    start = fingerprint % _COUNT
    parts = []
    while count > 0:
        some = min(count, _COUNT)
        parts.append(_TEXT[_STARTS[start] : _STARTS[start + some]])
        count -= some
    return "".join(parts).rstrip()
