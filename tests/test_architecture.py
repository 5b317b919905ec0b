"""The architecture, read off the syntax trees of the package: layers, homes of dependencies, names, sizes, docstrings.

The two tables below are those of docs/architecture.md, and a test holds them together. Nothing of the package is run.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "multiverse"
ARCHITECTURE = ROOT / "docs" / "architecture.md"

# Lowest first. A module may import from its own room and from lower layers; rooms of one layer do not know each other.
LAYERS = (
    "alarm cancelling clock dotenv_file errors histogram log_copies redaction settings ticking",
    "config log_lines log_memory loop_watch open_files",
    "logs",
    "storage transport",
    "people servers",
    "classroom notices proxy",
    "gateway",
    "web",
    "__main__ cli cli_aliases cli_choice cli_client cli_keys cli_lend cli_options cli_output cli_servers"
    " cli_terms cli_transfer cli_usage doctor doctor_outside upkeep",
)
# The modules of the command line are one room.
COMMAND_LINE = LAYERS[-1].split()

# Dependency → the rooms and modules that may import it. Every third-party package must be here.
HOMES = {
    "tornado.web": "web",
    "tornado.httpserver": "web",
    "tornado.netutil": "web",
    "tornado.template": "web.assets",
    "tornado.version": "web.handlers.insight",
    "tornado.autoreload": "web",
    "tornado.iostream": "web",
    "tornado.httpclient": "transport",
    "tornado.httputil": "transport web",
    "tornado.http1connection": "web",
    "tornado.ioloop": "ticking",
    "tornado.platform": "transport.http",
    "httptools": "transport.answers",
    "uvloop": "web.app",
    "msgspec": "people.usage proxy servers.probe web",
    "marshmallow": "web.client_reply_schemas web.lend_schema web.people_reply_schemas web.people_schemas"
    " web.reply_schemas web.schemas web.strict_fields web.terms_schema web.text_fields",
    "apispec": "web.openapi",
    "prometheus_client": "web.metrics",
    "opentelemetry": "proxy.spans",
    "sqlite_utils": "storage",
    "sqlite3": "storage",
    "environs": "config",
    "dotenv": "dotenv_file",
    "pythonjsonlogger": "log_lines",
    "zoneinfo": "servers.terms",
    "click": "cli cli_aliases cli_choice cli_keys cli_lend cli_options cli_output cli_servers cli_terms cli_transfer"
    " cli_usage upkeep",
    "http.client": "cli_client",
    "smtplib": "notices.mail",
    "ssl": "cli_client notices.mail transport.dialling transport.connection",
}

LONGEST_MODULE, LONGEST_FUNCTION, LONGEST_MODULE_DOCSTRING = 350, 60, 5
# Its state machine wants to be read as a whole, and its docstring draws it.
DEEP_MODULES = {"transport.http"}
NO_ROOMS = {"utils", "util", "common", "constants", "helpers", "misc"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Import:
    """One imported name, as written in full; `for_types` when only a type checker sees it."""

    name: str
    line: int
    for_types: bool


@dataclass(frozen=True)
class Module:
    """One source file; `name` is dotted, without the package's name for modules of the package."""

    name: str
    path: Path

    def __str__(self) -> str:
        return self.name or "multiverse"

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @property
    def room(self) -> str:
        """The first part of the name; the whole command line is one room."""
        first = self.name.partition(".")[0]
        return "command line" if first in COMMAND_LINE else first

    def at(self, node: ast.AST) -> str:
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"

    @cached_property
    def imports(self) -> list[Import]:
        """Every import, those inside functions and for type checking included."""
        type_checking = [node for node in ast.walk(self.tree) if isinstance(node, ast.If) and is_type_checking(node)]
        for_types = {id(node) for block in type_checking for child in block.body for node in ast.walk(child)}
        found = []
        for node in ast.walk(self.tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.at(node)}: a relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [Import(name, getattr(node, "lineno", 0), id(node) in for_types) for name in names]
        return found


def is_type_checking(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def modules_in(*places: Path) -> dict[str, Module]:
    """Modules by their dotted name, relative to the directory that was given."""
    found = {}
    for place in places:
        for path in sorted(place.rglob("*.py")):
            parts = path.relative_to(place).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[f"{place.name}/{name}" if place != PACKAGE else name] = Module(name, path)
    return found


MODULES = modules_in(PACKAGE)
ALL_SOURCES = {**MODULES, **modules_in(ROOT / "tests", ROOT / "scripts"), "setup": Module("setup", ROOT / "setup.py")}


def own_target(name: str) -> str | None:
    """The module of ours that an imported name means; "" is the package itself; None for foreign ones."""
    if name != "multiverse" and not name.startswith("multiverse."):
        return None
    inner = name.removeprefix("multiverse").removeprefix(".")
    while inner and inner not in MODULES:
        inner = inner.rpartition(".")[0]  # what is left out is a name inside the module
    return inner


def layer_of(name: str) -> int:
    """The number of a module's layer, 1 being the lowest; the package itself is below all."""
    if not name:
        return 0
    room = name.partition(".")[0]
    for number, rooms in enumerate(LAYERS, 1):
        if room in rooms.split():
            return number
    raise AssertionError(f"multiverse/{name.replace('.', '/')}.py is in no layer: see LAYERS and docs/architecture.md")


def lives_in(name: str, places: str) -> bool:
    """Whether the module is one of these rooms or modules, or inside one."""
    return any(name == place or name.startswith(f"{place}.") for place in places.split())


def within(imported: str, dependency: str) -> bool:
    return imported == dependency or imported.startswith(f"{dependency}.")


# -- imports


@pytest.mark.parametrize("module", MODULES.values(), ids=str)
def test_imports_go_down_only(module: Module) -> None:
    upwards = []
    for imported in module.imports:
        target = own_target(imported.name)
        if target is None or (target and MODULES[target].room == module.room):
            continue
        if layer_of(target) >= layer_of(module.name):
            upwards.append(f"line {imported.line}: {imported.name}")
    assert not upwards, f"{module.name or 'multiverse'} imports upwards or sideways: {upwards}"


def test_there_are_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for module in MODULES.values():
        targets = {own_target(imported.name) for imported in module.imports if not imported.for_types}
        graph[module.name] = {target for target in targets if target and target != module.name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {error.args[1]}")


FORBIDDEN_WAYS: dict[str, tuple[Callable[[Module], bool], str]] = {
    "a request never waits for the disk": (lambda module: module.room == "proxy", "multiverse.storage"),
    "services never see the gateway": (lambda module: module.room not in ("web", "gateway"), "multiverse.gateway"),
    "only the entry imports the command line": (
        lambda module: module.room != "command line",
        "multiverse.cli",
    ),
}


@pytest.mark.parametrize("rule", FORBIDDEN_WAYS)
def test_ways_that_are_closed(rule: str) -> None:
    concerns, forbidden = FORBIDDEN_WAYS[rule]
    found = [
        f"{module.name} imports {imported.name}"
        for module in MODULES.values()
        if concerns(module)
        for imported in module.imports
        if within(imported.name, forbidden)
    ]
    assert not found, f"{rule}: {found}"


def test_commands_are_clients_like_any_other() -> None:
    helpers = [module for module in MODULES.values() if module.name.startswith("cli_")]
    assert helpers
    for module in helpers:
        targets = {own_target(imported.name) for imported in module.imports} - {None, ""}
        # A command finds gateway and key by the same `.env` as the gateway itself.
        foreign = [
            target for target in targets if target not in (None, "dotenv_file") and not target.startswith("cli_")
        ]
        assert not foreign, f"{module.name} imports {foreign}: it shall use the API alone"


# -- dependencies


def home_of(imported: str) -> tuple[str, str] | None:
    """The longest entry of HOMES that covers an imported name."""
    fitting = [(dependency, places) for dependency, places in HOMES.items() if within(imported, dependency)]
    return max(fitting, key=lambda entry: len(entry[0]), default=None)


@pytest.mark.parametrize("module", MODULES.values(), ids=str)
def test_each_dependency_has_one_home(module: Module) -> None:
    strays = []
    for imported in module.imports:
        top = imported.name.partition(".")[0]
        home = home_of(imported.name)
        if home is not None and not lives_in(module.name, home[1]):
            strays.append(f"line {imported.line}: {imported.name} belongs to {home[1]}")
        elif home is None and top != "multiverse" and top not in sys.stdlib_module_names:
            strays.append(f"line {imported.line}: {imported.name} has no home yet")
    assert not strays, f"{module.name}: {strays}"


@pytest.mark.parametrize("dependency", HOMES)
def test_no_home_is_empty(dependency: str) -> None:
    residents = [module for module in MODULES.values() if lives_in(module.name, HOMES[dependency])]
    assert any(within(imported.name, dependency) for module in residents for imported in module.imports)


def test_the_environment_is_read_in_one_place() -> None:
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    readers = set()
    for module in MODULES.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) == "os":
                readers.add(module.name)
        if any(imported.name in {f"os.{name}" for name in names} for imported in module.imports):
            readers.add(module.name)
    assert readers == {"config"}


# -- the document


def table_under(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of docs/architecture.md, without its head."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip().strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 2, f"no table under {heading!r}"
    return [[cell.strip() for cell in row] for row in rows[2:]]


def code_words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_document_has_the_same_layers() -> None:
    rows = table_under("Imports go down only")
    written = {int(number): sorted(code_words(rooms)) for number, rooms in rows}
    assert written == {number: sorted(rooms.split()) for number, rooms in enumerate(LAYERS, 1)}


def test_the_document_has_the_same_homes() -> None:
    rows = table_under("One home for each dependency")
    written = {dependency: sorted(code_words(row[1])) for row in rows for dependency in code_words(row[0])}
    assert written == {dependency: sorted(places.split()) for dependency, places in HOMES.items()}


# -- names


def anonymous(name: str) -> bool:
    return name == "_"


def names_given(node: ast.AST) -> Iterator[str]:
    """The names that a node of the tree gives to something."""
    match node:
        case ast.arg(arg=name):
            yield name
        case ast.Name(id=name, ctx=ast.Store()):  # assignments, loops, comprehensions, `with`, `:=`
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Attribute(attr=name, ctx=ast.Store()):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            yield name


@pytest.mark.parametrize("module", ALL_SOURCES.values(), ids=str)
def test_no_single_letter_names(module: Module) -> None:
    short = [
        f"{module.at(node)} {name}"
        for node in ast.walk(module.tree)
        for name in names_given(node)
        if len(name.strip("_")) < 2 and not anonymous(name)
    ]
    assert not short


def test_no_room_for_odds_and_ends() -> None:
    parts = {part for module in MODULES.values() for part in module.name.split(".")}
    assert not parts & NO_ROOMS


def test_nothing_is_global() -> None:
    found = [
        module.at(node)
        for module in ALL_SOURCES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Global)
    ]
    assert not found


# -- docstrings


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public functions and classes, and those inside public classes; nothing inside functions."""
    for node in body:
        if isinstance(node, Documented) and not node.name.startswith("_") and not is_exempt(node):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


def is_exempt(node: ast.AST) -> bool:
    """A property's setter is told by its getter; `Meta` is how marshmallow takes options."""
    if isinstance(node, ast.ClassDef):
        return node.name == "Meta"
    decorators = node.decorator_list if isinstance(node, Function) else []
    return any(isinstance(decorator, ast.Attribute) and decorator.attr == "setter" for decorator in decorators)


@pytest.mark.parametrize("module", MODULES.values(), ids=str)
def test_everything_public_says_what_it_is(module: Module) -> None:
    opening = ast.get_docstring(module.tree)
    assert opening, f"{module.path} does not open with its rules"
    if module.name not in DEEP_MODULES:
        assert len(opening.splitlines()) <= LONGEST_MODULE_DOCSTRING, f"{module.path} opens with too many rules"
    silent = [
        f"{module.at(node)} {name}"
        for name, node in public_definitions(module.tree.body)
        if not ast.get_docstring(node)  # type: ignore[arg-type]
    ]
    assert not silent


# -- sizes


@pytest.mark.parametrize("module", MODULES.values(), ids=str)
def test_modules_and_functions_are_small(module: Module) -> None:
    lines = len(module.text.splitlines())
    assert lines <= LONGEST_MODULE or module.name in DEEP_MODULES, f"{module.path} has {lines} lines: make it two"
    long_functions = [
        f"{module.at(node)} {node.name}"
        for node in ast.walk(module.tree)
        if isinstance(node, Function) and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not long_functions


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b(?!\})")
    places = [path for place in (PACKAGE, ROOT / "scripts", ROOT / "tests") for path in sorted(place.rglob("*"))]
    sources = [path for path in places if path.suffix in {".py", ".sh", ".awk", ".html", ".css", ".js"}]
    sources = [path for path in sources if "vendor" not in path.parts]
    assert sources
    for path in sources:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not marks.search(line), f"{path.relative_to(ROOT)}:{number} is not finished"
