"""Which of an enumeration's values a text speaks of: by literal mention, else by the words they share, else by hash.

Words that occur in few values weigh more. Compiled once per schema, so that a choice costs microseconds.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

_WORD = re.compile(r"[a-z0-9]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_STOP = frozenset(["a", "an", "and", "by", "for", "i", "in", "is", "my", "of", "on", "or", "the", "to", "with"])
_SUFFIXES = ("ations", "ation", "ings", "ing", "als", "al", "ies", "ed", "es", "e", "s", "y")
_STEM_LETTERS_MIN = 3


@lru_cache(maxsize=16_384)
def stem(word: str) -> str:
    """A word without its commonest English endings: arrive, arrived and arrival are one."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _STEM_LETTERS_MIN:
            return word[: -len(suffix)]
    return word


class Chooser:
    """Chooses among `values`, which may be of any JSON type."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values
        names = [str(value) for value in values]
        self._lower = [name.lower() for name in names]
        stems = [{stem(word) for word in _WORD.findall(_CAMEL.sub(" ", name).lower())} - _STOP for name in names]
        frequency = Counter(word for words in stems for word in words)
        # A name can only be mentioned where its first word is; names without one are always looked for.
        self._by_first: dict[str, list[str]] = defaultdict(list)
        for name in filter(None, dict.fromkeys(self._lower)):
            self._by_first[next(iter(_WORD.findall(name)), "")].append(name)
        self._index: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for at, words in enumerate(stems):
            weights = {word: math.log(1 + len(values) / frequency[word]) for word in sorted(words)}
            # Matched weight squared over whole weight is what ranks; its root is a plain sum.
            norm = math.sqrt(sum(weights.values()))
            for word, weight in weights.items():
                self._index[word].append((at, weight / norm))

    def choose(self, text: str, fingerprint: int) -> Any:
        """The value `text` speaks of. A text that lists several of them literally is judged by its other words."""
        lower = text.lower()
        found = dict.fromkeys(_WORD.findall(lower))
        mentioned = [name for word in ("", *found) for name in self._by_first.get(word, ()) if _mentions(lower, name)]
        if len(mentioned) == 1:
            return self._values[self._lower.index(mentioned[0])]
        if mentioned:
            for name in sorted(mentioned, key=len, reverse=True):
                lower = lower.replace(name, " ")
            found = dict.fromkeys(_WORD.findall(lower))
        best = self._by_words(found)
        return self._values[fingerprint % len(self._values) if best is None else best]

    def _by_words(self, found: Iterable[str]) -> int | None:
        scores: dict[int, float] = {}
        index = self._index
        for word in dict.fromkeys(map(stem, found)):
            for at, weight in index.get(word, ()):
                scores[at] = scores.get(at, 0.0) + weight
        return max(scores, key=scores.__getitem__) if scores else None


def _mentions(lower: str, name: str) -> bool:
    return name in lower and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", lower) is not None
