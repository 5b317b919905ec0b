"""End to end with the real thing: gateway process, llama.cpp servers with Gemma 3 270M, the openai library.

Everything goes over REST as in a class. The answers are the model's own at temperature 0, so only what a model that
works must say is looked for. Failures that need a script belong to the tests with scripted peers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from child import Child, child_environ
from tests.conftest import StartGateway
from tests.processes import GatewayProcess
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed (pip install -e .[dev])"
)

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
MODEL_NAME = "gemma-3-270m"
STOP = "\nuser:"
RAINBOW: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What are the colors of the rainbow?"}]
STREAMS = 20
TOKENS_BEFORE_THE_KILL = 3
TOKENS_OF_A_WHOLE_STREAM = 60
START_SECONDS = 120.0
STREAMS_SECONDS = 120.0
# A real model on a busy machine takes its time; the suite's own timers are for scripted peers. No keep-alive goes out
# before the first token, so that the headers, which go out with it, can name the server.
PATIENT = {
    "REQUEST_TIMEOUT_SECONDS": 60,
    "STREAM_IDLE_TIMEOUT_SECONDS": 60,
    "STREAM_KEEPALIVE_SECONDS": 60,
    "HEALTH_CHECK_TIMEOUT_SECONDS": 10,
}


def start_llama_server(directory: Path) -> Child:
    """A llama.cpp server that has a slot for every stream; returns when it listens."""
    command = [sys.executable, str(SCRIPTS / "llama_server.py"), "--slots", str(STREAMS), "--context", "256"]
    server = Child("llama.cpp", command, environ=child_environ(), directory=directory)
    try:
        eventually(lambda: server.address() or server.require_alive(), "llama.cpp listens", START_SECONDS)
    except BaseException:
        server.stop()
        raise
    return server


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """The server that lives through all tests of this module."""
    server = start_llama_server(tmp_path_factory.mktemp("llama"))
    yield server
    server.stop()


@pytest.fixture
def doomed_llama_server(tmp_path: Path) -> Iterator[Child]:
    """A server that its test may kill."""
    server = start_llama_server(tmp_path)
    yield server
    server.stop()


def register(gateway: GatewayProcess, server: Child) -> str:
    """Register a llama.cpp server over REST; its registration_id."""
    registration = {"model_name": MODEL_NAME, "endpoint_url": server.address(), "owner_name": "a student"}
    answer = gateway.admin("POST", "/admin/register", registration)
    assert answer.status == 201, answer.body
    record = answer.json()
    assert record["health_status"] == "healthy", record
    return str(record["registration_id"])


def library(gateway: GatewayProcess) -> openai.OpenAI:
    """The openai client, without its own retries: the gateway alone has to make up for a dead server."""
    http_client = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(
        base_url=f"{gateway.url}/v1", api_key="not-needed", max_retries=0, timeout=60, http_client=http_client
    )


def test_the_library_lists_the_model_and_gets_an_answer(start_gateway: StartGateway, llama_server: Child) -> None:
    gateway = start_gateway(**PATIENT)
    register(gateway, llama_server)
    with library(gateway) as client:
        assert [model.id for model in client.models.list()] == [MODEL_NAME]
        answer = client.chat.completions.create(
            model=MODEL_NAME, messages=RAINBOW, temperature=0, max_tokens=60, stop=[STOP]
        )
    assert answer.choices[0].finish_reason == "stop"
    text = answer.choices[0].message.content
    assert text is not None
    assert "green" in text
    assert answer.usage is not None
    counted = gateway.stats()["tokens"]
    assert counted["prompt"] == answer.usage.prompt_tokens
    assert counted["completion"] == answer.usage.completion_tokens


def test_a_stream_says_what_the_plain_answer_says(start_gateway: StartGateway, llama_server: Child) -> None:
    gateway = start_gateway(**PATIENT)
    register(gateway, llama_server)
    with library(gateway) as client:
        plain = client.chat.completions.create(
            model=MODEL_NAME, messages=RAINBOW, temperature=0, max_tokens=60, stop=[STOP]
        )
        with client.chat.completions.create(
            model=MODEL_NAME, messages=RAINBOW, temperature=0, max_tokens=60, stop=[STOP], stream=True
        ) as stream:
            chunks = [chunk.choices[0] for chunk in stream]
    pieces = [choice.delta.content for choice in chunks if choice.delta.content]
    assert len(pieces) > 5, "tokens come one by one"
    assert "".join(pieces) == plain.choices[0].message.content
    assert chunks[-1].finish_reason == "stop"


@dataclass
class Outcome:
    """How one stream went for its client."""

    registration_id: str
    tokens: int = 0
    finish_reason: str | None = None
    error: openai.APIError | None = None


def consume(client: openai.OpenAI, begun: threading.Barrier) -> Outcome:
    """Read one long stream to its end, stopping at `begun` after a few tokens until all streams are as far."""
    answer = client.chat.completions.with_raw_response.create(
        model=MODEL_NAME,
        messages=RAINBOW,
        temperature=0,
        max_tokens=TOKENS_OF_A_WHOLE_STREAM,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    outcome = Outcome(answer.headers["X-Gateway-Server-ID"])
    with answer.parse() as stream:
        try:
            for chunk in stream:
                outcome.finish_reason = chunk.choices[0].finish_reason
                if chunk.choices[0].delta.content:
                    outcome.tokens += 1
                    if outcome.tokens == TOKENS_BEFORE_THE_KILL:
                        begun.wait(STREAMS_SECONDS)
        except openai.APIError as error:
            outcome.error = error
    return outcome


def consume_or_abort(client: openai.OpenAI, begun: threading.Barrier) -> Outcome:
    """consume(), which lets nobody wait for a stream that ended too soon."""
    outcome = None
    try:
        outcome = consume(client, begun)
        return outcome
    finally:
        if outcome is None or outcome.tokens < TOKENS_BEFORE_THE_KILL:
            begun.abort()


def streams_through_a_kill(client: openai.OpenAI, doomed: Child) -> list[Outcome]:
    """`STREAMS` streams side by side, and SIGKILL for one server when each has its first tokens."""
    begun = threading.Barrier(STREAMS + 1)
    with ThreadPoolExecutor(STREAMS) as threads:
        streams = [threads.submit(consume_or_abort, client, begun) for _number in range(STREAMS)]
        with contextlib.suppress(threading.BrokenBarrierError):  # what broke it is in one of the results
            begun.wait(STREAMS_SECONDS)
        doomed.process.kill()
        return [stream.result(STREAMS_SECONDS) for stream in streams]


def test_killing_one_of_two_servers_in_the_middle_of_20_streams(
    start_gateway: StartGateway, llama_server: Child, doomed_llama_server: Child
) -> None:
    gateway = start_gateway(**PATIENT)
    doomed_id = register(gateway, doomed_llama_server)
    surviving_id = register(gateway, llama_server)
    with library(gateway) as client:
        outcomes = streams_through_a_kill(client, doomed_llama_server)
        # At once, while the gateway has yet to learn from probes: every one of these is answered.
        later = [
            client.chat.completions.with_raw_response.create(
                model=MODEL_NAME, messages=RAINBOW, temperature=0, max_tokens=4
            )
            for _number in range(6)
        ]
    interrupted = [outcome for outcome in outcomes if outcome.registration_id == doomed_id]
    spared = [outcome for outcome in outcomes if outcome.registration_id == surviving_id]
    assert len(interrupted) == len(spared) == STREAMS / 2, "round robin sends half to each"
    for outcome in interrupted:
        assert outcome.error is not None, f"a broken stream looked whole: {outcome}"
        assert outcome.error.code == "server_disconnected"
        assert outcome.finish_reason is None
    for outcome in spared:
        assert outcome.error is None
        assert outcome.finish_reason == "length"
    assert [answer.headers["X-Gateway-Server-ID"] for answer in later] == [surviving_id] * len(later)
    eventually(lambda: gateway.server(doomed_id)["availability"] != "available", "the dead one is known to be", 10.0)
    assert gateway.server(surviving_id)["availability"] == "available"


def test_the_demo_answers_and_ends(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "demo.py"), "--once"]
    demo = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "green" in demo.stdout
    assert demo.stdout.count("user:") == 1, "the model does not go on with questions of its own"
    assert "First token after" in demo.stdout
