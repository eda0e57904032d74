"""Named SQL from files: `-- name: verb_noun` opens a query, the comment lines after it describe it."""

from functools import cache
from importlib.resources import files


@cache
def queries() -> dict[str, str]:
    """Every named query of `queries/*.sql`."""
    found: dict[str, str] = {}
    for entry in files(__package__).joinpath("queries").iterdir():
        if not entry.name.endswith(".sql"):
            continue
        for section in entry.read_text().split("-- name: ")[1:]:
            name, _, text = section.partition("\n")
            if name.strip() in found:
                raise ValueError(f"query {name.strip()} is named twice")
            found[name.strip()] = text.strip()
    return found


def query(name: str) -> str:
    """The text of one query."""
    return queries()[name]
