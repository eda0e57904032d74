"""What the runs are about: customers' messages from a CSV file, or a few of our own where there is none at hand."""

import csv
from pathlib import Path

from tollway.domain.errors import ConfigError

SAMPLE = Path("examples/data/banking77_sample.csv")
_COLUMN = "text"
_OURS = (
    "My card has not come yet, although it was ordered two weeks ago.",
    "Why was I charged twice for the same lunch?",
    "How do I change the address on my account?",
    "The machine at the station kept my card, what now?",
    "Is there a fee for sending money to another country?",
    "I cannot see yesterday's transfer, has it gone through?",
)


def read_texts(path: Path | None) -> tuple[str, ...]:
    """The column `text` of `path`; with no path the repository's sample, or, away from it, a few built-in ones.

    Raises ConfigError when the file cannot be read or has no such column.
    """
    if path is None and not SAMPLE.is_file():
        return _OURS
    source = path or SAMPLE
    try:
        with source.open(encoding="utf-8", newline="") as file:
            texts = tuple(row[_COLUMN].strip() for row in csv.DictReader(file) if row[_COLUMN])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError("texts", str(source), f"cannot be read: {error}") from error
    except KeyError:
        raise ConfigError("texts", str(source), f"needs a column {_COLUMN!r}") from None
    if not texts:
        raise ConfigError("texts", str(source), "holds no texts")
    return texts
