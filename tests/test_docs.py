"""The documents are held to the code: settings, routes, errors, modules, commands, links, examples, quoted texts.

What a sentence claims cannot be tested; what it names can. The gateway is asked for the one answer a newcomer compares.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from multiverse import __version__
from multiverse.cli import cli
from multiverse.errors import GatewayError, ServerDisconnected, ServerRefused, StreamTruncated
from multiverse.settings import SETTINGS
from multiverse.web.routes import ROUTES
from multiverse.web.schemas import CallSchema, RegisterSchema, ServerQuerySchema, ServerSchema
from tests.node import NODE
from tests.processes import GatewayProcess

ROOT = Path(__file__).resolve().parent.parent
README, API, ARCHITECTURE = ROOT / "README.md", ROOT / "docs" / "api.md", ROOT / "docs" / "architecture.md"
CHANGELOG = ROOT / "CHANGELOG.md"
DOCUMENTS = [
    *(README, CHANGELOG, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL, ROUTE_HEADING = {"sh", "bash"}, re.compile(r"^### `([A-Z]+) (/\S*)`$", re.MULTILINE)
NO_ERRORS_OF_HTTP = {ServerDisconnected, StreamTruncated}  # after the commit only: a stream has its status already


@dataclass(frozen=True)
class Example:
    """One fenced block; `language` as it stands behind the fence."""

    document: Path
    language: str
    text: str
    line: int

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


@cache
def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def prose_of(document: Path) -> str:
    """The document without its fenced blocks."""
    return FENCE.sub("", text_of(document))


def examples(*languages: str) -> list[Example]:
    """The fenced blocks of all documents in these languages."""
    return [
        Example(document, block[1], block[2], text_of(document).count("\n", 0, block.start()) + 1)
        for document in DOCUMENTS
        for block in FENCE.finditer(text_of(document))
        if block[1] in languages
    ]


def section_of(document: Path, heading: str) -> str:
    """What stands between a heading and the next one of the same or a higher level."""
    level = heading.partition(" ")[0]
    rest = text_of(document).partition(f"\n{heading}\n")[2]
    assert rest, f"{document.name} has no heading {heading!r}"
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows_of(text: str) -> list[list[str]]:
    """The cells of every table row in a text, without heads."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    rules = [number for number, row in enumerate(rows) if set("".join(row)) <= set("-: ")]
    heads = {number - 1 for number in rules} | set(rules)
    return [row for number, row in enumerate(rows) if number not in heads]


def code_in(text: str) -> list[str]:
    """What stands in backticks, single or double."""
    return [span[1] or span[2] for span in re.finditer(r"``(.+?)``|`([^`]+)`", text)]


# -- settings


def test_the_readme_has_every_setting_with_its_default() -> None:
    written = {code_in(row[0])[0]: row[1] for row in rows_of(section_of(README, "## Settings"))}
    shown = {None: "required", "": "empty"}
    expected = {row.variable: shown.get(row.default, f"`{row.default}`") for row in SETTINGS}
    assert written == expected
    assert list(written) == list(expected), "in the order of settings.py"


@pytest.mark.parametrize("variable", [setting.variable for setting in SETTINGS])
def test_the_example_file_has_every_setting(variable: str) -> None:
    assert re.search(rf"^{variable}=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_setting_is_invented(document: Path) -> None:
    ours = {setting.variable for setting in SETTINGS} | {"MULTIVERSE_URL", "MULTIVERSE_API_KEY", "SERVER_API_KEY"}
    foreign = {"WEB_CONCURRENCY", "OLLAMA_HOST", "PYTHON_CONFIGURE_OPTS"}
    in_text = {span.partition("=")[0] for span in code_in(prose_of(document))}
    in_examples = set(re.findall(r"\b([A-Z_]+)=", text_of(document)))
    named = {name for name in in_text | in_examples if re.fullmatch(r"[A-Z]+(?:_[A-Z]+)+", name)}
    assert named <= ours | foreign


# -- routes and errors


def documented_routes() -> set[tuple[str, str]]:
    return {(found[1], found[2]) for found in ROUTE_HEADING.finditer(text_of(API))}


def test_the_api_has_every_route_and_no_other() -> None:
    assert documented_routes() == {(method, route.shown) for route in ROUTES for method in route.methods}


def test_the_api_has_every_field_that_comes_in() -> None:
    for schema, heading in (
        (RegisterSchema, "### `POST /admin/register`"),
        (ServerQuerySchema, "### `GET /admin/servers`"),
        (CallSchema, "### `POST /v1/{route}`"),
    ):
        written = {name for row in rows_of(section_of(API, heading)) for name in code_in(row[0])}
        assert set(schema().fields) <= written, heading


def example_after(document: Path, heading: str, language: str = "json", number: int = 0) -> Any:
    """A JSON example under a heading."""
    blocks = [block[2] for block in FENCE.finditer(section_of(document, heading)) if block[1] == language]
    return json.loads(blocks[number])


def test_records_in_examples_have_the_fields_that_go_out() -> None:
    record = set(ServerSchema().fields)
    assert set(example_after(API, "### `POST /admin/register`")) == record | {"message"}
    one_server = example_after(API, "### `GET /admin/servers/{registration_id}`")
    assert set(one_server) == record | {"recent_probes", "uptime_percent", "recent_failures"}


def all_errors(base: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    yield base
    for child in base.__subclasses__():
        yield from all_errors(child)


def test_the_api_has_every_error_and_no_other() -> None:
    rows = {code_in(row[0])[0]: row for row in rows_of(section_of(API, "## Errors"))}
    ours = [error for error in all_errors() if error.__module__ == GatewayError.__module__]
    assert set(rows) == {error.code for error in ours}
    for error in ours:
        if error is ServerRefused:
            continue  # has the status that the server gave
        status, kind = rows[error.code][1], code_in(rows[error.code][2])[0]
        assert kind == error.type, error
        assert status == ("in a stream" if error in NO_ERRORS_OF_HTTP else str(error.status)), error


def test_errors_in_the_readme_are_those_of_the_gateway() -> None:
    status_of = {error.code: str(error.status) for error in all_errors() if error is not ServerRefused}
    rows = [row[0] for row in rows_of(section_of(README, "### A request is refused")) if row[0][:1].isdigit()]
    assert rows
    for cell in rows:
        assert status_of[code_in(cell)[0]] == cell.split()[0]


def test_the_readme_shows_what_health_answers(gateway: GatewayProcess) -> None:
    shown = example_after(README, "## Start a gateway")
    real = gateway.call("GET", "/health").json()
    assert isinstance(shown.pop("uptime_seconds"), float)
    assert isinstance(real.pop("uptime_seconds"), float)
    assert shown == real
    assert list(shown) == list(real)


@pytest.mark.parametrize(
    ("path", "heading"),
    [
        ("/", "### `GET /`"),
        ("/health", "### `GET /health`"),
        ("/admin/stats", "### `GET /admin/stats`"),
        ("/v1/models", "### `GET /v1/models`"),
        ("/admin/servers", "### `GET /admin/servers`"),
    ],
)
def test_examples_in_the_api_have_the_fields_of_real_answers(gateway: GatewayProcess, path: str, heading: str) -> None:
    shown, real = example_after(API, heading), gateway.admin("GET", path).json()
    assert list(shown) == list(real)
    for name, value in real.items():
        if isinstance(value, dict) and path == "/admin/stats":
            assert list(shown[name]) == list(value), name


# -- modules


def test_the_architecture_has_every_module_and_no_other() -> None:
    rows = rows_of(section_of(ARCHITECTURE, "## The rooms"))
    written = [name for row in rows for name in code_in(row[0])]
    package = ROOT / "multiverse"
    modules = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    # What a room's own `__init__.py` says, the table's bold rows say.
    modules = {name for name in modules if "/" not in name or not name.endswith("__init__.py")}
    assert set(written) == modules
    assert len(written) == len(set(written)), "each once"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    bold = {found for row in rows for found in re.findall(r"\*\*(.+?)\*\*", row[0])}
    assert rooms <= bold


# -- commands and scripts


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every command line of ours in the documents, as words: of shell examples, and of code in the text."""
    ours = re.compile(r"(?:.*/)?(?:multiverse|[a-z_]+\.sh)")
    for document in DOCUMENTS:
        spans = [span for span in code_in(prose_of(document)) if " " in span]
        blocks = [block[2] for block in FENCE.finditer(text_of(document)) if block[1] in SHELL | {"ini"}]
        lines = [line.removeprefix("ExecStart=") for block in blocks for line in block.splitlines()]
        for line in [*spans, *lines]:
            try:
                words = shlex.split(line, comments=True)
            except ValueError:
                continue  # a piece of something longer, which test_shell_examples looks at
            while words and (re.fullmatch(r"[A-Z_]+=.*", words[0]) or words[0] in ("python", "-m")):
                words = words[1:]
            if words and ours.fullmatch(words[0]):
                yield document.name, words


def known_command(words: list[str]) -> click.Command:
    """The click command that words after `multiverse` name. Raises KeyError for one that does not exist."""
    command: click.Command = cli
    for word in words:
        if not isinstance(command, click.Group) or word.startswith(("-", "…")):
            break
        command = command.commands[word]
    return command


def check_options(words: list[str], command: click.Command) -> None:
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        option = word.partition("=")[0]
        assert not word.startswith("-") or option in options | {"--help", "-"}, f"{command.name} has no option {option}"


def test_commands_in_the_documents_exist() -> None:
    seen = 0
    for where, words in command_lines():
        if Path(words[0]).name == "multiverse":
            command = known_command(words[1:])
            check_options(words[1:], command)
            seen += 1
        else:
            script = ROOT / "scripts" / Path(words[0]).name
            assert script.is_file(), f"{where}: {words[0]}"
            # demo.sh hands its options on to demo.py, test.sh to pytest.
            told = (script.with_suffix(".py") if script.name == "demo.sh" else script).read_text(encoding="utf-8")
            for word in words[1:]:
                known = not word.startswith("--") or word in told or script.name == "test.sh"
                assert known, f"{where}: {script.name} {word}"
    assert seen > 10


def leaf_commands(group: click.Group = cli, prefix: str = "multiverse") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaf_commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}"


def test_the_readme_has_every_command() -> None:
    rows = rows_of(section_of(README, "## Commands and scripts"))
    written = {" ".join(word for word in code_in(row[0])[0].split() if word.islower()) for row in rows if row[0]}
    assert written == set(leaf_commands())


def test_scripts_in_the_documents_exist() -> None:
    named = {name for document in DOCUMENTS for name in re.findall(r"scripts/[\w.]+\w", text_of(document))}
    named |= {f"scripts/{name}" for document in DOCUMENTS for name in re.findall(r"\b[a-z_]+\.sh\b", text_of(document))}
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_files_in_the_documents_exist() -> None:
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"(?<![\w/])(?:tests|docs|multiverse)/[\w/]+\.\w+", text_of(document))
    }
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


# -- links and examples


def anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    plain = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return plain.replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(document)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        if fragment:
            headings = re.findall(r"^#+ (.+)$", prose_of(target), re.MULTILINE)
            assert fragment in {anchor(heading) for heading in headings}, link


@pytest.mark.parametrize("example", examples("json"), ids=str)
def test_json_examples_parse(example: Example) -> None:
    json.loads(example.text)


@pytest.mark.parametrize("example", examples("python"), ids=str)
def test_python_examples_compile(example: Example) -> None:
    compile(example.text, str(example), "exec", flags=ast.PyCF_ONLY_AST)


@pytest.mark.parametrize("example", examples(*SHELL), ids=str)
def test_shell_examples_are_shell(example: Example) -> None:
    ran = subprocess.run(["sh", "-n"], input=example.text, text=True, capture_output=True, timeout=10, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("example", examples(*SHELL), ids=str)
def test_bodies_in_shell_examples_are_json(example: Example) -> None:
    for body in re.findall(r"-d '(\{.*?\})'", example.text, re.DOTALL):
        json.loads(body)


@pytest.mark.parametrize("example", examples("javascript"), ids=str)
def test_node_examples_are_javascript(example: Example, tmp_path: Path) -> None:
    script = tmp_path / "example.mjs"
    script.write_text(example.text, encoding="utf-8")
    ran = subprocess.run([NODE, "--check", script], text=True, capture_output=True, timeout=30, check=False)
    assert ran.returncode == 0, ran.stderr


def test_every_fence_says_its_language() -> None:
    known = {"sh", "bash", "python", "javascript", "json", "text", "ini", "nginx", "caddyfile", "mermaid"}
    for document in DOCUMENTS:
        assert text_of(document).count("```") % 2 == 0, document.name
        assert {block[1] for block in FENCE.finditer(text_of(document))} <= known, document.name


# -- quoted texts


@cache
def texts_of_the_product() -> tuple[str, ...]:
    """Every text in the package, with `*` for what is filled in and for numbers."""
    texts = []
    for path in (ROOT / "multiverse").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values]
                texts.append(starred("".join(parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(starred(node.value))
    return tuple(texts)


def starred(text: str) -> str:
    """`text` with numbers, paths in quotes and ngrok's codes as `*`."""
    return re.sub(r"ERR_NGROK_\d+|'/[^']*'|\d[\d.]*|\*+", "*", text)


def quoted_texts() -> list[str]:
    """What the README's troubleshooting says the gateway says; the variable before a fault is config.py's to add."""
    variables = "|".join(setting.variable for setting in SETTINGS)
    quotes = []
    for heading in ("### The gateway does not start", "### A server is unhealthy"):
        for row in rows_of(section_of(README, heading)):
            quotes += [re.sub(rf"^(?:{variables}|\.env) ", "", span) for span in code_in(row[0])]
    return quotes


@pytest.mark.parametrize("quote", quoted_texts())
def test_quoted_texts_are_those_of_the_product(quote: str) -> None:
    assert any(starred(quote) in text for text in texts_of_the_product())


# -- the changelog


def test_the_changelog_names_the_version_and_every_dependency() -> None:
    text = text_of(CHANGELOG)
    assert re.search(rf"^## \[(?:Unreleased|{re.escape(__version__)})\].*{re.escape(__version__)}", text, re.MULTILINE)
    pins = (ROOT / "setup.py").read_text(encoding="utf-8")
    runtime = re.findall(r'^    "([\w-]+)[><=]', pins.partition("RUNTIME = [")[2].partition("]")[0], re.MULTILINE)
    assert len(runtime) > 5
    assert [name for name in runtime if name.lower() not in text.lower()] == []
