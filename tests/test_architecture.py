"""The shape of the package, read from its imports: direction, purity, no cycles, one owner for each foreign library."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "eggpool"

# A module may import from layers above its own, and from its own package. `also` lists the arrows within one layer.
LAYERS: list[set[str]] = [
    {"errors", "domain"},
    {"config", "wire", "routing", "pricing", "presets"},
    {"store", "upstream", "logs"},
    {"engine"},
    {"web", "control"},
    {"cli", "demo", "scripted", "__main__"},
]
ALSO = {
    ("domain", "errors"),
    ("routing", "config"),
    ("config", "presets"),
    ("cli", "demo"),
    ("demo", "scripted"),
    ("__main__", "cli"),
}

PURE = {"errors", "domain", "config", "wire", "routing", "pricing", "presets"}
IMPURE_MODULES = {
    "asyncio", "concurrent", "contextvars", "ctypes", "fcntl", "glob", "http", "io", "logging", "multiprocessing", "os",
    "pathlib", "random", "requests", "secrets", "select", "selectors", "shutil", "signal", "socket", "socketserver",
    "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib.request",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "breakpoint", "now", "today", "utcnow"}

OWNERS: dict[str, set[str]] = {
    "python_socks": {"upstream"},
    "aiohappyeyeballs": {"upstream"},
    "starlette": {"web"},
    "jinja2": {"web"},
    "sqlite3": {"store"},
    "psycopg": {"store"},
    "click": {"cli"},
    "questionary": {"cli"},
    "rich": {"cli"},
    "tomlkit": {"config.edit"},
    "uvicorn": {"engine.server", "engine.connection", "engine.cycle"},
    "httptools": {"engine.connection", "upstream.connection"},
    "uvloop": {"engine.runtime"},
}

# Where code runs late on purpose: the command table imports a command's module only when that command runs.
LATE_IMPORTS = {"cli.main", "cli.group"}


def name_of(path: Path) -> str:
    """`eggpool/wire/chat.py` is `wire.chat`; a package is its own name."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "eggpool"


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
NAMES = sorted(set(MODULES) - {"eggpool"})


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of what a module imports, `from a import b` as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(name: str) -> set[str]:
    """The modules of this package that a module imports."""
    found: set[str] = set()
    for full in imports(MODULES[name]):
        if full.startswith("eggpool."):
            rest = full.removeprefix("eggpool.")
            found.add(rest if rest in MODULES else rest.rpartition(".")[0])
    return {one for one in found if one}


def layer(name: str) -> int:
    """The line that a module stands on; an unknown one has no place yet."""
    top = name.partition(".")[0]
    for number, names in enumerate(LAYERS):
        if top in names:
            return number
    raise AssertionError(f"{name} has no place in the layout")


@pytest.mark.parametrize("name", NAMES)
def test_imports_point_down(name: str) -> None:
    """A module imports only from layers above its own, from its own package, or along a declared arrow."""
    top = name.partition(".")[0]
    for other in own_imports(name):
        other_top = other.partition(".")[0]
        if other_top == top or (top, other_top) in ALSO:
            continue
        assert layer(other) < layer(name), f"{name} imports {other}"


@pytest.mark.parametrize("name", [name for name in NAMES if name.partition(".")[0] in PURE])
def test_pure_modules_stay_pure(name: str) -> None:
    """A pure module imports nothing that waits, reads, writes, asks the clock or throws dice."""
    for full in imports(MODULES[name]):
        found = {full, full.rpartition(".")[0], full.partition(".")[0]} & IMPURE_MODULES
        assert not found, f"{name} imports {full}"
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert called not in IMPURE_CALLS, f"{name} calls {called}() in line {node.lineno}"


def test_no_cycles() -> None:
    """No module imports itself by way of others."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"cycle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for other in sorted(own_imports(name) - {name}):
                # A package's own __init__ gathers what its modules define; the modules do not import it.
                visit(other, (*path, name))
            done.add(name)

    for name in NAMES:
        visit(name, ())


@pytest.mark.parametrize("name", NAMES)
def test_foreign_libraries_have_one_owner(name: str) -> None:
    """A foreign library ends where it is owned: nobody else imports it."""
    for full in imports(MODULES[name]):
        owners = OWNERS.get(full.partition(".")[0])
        if owners is not None:
            assert name in owners or name.partition(".")[0] in owners, f"{name} imports {full}"


@pytest.mark.parametrize("name", sorted(set(NAMES) - LATE_IMPORTS))
def test_imports_stand_at_the_top(name: str) -> None:
    """An import inside a function is no way out of a cycle; only the command table imports late."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ast.walk(node):
                assert not isinstance(inner, ast.Import | ast.ImportFrom), f"{name} imports inside {node.name}"


@pytest.mark.parametrize("name", NAMES)
def test_every_module_says_what_it_is(name: str) -> None:
    """A module opens by saying what may live in it."""
    assert ast.get_docstring(MODULES[name]), f"{name} has no docstring"


def test_the_layout_names_only_known_libraries() -> None:
    """Every foreign library is declared here or in the list of those that all may use."""
    everywhere = {"msgspec", "eggpool"} | set(sys.stdlib_module_names)
    for name in NAMES:
        for full in imports(MODULES[name]):
            top = full.partition(".")[0]
            assert top in everywhere or top in OWNERS, f"{name} imports {top}, which has no owner"
