"""The command line as its users meet it: the process `python -m multiverse …`, scripted peers, a real gateway.

A scripted peer plays the gateway where the answer must be wrong in a certain way. What programs rely on is tested:
stdout, stderr, exit codes, and the bytes that reach the gateway.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies

from multiverse.cli import run_command
from multiverse.cli_client import GatewayAddress
from multiverse.cli_output import Column, as_json, display_width, field, flowing, format_table, one_line
from tests import wire
from tests.conftest import StartPeer
from tests.operations import Fin, Hold, Send
from tests.peers import ScriptedPeer
from tests.processes import ADMIN_KEY, PROJECT, GatewayProcess
from tests.waiting import eventually

KEY = "an-admin-key-0123456789"
NO_DOTENV = PROJECT / "tests"  # at the root may be the `.env` of whoever runs a gateway there
HOSTILE = 'evil\x1b[2J\x07"; rm -rf ~\nnext\u202e\x9b31m'
RECORD = {
    "message": "Server registered.",
    "registration_id": "11111111-2222-3333-4444-555555555555",
    "model_name": "llama",
    "endpoint_url": "http://127.0.0.1:9",
    "owner_name": "Ada",
    "tags": ["gpu", "lab"],
    "health_status": "healthy",
    "availability": "available",
    "has_api_key": True,
    "reason": None,
    "in_flight": 0,
}
COMMANDS = [
    ["serve"],
    ["models"],
    ["chat"],
    ["completion"],
    ["servers"],
    ["backup"],
    ["restore"],
    ["doctor"],
    *(
        ["servers", name]
        for name in (
            "list",
            "show",
            "add",
            "update",
            "remove",
            "probe",
            "drain",
            "resume",
            "export",
            "import",
            "terms",
            "pause",
            "lend",
        )
    ),
]


def command(*arguments: str) -> list[str]:
    """The command line, with warnings as errors."""
    return [sys.executable, "-W", "error", "-m", "multiverse", *arguments]


def environ(**variables: str) -> dict[str, str]:
    """Nothing of this machine's settings; `variables` on top."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "PYTHONUTF8": "1", **variables}


def run(*arguments: str, prompt: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, away from any terminal."""
    return subprocess.run(
        command(*arguments),
        env=environ(**variables),
        cwd=NO_DOTENV,
        input=prompt or "",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def admin(peer: ScriptedPeer, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `servers …` against a peer, with a key."""
    return run("servers", *arguments, MULTIVERSE_URL=peer.url, ADMIN_API_KEY=KEY, **variables)


def assert_told(result: subprocess.CompletedProcess[str], exit_code: int, *texts: str) -> None:
    """The command failed as it should: exit code, nothing on stdout, no traceback, each text on stderr."""
    assert (result.returncode, result.stdout) == (exit_code, ""), result
    assert "Traceback" not in result.stderr
    for text in texts:
        assert text in result.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# -- help and usage


@pytest.mark.parametrize("words", [[], *COMMANDS], ids=" ".join)
def test_each_command_explains_itself(words: list[str]) -> None:
    result = run(*words, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "Usage: multiverse" in result.stdout
    if words[:1] != ["servers"] or words[1:] in (["list"], ["add"], ["update"]):
        assert "Example" in result.stdout or "eval" in result.stdout


def test_version_is_printed() -> None:
    assert "1.0.0" in run("--version").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["chat", "model-only"],
        ["servers", "list"],  # without a key
        ["servers", "add", "only-a-model", "--key", KEY],
        ["servers", "update", "an-id", "--key", KEY],
        ["servers", "update", "an-id", "--key", KEY, "--tag", "lab", "--clear", "tags"],
        ["servers", "update", "an-id", "--key", KEY, "--clear", "model_name"],
        ["servers", "remove", "an-id", "--key", KEY],  # nobody can be asked
        ["models", "--gateway", "ftp://example.org"],
        ["models", "--gateway", "http://user:word@127.0.0.1"],
        ["models", "--gateway", "http://127.0.0.1:99999"],
        ["models", "--key", "two\nlines"],
        ["completion", "cmd.exe"],
        ["serve", "--port", "70000"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert_told(result, 2, "Error: ")
    assert "two" not in result.stderr, "a key is never repeated"


def test_serve_tells_wrong_settings_in_one_line(tmp_path: Path) -> None:
    result = subprocess.run(
        command("serve"), env=environ(), cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert_told(result, 2, "ADMIN_API_KEY")
    assert result.stderr.startswith("multiverse: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
        ("https://Gateway.Example.org/", "https://gateway.example.org:443"),
        ("http://[::1]:8000/class/v1", "http://[::1]:8000/class"),
    ],
)
def test_the_gateway_may_be_named_as_people_paste_it(text: str, normal: str) -> None:
    assert str(GatewayAddress.parse(text)) == normal


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1:8000", "http://", "http://h/?key=1", "http://h/#x", "http://ä", "a\nb"]
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        GatewayAddress.parse(text)


def test_completion_scripts_complete(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_MULTIVERSE_COMPLETE" in run("completion", shell).stdout
    words = {"_MULTIVERSE_COMPLETE": "bash_complete", "COMP_WORDS": "multiverse servers re", "COMP_CWORD": "2"}
    assert run(**words).stdout.split() == ["plain,remove", "plain,resume"]


# -- where the gateway is, and which key it is shown

KEYS_TAKEN = [
    ({"MULTIVERSE_API_KEY": "own", "ADMIN_API_KEY": "admins"}, {}, "own"),
    ({"ADMIN_API_KEY": "admins"}, {"MULTIVERSE_API_KEY": "own-in-file"}, "admins"),
    ({}, {"MULTIVERSE_API_KEY": "own-in-file", "ADMIN_API_KEY": "admins-in-file"}, "own-in-file"),
    ({"MULTIVERSE_API_KEY": ""}, {"MULTIVERSE_API_KEY": "", "ADMIN_API_KEY": "'admins $in file'"}, "admins $in file"),
]


@pytest.mark.parametrize(("variables", "dotenv", "key"), KEYS_TAKEN)
def test_the_environment_goes_before_dotenv_and_ones_own_key_before_the_admins(
    variables: dict[str, str],
    dotenv: dict[str, str],
    key: str,
    peer: ScriptedPeer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer.health.always(wire.json_answer({"servers": [], "total": 0, "filters_applied": {}}))
    lines = [f"{name}={value}" for name, value in {**dotenv, "MULTIVERSE_URL": f"{peer.url}/v1/"}.items()]
    (tmp_path / ".env").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    for name in ("MULTIVERSE_URL", "MULTIVERSE_API_KEY", "ADMIN_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run_command(["servers", "list"]) == 0
    assert peer.probes[-1].header("Authorization") == f"Bearer {key}"
    assert run_command(["servers", "list", "--key", "given"]) == 0
    assert peer.probes[-1].header("Authorization") == "Bearer given"


def test_a_key_that_is_nowhere_and_a_dotenv_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MULTIVERSE_URL", "MULTIVERSE_API_KEY", "ADMIN_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert run_command(["servers", "list"]) == 2
    told = capsys.readouterr().err
    assert "set MULTIVERSE_API_KEY (or ADMIN_API_KEY) in the environment or in .env, or give --key" in told
    (tmp_path / ".env").write_text('MULTIVERSE_API_KEY="planted, never closed\n')
    assert run_command(["servers", "list"]) == 2
    told = capsys.readouterr().err
    assert ".env line 1 must be NAME=value" in told
    assert "planted" not in told


# -- what reaches the gateway, and what is shown


def test_models_are_shown_and_asked_for_without_a_key(peer: ScriptedPeer) -> None:
    model = {"id": "llama/北京", "object": "model", "owned_by": "Ada", "servers": 3, "healthy_servers": 2}
    peer.health.always(wire.json_answer({"object": "list", "data": [model]}))
    result = run("models", MULTIVERSE_URL=peer.url + "/v1/")
    assert (result.returncode, result.stderr) == (0, "")
    title, line = result.stdout.splitlines()
    assert line.split() == ["llama/北京", "2", "of", "3", "Ada"]
    assert title.index("HEALTHY") == display_width(line[: line.index("2 of")])
    [request] = peer.probes
    assert (request.path, request.header("Authorization")) == ("/v1/models", "Bearer not-needed")


def test_list_hands_on_every_filter_and_the_key(peer: ScriptedPeer) -> None:
    peer.health.always(wire.json_answer({"servers": [RECORD], "total": 7, "filters_applied": {}}))
    given_options = [
        "--model",
        "a b&c=d",
        "--status",
        "healthy",
        "--owner",
        "Ada",
        "--tag",
        "é",
        "--sort",
        "-created_at",
    ]
    result = admin(peer, "list", *given_options, "--limit", "1", "--offset", "0")
    assert result.returncode == 0
    assert RECORD["registration_id"] in result.stdout
    assert "1 shown of 7" in result.stderr
    [request] = peer.probes
    query = "model_name=a+b%26c%3Dd&health_status=healthy&owner_name=Ada&tag=%C3%A9&sort=-created_at&limit=1&offset=0"
    assert request.path == f"/admin/servers?{query}"
    assert request.header("Authorization") == f"Bearer {KEY}"


def test_nothing_from_the_gateway_commands_the_terminal(peer: ScriptedPeer) -> None:
    answer = {"servers": [{**RECORD, "model_name": HOSTILE}], "total": 1, "filters_applied": {}}
    peer.health.always(wire.json_answer(answer))
    shown, raw = admin(peer, "list"), admin(peer, "list", "--json")
    assert shown.stdout.count("\n") == 2
    assert "evil\\x1b[2J" in shown.stdout
    assert json.loads(raw.stdout) == answer, "as JSON nothing is lost"
    for text in (shown.stdout, raw.stdout):
        assert not set(text) & set("\x1b\x07\x9b\u202e")


def test_an_empty_list_says_what_to_do(peer: ScriptedPeer) -> None:
    peer.health.always(wire.json_answer({"servers": [], "total": 0, "filters_applied": {}}))
    result = admin(peer, "list")
    assert (result.returncode, result.stdout) == (0, "")
    assert "servers add" in result.stderr


def test_add_sends_every_field(peer: ScriptedPeer) -> None:
    peer.always(wire.json_answer(RECORD, 201))
    options = [
        *(
            "--served-model-name",
            "llama:8b",
            "--owner",
            'Ada "L"',
            "--email",
            "ada@example.org",
            "--description",
            "é\n\\",
        ),
        *(
            "--tag",
            "gpu, lab",
            "--tag",
            "fast",
            "--context-length",
            "4096",
            "--max-concurrency",
            "0",
            "--require-healthy",
        ),
    ]
    result = admin(peer, "add", "llama", "http://127.0.0.1:9", *options, SERVER_API_KEY="a-server-key")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Server registered.\n")
    assert "a-server-key" not in result.stdout + result.stderr
    [request] = peer.requests
    assert (request.method, request.path) == ("POST", "/admin/register")
    assert request.json() == {
        "model_name": "llama",
        "endpoint_url": "http://127.0.0.1:9",
        "served_model_name": "llama:8b",
        "api_key": "a-server-key",
        "owner_name": 'Ada "L"',
        "owner_email": "ada@example.org",
        "description": "é\n\\",
        "tags": ["gpu", "lab", "fast"],
        "context_length": 4096,
        "max_concurrency": 0,  # the gateway judges values, not the command line
        "require_healthy": True,
    }


def test_update_sends_only_what_was_given(peer: ScriptedPeer) -> None:
    peer.always(wire.json_answer(RECORD))
    result = admin(
        peer,
        "update",
        "../a b",
        "--owner",
        "Bob",
        "--clear",
        "description",
        "--clear",
        "tags",
        SERVER_API_KEY="unasked",
    )
    assert result.returncode == 0, result.stderr
    [request] = peer.requests
    assert (request.method, request.path) == ("PUT", "/admin/register/..%2Fa%20b")
    assert request.json() == {"owner_name": "Bob", "description": None, "tags": None}


def test_update_takes_a_new_server_key_when_asked_to(peer: ScriptedPeer) -> None:
    peer.always(wire.json_answer(RECORD))
    assert admin(peer, "update", "an-id", "--api-key", SERVER_API_KEY="from-variable").returncode == 0
    with terminal(peer, "update", "an-id", "--api-key") as screen:
        screen.wait_for("own key")
        screen.type("typed-unseen\n")
        assert screen.end() == 0
        assert "typed-unseen" not in screen.text
    assert [request.json() for request in peer.requests] == [{"api_key": "from-variable"}, {"api_key": "typed-unseen"}]


@pytest.mark.parametrize(("reply", "removed"), [("y\n", True), ("n\n", False), ("\n", False), ("\x03", False)])
def test_remove_asks_first_on_a_terminal(peer: ScriptedPeer, reply: str, removed: bool) -> None:
    peer.always(wire.json_answer({"message": "Server deregistered.", "registration_id": "an-id"}))
    with terminal(peer, "remove", "an-id") as screen:
        screen.wait_for("an-id?")
        assert not peer.requests
        screen.type(reply)
        assert screen.end() == (0 if removed else 130 if reply == "\x03" else 1)
        assert "Traceback" not in screen.text
    assert [request.method for request in peer.requests] == ["DELETE"] * removed


def test_remove_does_not_ask_with_yes(peer: ScriptedPeer) -> None:
    peer.always(wire.json_answer({"message": "Server deregistered.", "registration_id": "an-id"}))
    result = admin(peer, "remove", "an-id", "--yes")
    assert (result.returncode, result.stdout.splitlines()[0]) == (0, "Server deregistered.")


def test_probe_tells_the_verdict(peer: ScriptedPeer) -> None:
    probe = {"ok": False, "reason": "The connection was refused.", "response_time_ms": None}
    peer.always(wire.json_answer({**RECORD, "probe": probe}))
    result = admin(peer, "probe", "an-id")
    assert result.stdout.splitlines()[0] == "The probe failed: The connection was refused."
    assert peer.requests[0].path == "/admin/servers/an-id/probe"


# -- errors


def test_an_error_of_the_api_is_told_with_code_and_request_id(peer: ScriptedPeer) -> None:
    headers = [("X-Request-ID", "req-42"), ("Retry-After", "5")]
    peer.always(wire.error_answer(400, f"Not this: {HOSTILE}", headers, code="invalid_request", param="tags"))
    result = admin(peer, "add", "llama", "http://127.0.0.1:9")
    assert_told(result, 1, "multiverse: Not this: evil", "400", "invalid_request", "field tags", "5 s", "req-42")
    assert "\x1b" not in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["models"], ["chat", "llama", "Hello"], ["chat", "llama", "Hello", "--no-stream"]])
def test_a_gateway_that_is_not_there_is_exit_code_3(words: list[str]) -> None:
    port = free_port()
    result = run(*words, "--gateway", f"http://127.0.0.1:{port}")
    assert_told(result, 3, f"http://127.0.0.1:{port}", "multiverse serve", "MULTIVERSE_URL")


def test_something_that_speaks_no_http_is_exit_code_3(peer: ScriptedPeer) -> None:
    peer.health.always(b"SSH-2.0-OpenSSH_9.2\r\n", Fin())
    assert_told(run("models", MULTIVERSE_URL=peer.url), 3, peer.url)


def test_plain_http_behind_an_https_address_is_exit_code_3(peer: ScriptedPeer) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        subprocess.Popen(
            command("models", "--gateway", f"https://127.0.0.1:{listener.getsockname()[1]}"),
            env=environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        connection, _address = listener.accept()
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        connection.close()
        _output, errors = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "secure connection" in errors or "cannot be reached" in errors


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (wire.html_answer(200), "a web page (status 200)"),
        (wire.html_answer(502, headers=[("X-Request-ID", "tunnel-1")]), "tunnel-1"),
        (wire.answer("not json"), "something else"),
        (wire.answer("[" * 100_000), "something else"),
        (wire.answer("", 204), "status 204"),
        (wire.json_answer({"detail": "Not Found"}, 404), "status 404"),
        (wire.stream_answer(b'{"object": "li').removesuffix(wire.LAST_CHUNK), "broke off"),
    ],
    ids=["page", "error-page", "text", "deep", "empty", "other-json", "half"],
)
def test_an_answer_that_is_no_gateways_says_so(peer: ScriptedPeer, answer: bytes, told: str) -> None:
    peer.health.always(answer, Fin())
    peer.always(answer, Fin())
    assert_told(run("models", MULTIVERSE_URL=peer.url), 1, told)
    assert_told(run("chat", "llama", "Hello", MULTIVERSE_URL=peer.url), 1)


def test_a_redirect_is_told_and_not_followed(peer: ScriptedPeer, start_peer: StartPeer) -> None:
    elsewhere = start_peer()
    peer.health.always(wire.answer("", 302, headers=[("Location", f"{elsewhere.url}/admin/servers")]))
    assert_told(admin(peer, "list"), 1, elsewhere.url)
    assert not elsewhere.probes


# -- chat


def test_chat_sends_what_was_asked(peer: ScriptedPeer) -> None:
    options = ["--system", "Be brief.", "--temperature", "0.5", "--max-tokens", "9"]
    result = run("chat", "llama", "-", *options, prompt="from\nstdin", MULTIVERSE_URL=peer.url)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{peer.name}\n", "")
    [request] = peer.requests
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "from\nstdin"}]
    expected = {"model": "llama", "messages": messages, "temperature": 0.5, "max_tokens": 9, "stream": True}
    assert (request.path, request.json()) == ("/v1/chat/completions", expected)


def test_tokens_are_printed_as_they_come(peer: ScriptedPeer) -> None:
    hold = Hold()
    first = wire.STREAM_HEAD + wire.chunked(b": keep-alive\n" + wire.chat_chunk("Hel"), last_chunk=False)
    peer.script(first, hold, wire.chunked(wire.good_stream("lo"), last_chunk=True))
    with subprocess.Popen(
        command("chat", "llama", "Hi"), env=environ(MULTIVERSE_URL=peer.url), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == b"Hel"
        hold.release()
        assert process.stdout.read() == b"lo\n"
    assert process.returncode == 0


def test_a_stream_in_any_pieces_is_the_same_text(peer: ScriptedPeer) -> None:
    text = '北京 🌍 é\tthe "end"\\\n'
    body = wire.good_stream(*text).replace(b"\n", b"\r\n")
    peer.script(Send(wire.stream_answer(body, size_bytes=7), segment_bytes=5))
    peer.script(wire.STREAM_HEAD_UNTIL_CLOSE + body, Fin())
    peer.script(wire.json_answer(wire.chat_completion(text)))  # a server that knows no streams
    for _each in range(3):
        assert run("chat", "llama", "Hi", MULTIVERSE_URL=peer.url).stdout == text


def test_an_answer_does_not_command_the_terminal(peer: ScriptedPeer) -> None:
    peer.always(
        wire.stream_answer(wire.good_stream("\x1b]0;owned\x07 and \x9b31m \ud83c".encode("utf-8", "replace").decode()))
    )
    result = run("chat", "llama", "Hi", MULTIVERSE_URL=peer.url)
    assert result.stdout.startswith("\\x1b]0;owned\\x07 and \\x9b31m")


def test_no_stream_and_json_give_the_whole_answer(peer: ScriptedPeer) -> None:
    assert run("chat", "llama", "Hi", "--no-stream", MULTIVERSE_URL=peer.url).stdout == f"{peer.name}\n"
    document = json.loads(run("chat", "llama", "Hi", "--json", MULTIVERSE_URL=peer.url).stdout)
    assert document == wire.chat_completion(peer.name)
    assert not any("stream" in request.json() for request in peer.requests)


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (
            wire.sse('{"error": {"message": "The server broke off.", "code": "server_disconnected"}}'),
            "server_disconnected",
        ),
        (wire.sse('{"error": "plain words"}'), "plain words"),
        (b"", "broke off"),
        (b'data: {"choices": [{"delta": {"content": "half', "broke off"),
    ],
    ids=["error-event", "odd-error-event", "no-done", "half-event"],
)
def test_a_broken_answer_is_exit_code_1(peer: ScriptedPeer, ending: bytes, told: str) -> None:
    peer.always(wire.stream_answer(wire.sse("not json") + wire.chat_chunk("Some text") + ending))
    result = run("chat", "llama", "Hi", MULTIVERSE_URL=peer.url)
    assert (result.returncode, result.stdout) == (1, "Some text\n")
    assert told in result.stderr


def test_an_error_before_the_stream_is_exit_code_1(peer: ScriptedPeer) -> None:
    peer.always(wire.error_answer(404, "Nobody registered 'llma'. Did you mean 'llama'?", code="model_not_found"))
    assert_told(run("chat", "llma", "Hi", MULTIVERSE_URL=peer.url), 1, "Did you mean", "model_not_found")


def test_ctrl_c_ends_a_chat_with_130_and_leaves_the_gateway(peer: ScriptedPeer) -> None:
    peer.script(wire.STREAM_HEAD + wire.chunked(wire.chat_chunk("Hel"), last_chunk=False), Hold())
    with subprocess.Popen(
        command("chat", "llama", "Hi"),
        env=environ(MULTIVERSE_URL=peer.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == "Hel"
        process.send_signal(signal.SIGINT)
        _output, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors.strip() == ""
    eventually(lambda: not peer.open_connections(), "the connection is closed")


# -- text and tables


@given(strategies.text())
def test_shown_text_never_commands_a_terminal(text: str) -> None:
    forbidden = {chr(code) for code in (*range(32), *range(127, 160))}
    assert not forbidden & set(one_line(text))
    assert not (forbidden - {"\n", "\t"}) & set(flowing(text))
    assert json.loads(as_json({"value": text})) == {"value": text}


@given(strategies.lists(strategies.text(max_size=30), max_size=5), strategies.integers(24, 120))
def test_a_table_keeps_to_the_terminal(names: list[str], limit: int) -> None:
    columns = (
        Column("ID", field("id")),
        Column("NAME", field("name"), least_width=6),
        Column("MORE", field("name"), least_width=6, optional=True),
    )
    rows = [{"id": "12345678", "name": name} for name in names]
    lines = format_table(columns, rows, limit)
    assert len(lines) == len(rows) + 1
    assert all(display_width(line) <= limit for line in lines)
    assert all(line.startswith("12345678") for line in lines[1:]), "ids are never cut"


# -- the real gateway


def test_a_server_from_its_registration_to_its_end(gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    peer.model_names.append(model)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(*arguments, MULTIVERSE_URL=gateway.url, ADMIN_API_KEY=ADMIN_KEY)

    added = call("servers", "add", model, peer.url, "--owner", "Ada", "--tag", "lab", "--json")
    assert added.returncode == 0, added.stderr
    registration_id = json.loads(added.stdout)["registration_id"]
    try:
        assert model in call("servers", "list", "--model", model, "--owner", "Ada", "--tag", "lab").stdout
        assert model in call("models").stdout
        assert peer.url in call("servers", "show", registration_id).stdout
        assert call("chat", model, "Hello").stdout == f"{peer.name}\n"
        assert call("chat", model, "Hello", "--no-stream").stdout == f"{peer.name}\n"
        changed = call("servers", "update", registration_id, "--description", "é", "--clear", "tags", "--json")
        assert (json.loads(changed.stdout)["description"], json.loads(changed.stdout)["tags"]) == ("é", [])
        assert "The probe was good" in call("servers", "probe", registration_id).stdout
        assert "draining" in call("servers", "drain", registration_id).stdout
        assert_told(call("chat", model, "Hello"), 1, "no_server_available", "request id")
        assert "available" in call("servers", "resume", registration_id).stdout
        assert call("chat", model, "Hello").returncode == 0
    finally:
        removed = call("servers", "remove", registration_id, "--yes")
    assert removed.returncode == 0, removed.stderr
    assert_told(call("servers", "show", registration_id), 1, "404", "server_not_found")


def test_the_gateway_s_own_errors_are_told(gateway: GatewayProcess, model: str) -> None:
    url = {"MULTIVERSE_URL": gateway.url}
    assert_told(run("servers", "list", ADMIN_API_KEY="a-wrong-key-0123456789", **url), 1, "401", "invalid_api_key")
    assert_told(run("servers", "list", "--limit", "0", ADMIN_API_KEY=ADMIN_KEY, **url), 1, "400", "invalid_request")
    assert_told(run("chat", model, "Hello", **url), 1, "model_not_found")


# -- a terminal


class Screen:
    """One end of a pseudo-terminal, with a command at the other."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.text = ""
        self._process = process
        self._descriptor = descriptor
        self._interrupted = False

    def wait_for(self, text: str) -> None:
        """Read until `text` is on the screen."""
        while text not in self.text:
            assert self._read(), f"{text!r} did not come: {self.text!r}"

    def type(self, keys: str) -> None:
        """Type `keys`; Ctrl-C is a signal to the command, as a terminal in front of it would send it."""
        if keys == "\x03":
            self._interrupted = True
            self._process.send_signal(signal.SIGINT)
        else:
            os.write(self._descriptor, keys.encode())

    def end(self) -> int:
        """The exit code of the command, after everything it printed."""
        while self._read():
            pass
        return self._process.wait(10)

    def _read(self) -> bool:
        """Read what comes next; False at the end of the command."""
        for _second in range(10):
            if select.select([self._descriptor], [], [], 1.0)[0]:
                break
            # A signal that comes between the prompt and the read behind it waits for the next key: press again.
            if self._interrupted:
                self._process.send_signal(signal.SIGINT)
        else:
            raise AssertionError(f"nothing more came: {self.text!r}")
        try:
            piece = os.read(self._descriptor, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            return False
        self.text += piece.decode()
        return bool(piece)


@contextlib.contextmanager
def terminal(peer: ScriptedPeer, *arguments: str) -> Iterator[Screen]:
    """Run `servers …` on a pseudo-terminal of 80 columns."""
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            command("servers", *arguments),
            env=environ(MULTIVERSE_URL=peer.url, ADMIN_API_KEY=KEY, TERM="xterm"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        ) as process:
            os.close(theirs)
            try:
                yield Screen(process, ours)
            finally:
                process.kill()
    finally:
        os.close(ours)
