"""The texts runs carry."""

from pathlib import Path

import pytest

from tollway.domain.errors import ConfigError
from tollway.simulator.bench import texts

SAMPLE = Path(__file__).parents[3] / texts.SAMPLE


def test_the_sample_ships_a_thousand_messages() -> None:
    """The repository's sample is read whole, and no text is blank."""
    found = texts.read_texts(SAMPLE)
    assert len(found) == 1000
    assert all(found)


def test_away_from_the_repository_there_are_texts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed wheel needs no file."""
    monkeypatch.chdir(tmp_path)
    assert len(texts.read_texts(None)) > 1


@pytest.mark.parametrize(
    ("content", "remedy"), [(None, "cannot be read"), ("a,b\n1,2\n", "column"), ("text\n", "no texts")]
)
def test_a_file_that_cannot_serve_says_why(tmp_path: Path, content: str | None, remedy: str) -> None:
    """A missing file, a missing column and an empty file are configuration errors."""
    path = tmp_path / "texts.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=remedy):
        texts.read_texts(path)
