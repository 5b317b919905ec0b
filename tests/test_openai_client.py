"""The `openai` library with its default settings, retries included, against the real gateway process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

from tests import wire
from tests.conftest import StartGateway, StartPeer
from tests.operations import AnswerChat, Fin, Hold, Script, Sleep, Step
from tests.peers import ScriptedPeer
from tests.processes import GatewayProcess
from tests.waiting import eventually

MULTIBYTE = "北京 🌍 é"
OpenClient = Callable[..., OpenAI]


@pytest.fixture
def open_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenClient]:
    """OpenAI clients with default settings for a gateway, closed at the end; this machine's proxies are not asked."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    clients: list[OpenAI] = []

    def start(gateway: GatewayProcess, api_key: str = wire.PLANTED_CLIENT_KEY) -> OpenAI:
        clients.append(OpenAI(base_url=f"{gateway.url}/v1", api_key=api_key))
        return clients[-1]

    yield start
    for client in clients:
        client.close()


@pytest.fixture
def client(open_client: OpenClient, gateway: GatewayProcess) -> OpenAI:
    """A client of the shared gateway."""
    return open_client(gateway)


def ask(client: OpenAI, model: str) -> ChatCompletion:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": wire.PLANTED_PROMPT}])


def ask_streamed(client: OpenAI, model: str) -> openai.Stream[openai.types.chat.ChatCompletionChunk]:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": wire.PLANTED_PROMPT}]
    return client.chat.completions.create(model=model, messages=messages, stream=True)


def text_of(stream: openai.Stream[openai.types.chat.ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


# -- what works


def test_chat(client: OpenAI, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.json_answer(wire.chat_completion(MULTIBYTE)))
    answer = ask(client, model)
    assert answer.choices[0].message.content == MULTIBYTE
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5
    assert answer._request_id, "every answer has a request id"


def test_streamed_chat(client: OpenAI, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.stream_answer(wire.good_stream(MULTIBYTE, "!"), 1))
    assert text_of(ask_streamed(client, model)) == MULTIBYTE + "!"


def test_async_streamed_chat(client: OpenAI, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.stream_answer(wire.good_stream(MULTIBYTE, "!")))

    async def chat() -> str:
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key=client.api_key) as async_client:
            stream = await async_client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "hi"}], stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(chat()) == MULTIBYTE + "!"


def test_text_completion(client: OpenAI, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(
        wire.json_answer({"id": "c", "object": "text_completion", "choices": [{"text": MULTIBYTE, "index": 0}]})
    )
    assert client.completions.create(model=model, prompt="hi").choices[0].text == MULTIBYTE


@pytest.mark.parametrize("text", ["hello", ["one", "two"], [1, 2, 3]])
def test_embeddings(
    client: OpenAI, gateway: GatewayProcess, peer: ScriptedPeer, model: str, text: str | list[str]
) -> None:
    gateway.register(peer, model)
    data = [{"object": "embedding", "index": 0, "embedding": [0.25, -1.0]}]
    peer.script(wire.json_answer({"object": "list", "data": data, "model": model, "usage": {}}))
    assert client.embeddings.create(model=model, input=text).data[0].embedding == [0.25, -1.0]
    assert peer.requests[0].json()["input"] == text


def test_responses(client: OpenAI, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    response = {"id": "resp_1", "object": "response", "model": model, "output": [], "status": "completed"}
    events = [
        {"type": "response.output_text.delta", "delta": MULTIBYTE, "sequence_number": 1},
        {"type": "response.completed", "response": response, "sequence_number": 2},
    ]
    body = b"".join(f"event: {event['type']}\n".encode() + wire.sse(json.dumps(event)) for event in events)
    peer.script(wire.stream_answer(body))
    types = [event.type for event in client.responses.create(model=model, input="hi", stream=True)]
    assert types == ["response.output_text.delta", "response.completed"]


def test_models_with_slashes(client: OpenAI, gateway: GatewayProcess, start_peer: StartPeer, model: str) -> None:
    names = [f"org/{model}", f"{model}:free", f"a/b/c+{model}@1"]
    for name in names:
        gateway.register(start_peer(), name)
    listed = {found.id: found for found in client.models.list()}
    assert set(names) <= set(listed)
    for name in names:
        found = client.models.retrieve(name)
        assert (found.id, found.object) == (name, "model")
        assert found.created > 0
        raw = gateway.call("GET", f"/v1/models/{name}")
        assert raw.json()["id"] == name, "raw slashes work as well as %2F"
        assert (raw.json()["servers"], raw.json()["healthy_servers"]) == (1, 1)


# -- each status is the exception a user expects


EXPECTED_EXCEPTIONS: dict[str, tuple[bytes, type[openai.APIStatusError], str, str | None]] = {
    "400": (wire.error_answer(400, "bad temperature"), openai.BadRequestError, "bad temperature", None),
    "404 model": (wire.error_answer(404, "x", code="model_not_found"), openai.NotFoundError, "", "model_not_found"),
    "404 route": (wire.error_answer(404, "Not Found"), openai.NotFoundError, "", "not_found"),
    "413": (wire.error_answer(413, "too big"), openai.APIStatusError, "too big", None),
    "422": (wire.json_answer({"detail": "no messages"}, 422), openai.UnprocessableEntityError, "no messages", None),
    "500 of a server": (wire.error_answer(500, "boom"), openai.InternalServerError, "", "server_error"),
    "401 of a server": (wire.error_answer(401, "bad key"), openai.InternalServerError, "", "server_error"),
}


@pytest.mark.parametrize("name", EXPECTED_EXCEPTIONS)
def test_a_status_is_the_expected_exception(
    client: OpenAI, gateway: GatewayProcess, peer: ScriptedPeer, model: str, name: str
) -> None:
    answer, kind, message, code = EXPECTED_EXCEPTIONS[name]
    gateway.register(peer, model)
    peer.always(answer)
    with pytest.raises(kind) as raised:
        ask(client, model)
    assert message in raised.value.message
    assert raised.value.message != "", "it says what to do"
    assert raised.value.request_id, "and under which id to look for it"
    assert raised.value.request_id == raised.value.response.headers["X-Request-ID"]
    if code is not None:
        assert raised.value.code == code
    assert len(peer.requests) == 1, "asked once: the client does not multiply what the gateway has tried"


def test_an_unknown_model(client: OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        ask(client, model)
    assert raised.value.code == "model_not_found"
    assert raised.value.request_id


def test_a_timeout_is_not_retried(
    open_client: OpenClient, impatient_gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    impatient_gateway.register(peer, model)
    peer.always(Hold())
    with pytest.raises(openai.InternalServerError) as raised:
        ask(open_client(impatient_gateway), model)
    assert (raised.value.status_code, raised.value.code) == (504, "server_timeout")
    assert len(peer.requests) == 1, "one prefill, not three"


def test_a_wrong_key(start_gateway: StartGateway, open_client: OpenClient, peer: ScriptedPeer, model: str) -> None:
    gateway = start_gateway(REQUIRE_CLIENT_API_KEY="true", CLIENT_API_KEYS=f"{wire.PLANTED_CLIENT_KEY},another-key-1")
    gateway.register(peer, model)
    with pytest.raises(openai.AuthenticationError) as raised:
        ask(open_client(gateway, "wrong-key"), model)
    assert raised.value.code == "invalid_api_key"
    assert raised.value.request_id
    assert "wrong-key" not in raised.value.message
    assert not peer.requests
    assert ask(open_client(gateway), model).choices[0].message.content == peer.name


def test_the_callers_own_limit(
    start_gateway: StartGateway, open_client: OpenClient, peer: ScriptedPeer, model: str
) -> None:
    gateway = start_gateway(RATE_LIMIT_ENABLED="true", RATE_LIMIT_REQUESTS_PER_MINUTE=2)
    gateway.register(peer, model)
    client = open_client(gateway).with_options(max_retries=0)

    def ask_too_often() -> None:
        for _number in range(4):
            ask(client, model)

    with pytest.raises(openai.RateLimitError) as raised:
        ask_too_often()
    assert raised.value.code == "rate_limit_exceeded"
    assert 1 <= int(raised.value.response.headers["Retry-After"]) <= 60
    assert len(peer.requests) <= 3, "what is over the limit is not forwarded"


# -- retries


def test_retry_after_is_obeyed(client: OpenAI, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    peer.script(wire.error_answer(503, "busy", [("Retry-After", "1")]))
    assert ask(client, model).choices[0].message.content == peer.name, "default retries get through a busy moment"
    first, second = peer.requests
    assert 0.95 <= second.arrived_at - first.arrived_at <= 3.0


def test_failing_over_looks_like_nothing(
    client: OpenAI, gateway: GatewayProcess, start_peer: StartPeer, model: str
) -> None:
    script = Script(AnswerChat("good"))
    for _number in range(2):
        gateway.register(start_peer(script), model)
    script.queue(wire.error_answer(500, "boom"))
    assert ask(client, model).choices[0].message.content == "good"
    script.queue(Fin())
    assert text_of(ask_streamed(client, model)) == "good"
    assert len(script.arrivals) == 4, "two requests, two attempts each"


# -- streams


def test_keep_alives_do_not_disturb(client: OpenAI, gateway: GatewayProcess, peer: ScriptedPeer, model: str) -> None:
    gateway.register(peer, model)
    events = [b"id: 1\n" + wire.chat_chunk("slow "), b"event: message\nid: 2\n" + wire.chat_chunk(MULTIBYTE)]
    steps: list[Step] = [Sleep(0.7), wire.STREAM_HEAD]
    for event in events:
        steps += [wire.chunk(event[:20]), Sleep(0.4), wire.chunk(event[20:]), Sleep(0.4)]
    peer.script(*steps, wire.chunked(wire.finish_chunk() + wire.DONE))
    assert text_of(ask_streamed(client, model)) == "slow " + MULTIBYTE


@pytest.mark.parametrize("ending", [(Fin(),), (wire.LAST_CHUNK,)])
def test_an_error_event_is_an_api_error(
    client: OpenAI, gateway: GatewayProcess, peer: ScriptedPeer, model: str, ending: tuple[Step, ...]
) -> None:
    gateway.register(peer, model)
    peer.script(wire.STREAM_HEAD + wire.chunk(wire.chat_chunk("one")), Sleep(0.05), *ending)
    stream = ask_streamed(client, model)
    assert next(stream).choices[0].delta.content == "one"
    with pytest.raises(openai.APIError) as raised:
        text_of(stream)
    assert raised.value.code in ("server_disconnected", "stream_truncated")
    assert raised.value.message
    assert raised.value.type == "server_error"
    assert len(peer.requests) == 1


def test_an_error_behind_keep_alives_is_an_api_error(
    client: OpenAI, gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    peer.script(Sleep(0.5), wire.error_answer(400, "context too long", code="context_length_exceeded"))
    with pytest.raises(openai.APIError, match="context too long") as raised:
        text_of(ask_streamed(client, model))
    assert raised.value.code == "context_length_exceeded"
    assert len(peer.requests) == 1


def test_closing_a_stream_stops_the_server(
    client: OpenAI, gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    peer.script(wire.STREAM_HEAD, *(wire.chunk(wire.chat_chunk("tick ")), Sleep(0.05)) * 200)
    stream = ask_streamed(client, model)
    for _number in range(3):
        next(stream)
    left_at = time.monotonic()
    stream.close()
    connection = peer.requests[0].connection
    closed_at = eventually(lambda: connection.closed_at, "closing the stream stops the server within 1 s", 2.0)
    assert closed_at is not None
    assert closed_at - left_at <= 1.0


def test_the_librarys_own_headers_stay_outside(
    client: OpenAI, gateway: GatewayProcess, peer: ScriptedPeer, model: str
) -> None:
    gateway.register(peer, model)
    ask(client, model)
    (request,) = peer.requests
    leaked = [name for name, _value in request.headers if name.lower().startswith("x-stainless")]
    assert not leaked, "headers to a server come from an allow-list"
    assert request.header("Authorization") == f"Bearer {wire.PLANTED_SERVER_KEY}"
