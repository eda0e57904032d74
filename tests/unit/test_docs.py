"""The documents say what is there: links, commands, settings, routes, error codes and examples exist."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import click
import pytest

from tollway.cli import main
from tollway.config import load_settings
from tollway.domain.errors import PROBLEMS
from tollway.ingress.routes import alerts, budgets, bulk, dead_letters, llm, rungs, runs, shifts, system, tenants, usage
from tollway.ingress.wire.door import FORMS
from tollway.llm.gateway import Gateway, GatewayOptions
from tollway.spend.prices import Prices

ROOT = Path(__file__).parents[2]
SKIPPED_FOLDERS = {".git", ".venv", ".tollway", ".pytest_cache", "node_modules", "build", "dist"}
HOT_ROUTES = {"POST /v1/runs", "GET /v1/runs/{run_id}"}
WIRE_ROUTES = {*(f"POST {path}" for path in FORMS), "GET /v1/models", "GET /v1/models/{model}"}
NOT_RAISED_YET = {
    *("quota_exhausted", "unknown_model"),
    *("rate_limited", "queue_full"),
}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?<![\w/.-])(?:\.venv/bin/)?tollway +([a-z-]+.*)")
SETTING = re.compile(r"\bTOLLWAY_[A-Z]+__[A-Z_]+\b")
ROUTE = re.compile(r"`((?:GET|POST|PUT|DELETE) /[^` ]*)`")


class Block(NamedTuple):
    """A fenced block: its language, its text."""

    language: str
    text: str


@cache
def pages() -> dict[Path, str]:
    """Every Markdown file of the repository."""
    found = sorted(ROOT.rglob("*.md"))
    return {path: path.read_text() for path in found if not SKIPPED_FOLDERS & set(path.relative_to(ROOT).parts)}


def blocks(text: str) -> list[Block]:
    return [Block(*match.groups()) for match in FENCE.finditer(text)]


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return FENCE.sub("", text)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as they are made by the common renderers."""
    titles = re.findall(r"^#+ (.+)$", prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(text: str) -> Iterator[str]:
    """What follows `tollway` in shell blocks, in pictures of terminals and in code within lines."""
    lines = [line for block in blocks(text) if block.language in ("", "sh") for line in block.text.splitlines()]
    for line in [*lines, *CODE.findall(prose(text))]:
        for part in re.split(r"&&|\s#|\s{2,}", line):
            match = COMMAND.search(part)
            if match:
                yield match.group(1)


def wrong_with(words: list[str]) -> str | None:
    """What is wrong with a command line, if anything."""
    command: click.Command | None = main
    context = click.Context(main)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if words[0].isupper():  # a placeholder
            return None
        name, words = words[0].strip(".,:;)"), words[1:]
        command = command.get_command(context, name)
        if command is None:
            return f"no command {name!r}"
    assert command is not None
    known = {"--help", "--version"} | {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    return f"no option {', '.join(unknown)}" if unknown else None


def test_every_relative_link_leads_to_a_file_and_a_heading() -> None:
    """No page of the repository points to a file or heading that is not there."""
    broken = []
    for path, text in pages().items():
        for target in LINK.findall(CODE.sub("", prose(text))):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = unquote(target).partition("#")
            there = (path.parent / file).resolve() if file else path
            if not there.exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
            elif anchor and anchor not in anchors(there):
                broken.append(f"{path.relative_to(ROOT)}: {target} has no such heading")
    assert not broken, "\n".join(broken)


def test_every_command_named_exists_with_its_options() -> None:
    """Each `tollway …` in a document is a command of the table, and takes the options it is shown with."""
    seen, wrong = 0, []
    for path, text in pages().items():
        for line in commands(text):
            seen += 1
            fault = wrong_with(line.split())
            if fault:
                wrong.append(f"{path.relative_to(ROOT)}: tollway {line}: {fault}")
    assert seen > 50
    assert not wrong, "\n".join(wrong)


def test_every_command_has_an_example_in_the_reference() -> None:
    """docs/cli.md leaves no command of the table out."""
    named = {line.split()[0] for line in commands(pages()[ROOT / "docs/cli.md"])}
    assert set(main.list_commands(click.Context(main))) <= named


def test_every_setting_named_in_the_environment_exists(tmp_path: Path) -> None:
    """Each TOLLWAY_SECTION__KEY in a document, an image or a Compose file leads to a setting."""
    named = {name for text in pages().values() for name in SETTING.findall(text) if name != "TOLLWAY_SECTION__KEY"}
    for other in ("Dockerfile", "deploy/compose.yaml"):
        named |= set(SETTING.findall((ROOT / other).read_text()))
    samples = {"URL": "postgresql://h/d", "BASE_URL": "http://h", "LOG_FORMAT": "json", "PORT": "1", "HOST": "h"}
    samples |= {"LANES": "batch", "DATA_DIR": "d", "PROCESSES": "1"}
    file = tmp_path / "tollway.toml"
    file.write_text('[providers.openai]\nkind = "openai"\n')
    for name in sorted(named):
        load_settings(file, environ={name: samples[name.rpartition("__")[2]]})


def test_the_settings_shown_are_the_defaults(tmp_path: Path) -> None:
    """The first block of configure.md is the settings without a file: what it says are the defaults."""
    shown = [b.text for b in blocks(pages()[ROOT / "docs/how-to/configure.md"]) if b.language == "toml"]
    file, empty = tmp_path / "shown.toml", tmp_path / "empty.toml"
    file.write_text(shown[0])
    empty.touch()
    assert load_settings(file, environ={}) == load_settings(empty, environ={})


def test_the_settings_shown_load(tmp_path: Path) -> None:
    """Every TOML block of the how-tos is accepted as it stands, and its providers and routes can be called."""
    for path, text in pages().items():
        if "how-to" in path.parts:
            for block in blocks(text):
                if block.language == "toml":
                    file = tmp_path / "tollway.toml"
                    file.write_text(block.text)
                    settings = load_settings(file, environ={})
                    keys = {provider.api_key_env: "key" for provider in settings.providers.values()}
                    options = GatewayOptions(environ=keys)
                    if any(provider.kind == "litellm" for provider in settings.providers.values()):
                        continue  # an extra: it may not be installed
                    Gateway(settings.routes, settings.providers, Prices(settings.prices), options)


def test_the_routes_of_the_reference_are_those_of_the_api() -> None:
    """docs/http.md names every route of the API and no other."""
    text = pages()[ROOT / "docs/http.md"]
    table = text[text.index("## Routes") : text.index("## Submit")]
    declared = {
        f"{method} {getattr(route, 'path', '')}"
        for module in (alerts, budgets, bulk, dead_letters, llm, runs, shifts, system, tenants, usage, rungs)
        for route in module.router.routes
        for method in getattr(route, "methods", ())
    }
    assert set(ROUTE.findall(table)) == declared | HOT_ROUTES | WIRE_ROUTES


def test_the_errors_of_the_reference_are_those_of_the_code() -> None:
    """docs/http.md has every problem code that is raised, with its status."""
    text = pages()[ROOT / "docs/http.md"]
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", text, re.MULTILINE)
    expected = {code: status for code, (status, _) in PROBLEMS.items() if code not in NOT_RAISED_YET}
    assert {code: int(status) for status, code in rows} == expected


def test_the_codes_left_out_are_not_raised() -> None:
    """A problem code that the reference leaves out as not raised yet is raised nowhere."""
    sources = "\n".join(path.read_text() for path in (ROOT / "src/tollway").rglob("*.py"))
    assert not [code for code in NOT_RAISED_YET if re.search(rf'Problem\(\s*"{code}"', sources)]


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in pages()])
def test_python_shown_is_python(path: Path) -> None:
    """Every Python block of a page compiles."""
    for block in blocks(pages()[path]):
        if block.language == "python":
            compile(block.text, str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_decisions_are_numbered_without_gaps() -> None:
    """Each decision has its number in name and title, and says context, choice and price."""
    found = sorted((ROOT / "docs/decisions").glob("*.md"))
    for number, path in enumerate(found, 1):
        text = path.read_text()
        assert path.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Choice", "Price paid"]


def test_every_promise_has_a_row() -> None:
    """ARCHITECTURE.md accounts for each promise from P1 to P12."""
    text = pages()[ROOT / "ARCHITECTURE.md"]
    assert re.findall(r"^\| \*\*P(\d+)\*\*", text, re.MULTILINE) == [str(n) for n in range(1, 13)]
