"""The house style, as far as a program can judge it: sizes, docstrings, SQL in files, exports, clean text."""

import ast
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "tollway"
MODULE_LINES_MAX = 400
TEST_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
CONSTRUCTOR_PARAMETERS_MAX = 6

SQL = re.compile(
    r"^\s*(select\s.+\sfrom\s|insert\s+into\s|update\s+\w+\s+set\s|delete\s+from\s|with\s+\w+\s+as\s*\(|"
    r"(create|alter|drop)\s+(table|index|role|extension|schema|database|function|type)\s)",
    re.IGNORECASE | re.DOTALL,
)
HOME_PATH = re.compile(r"(?<![\w.$}])/(?:home|Users|root|work)/[\w.-]+")
LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".sql", ".sh", ".yaml", ".yml", ".lock", ".cfg", ".conf", ".txt", ""}
SKIPPED_FOLDERS = {".git", ".venv", ".tollway", ".hypothesis", "dist", "build", "__pycache__"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def every_python() -> list[Path]:
    return python_files("src", "tests", "bench", "examples")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def functions_of(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def at(path: Path, line: int = 1) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def none_of(offenders: list[str]) -> None:
    assert not offenders, "\n" + "\n".join(offenders)


def repository_texts() -> Iterator[tuple[Path, str]]:
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part in SKIPPED_FOLDERS or part.endswith(("_cache", ".egg-info")) for part in parts)
        if not hidden and path.is_file() and path.suffix in TEXT_SUFFIXES and path.name != "LICENSE":
            try:
                yield path, path.read_text()
            except UnicodeDecodeError:
                continue


def test_modules_are_short() -> None:
    """No module is longer than 400 lines, no module of tests longer than 500."""
    none_of(
        [
            at(path)
            for path in every_python()
            if len(path.read_text().splitlines()) > (TEST_LINES_MAX if "tests" in path.parts else MODULE_LINES_MAX)
        ]
    )


def test_functions_are_short() -> None:
    """No function is longer than 70 lines."""
    long = [
        f"{at(path, function.lineno)} {function.name}"
        for path in every_python()
        for function in functions_of(tree_of(path))
        if (function.end_lineno or 0) - function.lineno + 1 > FUNCTION_LINES_MAX
    ]
    none_of(long)


def test_constructors_take_few_parameters() -> None:
    """No constructor takes more than six parameters; more want an options object."""
    wide = [
        at(path, function.lineno)
        for path in every_python()
        for function in functions_of(tree_of(path))
        if function.name == "__init__"
        and len(function.args.posonlyargs + function.args.args + function.args.kwonlyargs) - 1
        > CONSTRUCTOR_PARAMETERS_MAX
    ]
    none_of(wide)


def test_modules_say_what_they_are_for() -> None:
    """Every module that holds anything opens with a docstring."""
    none_of([at(path) for path in every_python() if tree_of(path).body and not ast.get_docstring(tree_of(path))])


def test_public_names_are_described() -> None:
    """Every public function and class of the package's modules has a docstring."""
    bare = [
        f"{at(path, node.lineno)} {node.name}"
        for path in python_files("src")
        for node in tree_of(path).body
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_") and not ast.get_docstring(node)
        if not any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in node.decorator_list)
    ]
    none_of(bare)


def test_tests_state_their_fact() -> None:
    """Every test function has a docstring."""
    bare = [
        f"{at(path, function.lineno)} {function.name}"
        for path in python_files("tests")
        for function in functions_of(tree_of(path))
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    none_of(bare)


def test_tests_never_sleep_to_wait() -> None:
    """A test's own body sleeps only inside a loop, where it polls; an agent defined in it may sleep as it likes."""
    sleeping = [
        at(path, call.lineno)
        for path in python_files("tests")
        for function in functions_of(tree_of(path))
        if function.name.startswith("test_")
        for call in _straight_calls(function.body)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "sleep"
        and not (call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0)
    ]
    none_of(sleeping)


def _straight_calls(body: list[ast.stmt]) -> Iterator[ast.Call]:
    """The calls in these statements that are neither in a loop nor in a function defined here."""
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.For | ast.AsyncFor | ast.While | Function | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Call):
            yield node
        pending.extend(ast.iter_child_nodes(node))


def test_sql_lives_in_files() -> None:
    """No Python string of the package is an SQL statement; statements are named in .sql files."""
    found = []
    for path in python_files("src"):
        tree = tree_of(path)
        prose = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | Function)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        found += [
            at(path, node.lineno)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in prose
            and SQL.match(node.value)
        ]
    none_of(found)


def test_every_named_query_is_used() -> None:
    """A query of a .sql file that no module names is dead."""
    named = {
        name.strip(): path
        for path in PACKAGE.rglob("queries/*.sql")
        for name in re.findall(r"^-- name: (.+)$", path.read_text(), re.MULTILINE)
    }
    used = {
        node.value
        for path in python_files("src")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    none_of([f"{at(path)} {name}" for name, path in named.items() if name not in used])


def test_packages_export_what_they_say() -> None:
    """What `__all__` lists is there, once; a package that only hands on names of its modules has an `__all__`."""
    wrong = []
    for path in PACKAGE.rglob("__init__.py"):
        body = tree_of(path).body
        handed_on = {
            alias.asname or alias.name
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tollway")
            for alias in node.names
        }
        listed = [
            [str(item.value) for item in node.value.elts if isinstance(item, ast.Constant)]
            for node in body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__all__"
            and isinstance(node.value, ast.List | ast.Tuple)
        ]
        own = {node.name for node in body if isinstance(node, ast.ClassDef | Function)}
        own |= {
            target.id
            for node in body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name) and target.id != "__all__"
        }
        if listed and not (set(listed[0]) <= handed_on | own and len(set(listed[0])) == len(listed[0])):
            wrong.append(at(path))
        if not listed and handed_on and not own:
            wrong.append(at(path))
    none_of(wrong)


def test_nothing_is_left_for_later() -> None:
    """No comment of the package puts work off."""
    found = []
    for path in python_files("src", "bench", "examples"):
        with path.open("rb") as file:
            found += [
                at(path, token.start[0])
                for token in tokenize.tokenize(file.readline)
                if token.type == tokenize.COMMENT and LEFTOVER.search(token.string)
            ]
    none_of(found)


def test_no_file_names_a_persons_machine() -> None:
    """No text of the repository mentions a folder of somebody's home."""
    none_of([at(path) for path, text in repository_texts() if HOME_PATH.search(text)])


def test_locks_hold_versions_and_hashes_only() -> None:
    """The lock files pin every package by hash and name no address to fetch from."""
    for path in ROOT.glob("*.lock"):
        text = path.read_text()
        assert "://" not in text, path.name
        assert "--hash=sha256:" in text
        pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert all("==" in line for line in pins), path.name


def test_test_modules_have_names_of_their_own() -> None:
    """Modules of tests are collected by their name alone: two of one name cannot be run together."""
    names = Counter(path.name for path in python_files("tests"))
    none_of([name for name, count in names.items() if count > 1 and name.startswith("test_")])
