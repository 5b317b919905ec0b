"""The shell scripts as people without the package run them: `sh`, curl and any awk, against scripted peers.

Names are hostile on purpose: whatever an argument contains, it reaches the gateway as it was given, and nothing of it
is ever executed. The key must never be seen among a process's arguments.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import wire
from tests.conftest import StartPeer
from tests.operations import Fin, Hold, Send
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, PROJECT, GatewayProcess
from tests.test_cli import KEYS_TAKEN
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the scripts need curl")

SCRIPTS = PROJECT / "scripts"
NAMES = (
    "register_server.sh",
    "update_server.sh",
    "deregister_server.sh",
    "list_servers.sh",
    "list_models.sh",
    "chat.sh",
    "register_ollama.sh",
)
KEY = 'an-admin-key"\\0123456789'
SERVER_KEY = "a-server-key-5d0e"
RECORD = {
    "registration_id": "an-id",
    "model_name": "llama",
    "health_status": "healthy",
    "message": "Server registered.",
}
HOSTILE = (
    '"; touch owned; echo "',
    "$(touch owned) `touch owned` $HOME ${PATH}",
    "O'Brien \\ \\n \\\" %s %% & | < > * ? [a] {b,c} ~ #",
    "line\nbreak\ttab\r\x01\x1f\x7f",
    "北京 🌍 é",
    "@/etc/passwd",
    "-n",
)
AWKS = {"mawk": "mawk", "gawk": "gawk", "busybox": "busybox", "bwk": "original-awk"}


@pytest.fixture(params=AWKS)
def awk_path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A PATH on which `awk` is one of the implementations that are around; those not installed are skipped."""
    program = shutil.which(AWKS[request.param])
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    directory = tmp_path / "awk"
    directory.mkdir()
    (directory / "awk").symlink_to(program)
    return f"{directory}:{os.environ['PATH']}"


def environ(**variables: str) -> dict[str, str]:
    """Nothing of this machine's settings; `variables` on top. An empty one is left out."""
    every = {"PATH": os.environ["PATH"], "ADMIN_API_KEY": KEY, "USER": "ada", "HOME": "/nonexistent", **variables}
    return {name: value for name, value in every.items() if value}


def run(
    script: str, *arguments: str, cwd: Path, stdin: str = "", shell: str = "sh", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run one script to its end; it must leave nothing behind in `cwd` (hostile names would touch a file)."""
    before = sorted(path.name for path in cwd.iterdir())
    result = subprocess.run(
        [shell, str(SCRIPTS / script), *arguments],
        env=environ(TMPDIR=str(cwd), **variables),
        cwd=cwd,
        input=stdin.encode(),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert sorted(path.name for path in cwd.iterdir()) == before
    output, errors = result.stdout.decode(), result.stderr.decode()
    assert KEY not in output + errors
    return subprocess.CompletedProcess(result.args, result.returncode, output, errors)


def assert_told(result: subprocess.CompletedProcess[str], exit_code: int, *texts: str) -> None:
    """The script failed as it should: exit code, nothing on stdout, each text on stderr."""
    assert (result.returncode, result.stdout) == (exit_code, ""), result
    for text in texts:
        assert text in result.stderr


# -- all of them


@pytest.mark.parametrize("script", NAMES)
def test_each_script_explains_itself(script: str, tmp_path: Path) -> None:
    for option in ("-h", "--help"):
        result = run(script, option, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert f"Usage: {script}" in result.stdout
        assert "Exit codes" in result.stdout
        assert "set -eu" not in result.stdout
    assert os.access(SCRIPTS / script, os.X_OK)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("register_server.sh", ["only-a-model"]),
        ("register_server.sh", ["model", "http://h", "too-much"]),
        ("register_server.sh", ["model", "http://h", "--context", "4k"]),
        ("register_server.sh", ["model", "http://h", "--owner"]),
        ("update_server.sh", ["an-id"]),
        ("update_server.sh", ["an-id", "no-value"]),
        ("update_server.sh", ["an-id", "api_key=on-the-command-line"]),
        ("update_server.sh", ["an-id", "require_healthy=perhaps"]),
        ("deregister_server.sh", []),
        ("deregister_server.sh", ["one", "two"]),
        ("list_servers.sh", ["--no-such-filter", "x"]),
        ("list_models.sh", ["extra"]),
        ("chat.sh", ["model-only"]),
        ("chat.sh", ["model", "unquoted", "prompt"]),
        ("chat.sh", ["--temperature", "warm", "model", "prompt"]),
        ("register_ollama.sh", ["--ollama", "localhost"]),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(script: str, arguments: list[str], tmp_path: Path) -> None:
    assert_told(run(script, *arguments, cwd=tmp_path), 2, f"{script}: ", "--help")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "file:///etc/passwd", "http://h\nurl = http://x", "http://a b", "http://ä"]
)
def test_an_address_that_is_none_is_exit_code_2(url: str, tmp_path: Path) -> None:
    assert_told(run("list_models.sh", cwd=tmp_path, MULTIVERSE_URL=url), 2, "MULTIVERSE_URL")


@pytest.mark.parametrize("key", ["", "two\nlines", "trailing\n", "ключ"])
def test_a_key_that_is_none_is_exit_code_2(key: str, peer: ScriptedPeer, tmp_path: Path) -> None:
    result = run("list_servers.sh", cwd=tmp_path, ADMIN_API_KEY=key, MULTIVERSE_URL=peer.url)
    assert_told(result, 2, "ADMIN_API_KEY")
    assert not peer.probes


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("register_server.sh", ["llama", "http://127.0.0.1:9"]),
        ("update_server.sh", ["an-id", "owner_name=Ada"]),
        ("deregister_server.sh", ["an-id"]),
        ("list_servers.sh", []),
        ("list_models.sh", []),
        ("chat.sh", ["llama", "Hello"]),
    ],
)
def test_every_failure_has_its_exit_code(script: str, arguments: list[str], peer: ScriptedPeer, tmp_path: Path) -> None:
    def call(answer: bytes) -> subprocess.CompletedProcess[str]:
        peer.health.always(answer, Fin())
        peer.always(answer, Fin())
        return run(script, *arguments, cwd=tmp_path, MULTIVERSE_URL=f"{peer.url}/v1/")

    error = wire.error_answer(403, "Not for \x9b31m you.", [("X-Request-ID", "req-42")], code="permission_denied")
    refused = call(error)
    assert_told(refused, 1, "Not for 31m you.", "permission_denied")
    assert_told(call(wire.html_answer(502, text="\x1b]0;tunnel")), 1, "502")
    assert_told(call(wire.html_answer(200)), 1)
    assert_told(call(wire.answer("", 302, headers=[("Location", "/elsewhere")])), 1, "302")
    assert "/elsewhere" not in [request.path for request in [*peer.probes, *peer.requests]]
    peer.refuse()
    assert_told(run(script, *arguments, cwd=tmp_path, MULTIVERSE_URL=peer.url), 3, peer.url, "MULTIVERSE_URL")


def test_the_key_is_never_among_the_arguments(peer: ScriptedPeer, tmp_path: Path) -> None:
    """Everybody on a machine can read the arguments of every process; here each curl and awk writes its own down."""
    programs, seen = tmp_path / "programs", tmp_path / "seen"
    programs.mkdir()
    seen.touch()
    for name in ("curl", "awk"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$0 $*" >>"{seen}"\nexec "{shutil.which(name)}" "$@"\n')
        program.chmod(0o755)
    peer.script(wire.json_answer(RECORD, 201))
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "MULTIVERSE_URL": peer.url, "SERVER_API_KEY": SERVER_KEY}
    assert run("register_server.sh", "llama", "http://h", cwd=tmp_path, **variables).returncode == 0
    assert run("chat.sh", "llama", "my-secret-prompt", cwd=tmp_path, **variables).returncode == 0
    assert [request.header("Authorization") for request in peer.requests] == [f"Bearer {KEY}"] * 2
    arguments = seen.read_text()
    assert "/curl " in arguments
    for secret in (KEY, "0123456789", SERVER_KEY, "my-secret-prompt"):
        assert secret not in arguments


# -- settings


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("ADMIN_API_KEY=plain-key-0123456789", "plain-key-0123456789"),
        ('ADMIN_API_KEY="quoted key # 1"  # a comment', "quoted key # 1"),
        ("  export ADMIN_API_KEY = 'single $(touch owned)'\r", "single $(touch owned)"),
        ("ADMIN_API_KEY=`touch owned`;touch owned # a comment", "`touch owned`;touch owned"),
        ("ADMIN_API_KEY=first\nADMIN_API_KEY=last=wins", "last=wins"),
        ("touch owned\nOTHER_ADMIN_API_KEY=other\nADMIN_API_KEY=mine\n#ADMIN_API_KEY=commented", "mine"),
    ],
)
def test_dotenv_is_read_and_never_executed(
    line: str, value: str, peer: ScriptedPeer, tmp_path: Path, awk_path: str
) -> None:
    peer.health.always(wire.json_answer({"servers": [], "total": 0}))
    (tmp_path / ".env").write_text(f"{line}\nMULTIVERSE_URL={peer.url}\nPATH=/nowhere\n")
    result = run("list_servers.sh", cwd=tmp_path, ADMIN_API_KEY="", PATH=awk_path)
    assert result.returncode == 0, result.stderr
    assert peer.probes[0].header("Authorization") == f"Bearer {value}"


def test_the_environment_wins_over_dotenv(peer: ScriptedPeer, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ADMIN_API_KEY=from-the-file\nMULTIVERSE_URL=http://127.0.0.1:1\n")
    peer.health.always(wire.json_answer({"servers": [], "total": 0}))
    assert run("list_servers.sh", cwd=tmp_path, MULTIVERSE_URL=peer.url).returncode == 0
    assert peer.probes[0].header("Authorization") == f"Bearer {KEY}"


@pytest.mark.parametrize(("variables", "dotenv", "key"), KEYS_TAKEN)
def test_the_key_is_the_one_that_the_commands_take(
    variables: dict[str, str], dotenv: dict[str, str], key: str, peer: ScriptedPeer, tmp_path: Path
) -> None:
    peer.health.always(wire.json_answer({"servers": [], "total": 0}))
    (tmp_path / ".env").write_text("\n".join(f"{name}={value}" for name, value in dotenv.items()))
    given = {"ADMIN_API_KEY": "", **variables}
    result = run("list_servers.sh", cwd=tmp_path, MULTIVERSE_URL=peer.url, **given)
    assert result.returncode == 0, result.stderr
    assert peer.probes[0].header("Authorization") == f"Bearer {key}"


# -- registrations


def test_register_sends_every_field(peer: ScriptedPeer, tmp_path: Path) -> None:
    peer.always(wire.json_answer(RECORD, 201))
    options = [
        *("--owner", "Ada", "--email", "ada@example.org", "--description", "a b", "--served-name", "llama:8b"),
        *("--tags", "gpu,lab", "--context", "4096", "--max-concurrency", "2", "--require-healthy"),
    ]
    result = run(
        "register_server.sh",
        *options,
        "llama",
        "http://h:1",
        cwd=tmp_path,
        MULTIVERSE_URL=peer.url,
        SERVER_API_KEY=SERVER_KEY,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "Server registered."
    assert "an-id" in result.stdout
    [request] = peer.requests
    assert (request.method, request.path) == ("POST", "/admin/register")
    assert request.header("Content-Type") == "application/json"
    assert request.json() == {
        "owner_name": "Ada",
        "owner_email": "ada@example.org",
        "description": "a b",
        "served_model_name": "llama:8b",
        "tags": "gpu,lab",
        "context_length": 4096,
        "max_concurrency": 2,
        "require_healthy": True,
        "model_name": "llama",
        "endpoint_url": "http://h:1",
        "api_key": SERVER_KEY,
    }


def test_hostile_names_arrive_as_they_are(peer: ScriptedPeer, tmp_path: Path, awk_path: str) -> None:
    peer.always(wire.json_answer(RECORD))
    for name in HOSTILE:
        where = {"cwd": tmp_path, "MULTIVERSE_URL": peer.url, "PATH": awk_path}
        results: list[Any] = [
            run("register_server.sh", "--owner", name, "--", name, name, **where),
            run("update_server.sh", "an-id", f"description={name}=", **where),
            run("chat.sh", "--system", name, "--", name, name, **where),
        ]
        assert [result.returncode for result in results] == [0, 0, 0], results
        registered, updated, asked = (request.json() for request in peer.requests[-3:])
        assert registered == {"owner_name": name, "model_name": name, "endpoint_url": name}
        assert updated == {"description": f"{name}="}
        assert [asked["model"], *(message["content"] for message in asked["messages"])] == [name] * 3


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_any_posix_shell_will_do(shell: str, peer: ScriptedPeer, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = tmp_path / "sh"
    program.symlink_to(shutil.which(shell) or shell)
    peer.script(wire.json_answer(RECORD))
    where = {"cwd": tmp_path, "shell": str(program), "MULTIVERSE_URL": peer.url}
    assert run("update_server.sh", "an-id", "owner_name=Ada", **where).returncode == 0
    assert run("chat.sh", "llama", "Hello", **where).stdout == f"{peer.name}\n"
    peer.refuse()
    assert run("list_models.sh", **where).returncode == 3


def test_update_sends_only_what_was_given(peer: ScriptedPeer, tmp_path: Path) -> None:
    peer.always(wire.json_answer({**RECORD, "message": "Registration updated."}))
    changes = ["owner_name=Ada", "description=", "max_concurrency=2", "require_healthy=false", "api_key"]
    result = run(
        "update_server.sh", "../a b", *changes, cwd=tmp_path, MULTIVERSE_URL=peer.url, SERVER_API_KEY=SERVER_KEY
    )
    assert (result.returncode, result.stdout.splitlines()[0]) == (0, "Registration updated.")
    [request] = peer.requests
    assert (request.method, request.path) == ("PUT", "/admin/register/%2E%2E%2Fa%20b")
    expected = {"owner_name": "Ada", "description": None, "max_concurrency": 2, "require_healthy": False}
    assert request.json() == {**expected, "api_key": SERVER_KEY}


def test_deregister_names_the_server(peer: ScriptedPeer, tmp_path: Path) -> None:
    peer.always(wire.json_answer({"message": "Server deregistered.", "registration_id": "é/1"}))
    result = run("deregister_server.sh", "é/1", cwd=tmp_path, MULTIVERSE_URL=peer.url)
    assert (result.returncode, result.stdout.splitlines()[0]) == (0, "Server deregistered.")
    assert (peer.requests[0].method, peer.requests[0].path) == ("DELETE", "/admin/register/%C3%A9%2F1")


# -- lists


def test_lists_are_tables_for_people_and_json_for_programs(peer: ScriptedPeer, tmp_path: Path, awk_path: str) -> None:
    records = [
        {**RECORD, "owner_name": "Ada \x1b[2J\n北京", "availability": "available", "tags": ["a"], "reason": None},
        {**RECORD, "owner_name": None, "availability": "unhealthy", "reason": 'It \\ refused "us".'},
    ]
    answer = {"servers": records, "total": 2, "filters_applied": {"tag": "é"}}
    peer.health.always(wire.json_answer(answer))
    where = {"cwd": tmp_path, "MULTIVERSE_URL": peer.url, "PATH": awk_path}
    filters = ["--model", "a&b", "--status", "healthy", "--tag", "é", "--sort", "-created_at", "--limit", "5"]
    title, first, second = run("list_servers.sh", *filters, **where).stdout.splitlines()
    assert peer.probes[0].path == (
        "/admin/servers?model_name=a%26b&health_status=healthy&tag=%C3%A9&sort=-created_at&limit=5"
    )
    assert title.split() == [
        "REGISTRATION",
        "ID",
        "MODEL",
        "NAME",
        "AVAILABILITY",
        "ENDPOINT",
        "URL",
        "OWNER",
        "NAME",
        "REASON",
    ]
    assert "Ada [2J 北京" in first
    assert second.endswith('It \\ refused "us".')
    assert second.index("It") == title.index("REASON")
    assert json.loads(run("list_servers.sh", "--json", **where).stdout) == answer


def test_an_empty_list_says_so(peer: ScriptedPeer, tmp_path: Path) -> None:
    peer.health.always(wire.json_answer({"object": "list", "data": []}))
    result = run("list_models.sh", cwd=tmp_path, MULTIVERSE_URL=peer.url, ADMIN_API_KEY="")
    assert (result.returncode, result.stdout) == (0, "")
    assert "No model" in result.stderr
    assert peer.probes[0].header("Authorization") == "Bearer not-needed"


# -- chat

ESCAPED = r'{"choices":[{"delta":{"content":"a\u0022b\\c\/d\n\u00e9\u4eAC\ud83c\udf0d\ud83cx\u0000\u001b[1m\t."}}]}'
DECODED = 'a"b\\c/d\né京🌍�x[1m\t.'


def test_chat_decodes_every_escape(peer: ScriptedPeer, tmp_path: Path, awk_path: str) -> None:
    decoys = (
        '{"note":"\\"content\\":\\"decoy\\"","choices":[{"logprobs":{"content":[{"token":"decoy"}]},"delta":{"content":"1"}}]}',
        '{"choices":[{"delta":{"reasoning_content":"decoy","content":null}}]}',
        '{"choices":[],"usage":{"total_tokens":-1.5e3}}',
        "not json",
        '{"choices":[{"delta":{"content":"decoy"}}],}',
        "[" * 5000,
    )
    body = (
        b": keep-alive\n" + wire.sse(ESCAPED, *decoys) + b"event: x\nid: 1\ndata:" + wire.chat_chunk("北京 🌍\r\n")[6:]
    )
    long_text = "long text " * 10_000
    body += wire.chat_chunk(long_text) + wire.finish_chunk() + wire.DONE
    peer.script(Send(wire.stream_answer(body.replace(b"\n", b"\r\n"), size_bytes=1000)))
    result = run("chat.sh", "llama", "Hi", cwd=tmp_path, MULTIVERSE_URL=peer.url, PATH=awk_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{DECODED}1北京 🌍\n{long_text}\n"


def test_tokens_are_printed_as_they_come(peer: ScriptedPeer, tmp_path: Path, awk_path: str) -> None:
    hold = Hold()
    first = wire.STREAM_HEAD + wire.chunked(wire.chat_chunk("Hel"), last_chunk=False)
    peer.script(first, hold, wire.chunked(wire.good_stream("lo")))
    with subprocess.Popen(
        ["sh", str(SCRIPTS / "chat.sh"), "llama", "Hi"],
        env=environ(MULTIVERSE_URL=peer.url, PATH=awk_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == b"Hel"
        hold.release()
        assert process.stdout.read() == b"lo\n"
    assert process.returncode == 0


def test_chat_sends_what_was_asked(peer: ScriptedPeer, tmp_path: Path) -> None:
    prompt = "from\nstdin " + "x" * 300_000  # more than one argument of a process may hold
    options = ["--system", "Be brief.", "--temperature", "0.5", "--max-tokens", "9"]
    result = run(
        "chat.sh", *options, "llama", "-", cwd=tmp_path, stdin=prompt, MULTIVERSE_URL=peer.url, ADMIN_API_KEY=""
    )
    assert (result.returncode, result.stdout) == (0, f"{peer.name}\n"), result.stderr
    [request] = peer.requests
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    expected = {"model": "llama", "messages": messages, "temperature": 0.5, "max_tokens": 9, "stream": True}
    assert (request.path, request.json()) == ("/v1/chat/completions", expected)
    assert request.header("Authorization") == "Bearer not-needed"


def test_a_plain_answer_to_a_stream_is_printed(peer: ScriptedPeer, tmp_path: Path) -> None:
    peer.always(b"HTTP/1.1 100 Continue\r\n\r\n" + wire.json_answer(wire.chat_completion("whole")))
    assert run("chat.sh", "llama", "Hi", cwd=tmp_path, MULTIVERSE_URL=peer.url).stdout == "whole\n"


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (
            wire.sse('{"error": {"message": "The server\\nbroke \\u001b[2Joff.", "code": "server_disconnected"}}'),
            "off. (server_disconnected)",
        ),
        (wire.sse('{"error": "plain words"}'), "plain words"),
        (b"", "broke off"),
        (b'data: {"choices": [{"delta": {"content": "half', "broke off"),
    ],
    ids=["error-event", "odd-error-event", "no-done", "half-event"],
)
def test_a_broken_answer_is_exit_code_1(
    peer: ScriptedPeer, tmp_path: Path, awk_path: str, ending: bytes, told: str
) -> None:
    peer.always(wire.stream_answer(wire.chat_chunk("Some text") + ending))
    result = run("chat.sh", "llama", "Hi", cwd=tmp_path, MULTIVERSE_URL=peer.url, PATH=awk_path)
    assert (result.returncode, result.stdout) == (1, "Some text\n")
    assert told in result.stderr
    assert "\x1b" not in result.stderr


def test_an_interrupted_chat_leaves_nothing_behind(peer: ScriptedPeer, tmp_path: Path) -> None:
    peer.script(wire.STREAM_HEAD + wire.chunked(wire.chat_chunk("Hel"), last_chunk=False), Hold())
    with subprocess.Popen(
        ["sh", str(SCRIPTS / "chat.sh"), "llama", "Hi"],
        env=environ(MULTIVERSE_URL=peer.url, TMPDIR=str(tmp_path)),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == b"Hel"
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does: to the whole group in front
        assert process.wait(10) == 130
    assert not list(tmp_path.iterdir())
    eventually(lambda: not peer.open_connections(), "the connection is closed")


# -- Ollama


def ollama_with(peer: ScriptedPeer, *names: str) -> ScriptedPeer:
    """Let `peer` be an Ollama that has these models."""
    models = [{"name": name, "model": name, "size": 1, "details": {"families": ["llama"]}} for name in names]
    peer.health.always(wire.json_answer({"models": models}))
    return peer


def test_each_model_of_ollama_is_registered(peer: ScriptedPeer, start_peer: StartPeer, tmp_path: Path) -> None:
    names = ["llama3.2:1b", "hf.co/some/Model-GGUF:Q4_K_M", '-x"; touch owned']
    ollama = ollama_with(start_peer(), *names)
    peer.always(wire.json_answer(RECORD, 201))
    options = ["--ollama", f"{ollama.url}/", "--public-url", "https://ada.example.org", "--tags", "lab"]
    result = run("register_ollama.sh", *options, cwd=tmp_path, MULTIVERSE_URL=peer.url, SERVER_API_KEY=SERVER_KEY)
    assert result.returncode == 0, result.stderr
    assert "3 of 3 models" in result.stdout
    assert [request.path for request in ollama.probes] == ["/api/tags"]
    assert ollama.probes[0].header("Authorization") is None, "the gateway's key is not Ollama's business"
    fields = {"owner_name": "ada", "tags": "lab", "endpoint_url": "https://ada.example.org"}
    assert [request.json() for request in peer.requests] == [{**fields, "model_name": name} for name in names]


def test_one_model_that_is_refused_does_not_stop_the_others(
    peer: ScriptedPeer, start_peer: StartPeer, tmp_path: Path
) -> None:
    ollama = ollama_with(start_peer(), "one", "two")
    peer.script(wire.error_answer(400, "Not this name.", code="invalid_request"))
    peer.script(wire.json_answer(RECORD, 201))
    result = run("register_ollama.sh", "--ollama", ollama.url, cwd=tmp_path, MULTIVERSE_URL=peer.url)
    assert result.returncode == 1
    assert "1 of 2 models" in result.stdout
    assert "one is not registered" in result.stderr


def test_an_ollama_that_cannot_help_is_explained(peer: ScriptedPeer, start_peer: StartPeer, tmp_path: Path) -> None:
    ollama = ollama_with(start_peer())

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("register_ollama.sh", "--ollama", ollama.url, *arguments, cwd=tmp_path, MULTIVERSE_URL=peer.url)

    assert_told(call(), 1, "ollama pull")
    ollama.health.always(wire.html_answer(200))
    assert_told(call(), 1, "not as Ollama does")
    ollama.refuse()
    assert_told(call(), 3, "ollama serve")
    assert not peer.requests


# -- the real gateway


def test_a_server_from_its_registration_to_its_end(
    gateway: GatewayProcess, peer: ScriptedPeer, model: str, tmp_path: Path
) -> None:
    peer.model_names.append(model)

    def call(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(script, *arguments, cwd=tmp_path, MULTIVERSE_URL=gateway.url, ADMIN_API_KEY=ADMIN_KEY)

    registered = call("register_server.sh", model, peer.url, "--owner", 'Ada "L" 北京', "--json")
    assert registered.returncode == 0, registered.stderr
    registration_id = json.loads(registered.stdout)["registration_id"]
    try:
        assert 'Ada "L" 北京' in call("list_servers.sh", "--model", model).stdout
        assert model in call("list_models.sh").stdout
        assert call("chat.sh", model, "Hello").stdout == f"{peer.name}\n"
        assert call("update_server.sh", registration_id, "owner_name=", "max_concurrency=2").returncode == 0
        record = gateway.server(registration_id)
        assert (record["owner_name"], record["max_concurrency"]) == (None, 2)
    finally:
        removed = call("deregister_server.sh", registration_id)
    assert removed.returncode == 0, removed.stderr
    assert_told(call("deregister_server.sh", registration_id), 1, "server_not_found")
    assert_told(call("chat.sh", model, "Hello"), 1, "model_not_found")
