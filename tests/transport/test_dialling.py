"""From an endpoint to a connection: names, several addresses, and the policy, which is asked at every dial."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from multiverse.transport import dialling, resolving
from multiverse.transport.addresses import AddressPolicy, Endpoint, parse_endpoint
from multiverse.transport.dialling import Dialler
from multiverse.transport.failures import AddressRefused, ConnectFailed, ConnectTimeout, NameNotResolved, NoRoom
from multiverse.transport.http import StreamingHTTPClient
from multiverse.transport.messages import RequestForm, ServerRequest
from tests import wire
from tests.peers import ScriptedPeer
from tests.transport.asking import ask, begin, open_sockets
from tests.transport.conftest import MakeClient
from tests.waiting import Stopwatch, soon

OPEN = AddressPolicy(allow_private=True)
PUBLIC_ONLY = AddressPolicy(allow_private=False)

Lookup = Callable[..., list[Any]]


def found(*addresses: str) -> list[Any]:
    """What `getaddrinfo` says of a name with these addresses."""
    families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
    return [(family, 1, 6, "", (address, 0)) for family, address in zip(families, addresses, strict=True)]


def client_with(make_client: MakeClient, lookup: Lookup, policy: AddressPolicy = OPEN) -> StreamingHTTPClient:
    """A client whose names are looked up with `lookup`."""
    return make_client(dialler=Dialler(policy, lookup=lookup))


@pytest.fixture
def canary() -> Iterator[socket.socket]:
    """A listener that nobody may reach."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def untouched(canary: socket.socket) -> bool:
    """Whether nobody has connected."""
    try:
        canary.accept()[0].close()
    except BlockingIOError:
        return True
    return False


# -- addresses


async def test_an_ipv6_address(client: StreamingHTTPClient) -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "::1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await ask(client, f"http://[::1]:{port}", method="DELETE")).code == 204
    assert f"Host: [::1]:{port}\r\n".encode() in heads[0]


@pytest.mark.parametrize("first", ["127.0.0.2", "::1"])
async def test_the_next_address_is_tried(make_client: MakeClient, peer: ScriptedPeer, first: str) -> None:
    client = client_with(make_client, lambda *_name, **_settings: found(first, "127.0.0.1"))
    watch = Stopwatch()
    response = await ask(client, f"http://laptop.test:{peer.port}", connect_timeout=5.0)
    assert response.body == b"ok"
    assert watch.own_seconds < dialling.FIRST_ADDRESS_SECONDS + 2.0
    assert len(peer.requests) == 1, "and nothing is sent twice"


async def test_an_address_that_swallows_packets_leaves_time_for_the_next(
    make_client: MakeClient, peer: ScriptedPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialling, "FIRST_ADDRESS_SECONDS", 0.2)
    with socket.socket() as full:
        full.bind(("127.0.0.2", peer.port))
        full.listen(0)
        fillers = [socket.socket() for _number in range(8)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.2", peer.port))
        client = client_with(make_client, lambda *_name, **_settings: found("127.0.0.2", "127.0.0.1"))
        watch = Stopwatch()
        assert (await ask(client, f"http://laptop.test:{peer.port}", connect_timeout=2.0)).body == b"ok"
        assert 0.19 < watch.seconds < 1.5, "and not after the 2 s for all of them"
        client = client_with(make_client, lambda *_name, **_settings: found("127.0.0.2", "127.0.0.2"))
        with pytest.raises(ConnectTimeout):
            await ask(client, f"http://laptop.test:{peer.port}", connect_timeout=0.3)
        for filler in fillers:
            filler.close()


async def test_all_addresses_refuse(make_client: MakeClient, peer: ScriptedPeer) -> None:
    lookups: list[str] = []

    def lookup(host: str, *_port: object, **_settings: object) -> list[Any]:
        lookups.append(host)
        return found("127.0.0.2", "127.0.0.3")

    client = client_with(make_client, lookup)
    for _number in range(2):
        with pytest.raises(ConnectFailed) as caught:
            await ask(client, f"http://laptop.test:{peer.port}")
        assert "127.0.0" not in caught.value.reason
    assert lookups == ["laptop.test"] * 2, "addresses that were of no use are not remembered"


# -- names


async def test_a_name_is_looked_up_once_in_a_while(make_client: MakeClient, peer: ScriptedPeer) -> None:
    lookups: list[Any] = []

    def lookup(*name: Any, **settings: Any) -> list[Any]:
        lookups.append((name, settings))
        return found("127.0.0.1", "127.0.0.1")

    client = client_with(make_client, lookup)
    url = f"http://laptop.test:{peer.port}"
    await asyncio.gather(*(ask(client, url) for _number in range(20)))
    await ask(client, url)
    assert lookups == [(("laptop.test", peer.port), {"type": socket.SOCK_STREAM})]
    assert {request.header("Host") for request in peer.requests} == {f"laptop.test:{peer.port}"}


@pytest.mark.parametrize("failure", [socket.gaierror(-2, "unknown"), UnicodeError("no"), OSError("x"), ValueError()])
async def test_a_name_that_does_not_resolve(make_client: MakeClient, failure: Exception) -> None:
    def lookup(*_name: object, **_settings: object) -> list[Any]:
        raise failure

    client = client_with(make_client, lookup)
    with pytest.raises(NameNotResolved) as caught:
        await ask(client, "http://laptop.test")
    assert "laptop.test" not in caught.value.reason
    with pytest.raises(NameNotResolved):
        await Dialler(OPEN, lookup=lookup).check(parse_endpoint("http://laptop.test"))


async def test_the_systems_resolver_is_used(client: StreamingHTTPClient, peer: ScriptedPeer) -> None:
    assert (await ask(client, f"http://localhost:{peer.port}")).body == b"ok"
    with pytest.raises(NameNotResolved):
        await ask(client, "http://no-such-name.invalid", connect_timeout=20.0)


async def test_lookups_block_neither_the_loop_nor_each_other(make_client: MakeClient, peer: ScriptedPeer) -> None:
    answered = threading.Event()

    def lookup(host: str, *_port: object, **_settings: object) -> list[Any]:
        if host != "fast.test":
            answered.wait(5)
        return found("127.0.0.1")

    client = client_with(make_client, lookup)
    hanging = [begin(client, f"http://slow{number}.test:{peer.port}") for number in range(20)]
    again = [begin(client, f"http://slow0.test:{peer.port}") for _number in range(20)]
    await asyncio.sleep(0.01)
    watch = Stopwatch()
    assert (await ask(client, f"http://fast.test:{peer.port}")).body == b"ok"
    assert watch.own_seconds < 2.0
    resolving = [thread for thread in threading.enumerate() if thread.name == "resolver"]
    assert len(resolving) == 20, "one thread for each name, however many wait for it"
    assert all(thread.daemon for thread in resolving), "the end of the process need not wait for them"
    again[0].cancel()
    answered.set()
    responses = await asyncio.gather(*hanging, *again[1:])
    assert all(response.body == b"ok" for response in responses), "one that left took nobody along"
    await soon(lambda: not any(thread.is_alive() for thread in resolving), "the threads end")


async def test_hundreds_of_names_at_once_wait_for_their_turn(make_client: MakeClient, peer: ScriptedPeer) -> None:
    running = most = 0
    lock = threading.Lock()
    pause = threading.Event()

    def lookup(*_name: object, **_settings: object) -> list[Any]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        pause.wait(0.01)
        with lock:
            running -= 1
        return found("127.0.0.1")

    client = client_with(make_client, lookup)
    urls = [f"http://laptop{number}.test:{peer.port}" for number in range(200)]
    responses = await asyncio.gather(*(ask(client, url, connect_timeout=10.0) for url in urls))
    assert len(responses) == 200
    assert 1 < most <= 32


async def test_a_thread_that_does_not_start_is_nobodys_fault_and_not_the_last(
    make_client: MakeClient, peer: ScriptedPeer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client = client_with(make_client, lambda *_name, **_settings: found("127.0.0.1"))
    url = f"http://laptop.test:{peer.port}"
    with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
        patched.setattr(threading.Thread, "start", refuse)
        outcomes = await asyncio.gather(*(begin(client, url) for _number in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NoRoom] * 3, "whoever waits hears of it"
    assert [record.msg.partition(";")[0] for record in caplog.records] == [
        "this machine has no room for another connection"
    ]
    assert (await ask(client, url)).body == b"ok"


async def test_a_lookup_that_finds_no_descriptor_is_nobodys_fault(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lookup(*_name: object, **_settings: object) -> list[Any]:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    def no_room() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(resolving, "check_room", no_room)
    with pytest.raises(NoRoom):
        await ask(client_with(make_client, lookup), "http://laptop.test")


def test_ports_that_are_all_taken_are_told_apart_from_an_address_family_that_is_not_there() -> None:
    error = OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
    assert dialling._no_port_is_free(error, "127.0.0.1")
    assert not dialling._no_port_is_free(error, "::1")


async def test_a_dial_that_times_out_in_the_lookup(make_client: MakeClient) -> None:
    answered = threading.Event()

    def lookup(*_name: object, **_settings: object) -> list[Any]:
        answered.wait(5)
        raise OSError("too late")

    client = client_with(make_client, lookup)
    with pytest.raises(ConnectTimeout):
        await ask(client, "http://slow.test", connect_timeout=0.1)
    answered.set()
    await asyncio.sleep(0.02)


# -- the policy


FORBIDDEN_URLS = ["http://127.0.0.1", "http://localhost", "http://10.0.0.1", "http://[::1]", "http://x.localhost"]


@pytest.mark.parametrize("url", FORBIDDEN_URLS)
async def test_what_the_policy_forbids_is_not_dialled(make_client: MakeClient, canary: socket.socket, url: str) -> None:
    client = make_client(dialler=Dialler(PUBLIC_ONLY))
    with pytest.raises(AddressRefused):
        await ask(client, f"{url}:{canary.getsockname()[1]}")
    assert untouched(canary)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "169.254.169.254", "0.0.0.0"])
async def test_odd_spellings_are_not_dialled_even_where_private_addresses_are(
    client: StreamingHTTPClient, canary: socket.socket, host: str
) -> None:
    endpoint = Endpoint("http", host, canary.getsockname()[1], "")
    with pytest.raises(AddressRefused):
        await client.fetch(ServerRequest(RequestForm(endpoint, "/")))
    assert untouched(canary)


async def test_the_policy_is_asked_at_every_dial(
    make_client: MakeClient, peer: ScriptedPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "RESOLVED_FOR_SECONDS", 0.0)
    answers = [found("127.0.0.1"), found("0.0.0.0"), found("::", "169.254.169.254", "fe80::1%lo"), found("127.0.0.1")]
    client = client_with(make_client, lambda *_name, **_settings: answers.pop(0))
    url = f"http://rebinding.test:{peer.port}"
    assert (await ask(client, url)).body == b"ok"
    peer.close_idle_connections()
    await soon(lambda: client.idle_count == 0, "the end is noticed")
    for _number in range(2):
        with pytest.raises(AddressRefused):
            await ask(client, url)
    assert len(peer.connections) == 1, "nobody was dialled"
    assert (await ask(client, url)).body == b"ok"


async def test_only_permitted_addresses_of_a_name_are_dialled(
    make_client: MakeClient, peer: ScriptedPeer, canary: socket.socket
) -> None:
    client = client_with(make_client, lambda *_name, **_settings: found("169.254.169.254", "0.0.0.0", "127.0.0.1"))
    watch = Stopwatch()
    assert (await ask(client, f"http://laptop.test:{peer.port}")).body == b"ok"
    assert watch.own_seconds < dialling.FIRST_ADDRESS_SECONDS, "the forbidden ones cost no time"
    assert untouched(canary)


async def test_checking_does_not_dial(io_loop: object, peer: ScriptedPeer) -> None:
    await Dialler(OPEN).check(parse_endpoint(peer.url))
    with pytest.raises(AddressRefused):
        await Dialler(PUBLIC_ONLY).check(parse_endpoint(peer.url))
    assert not peer.connections


# -- leaving


async def test_a_dial_that_is_cancelled_leaks_nothing(make_client: MakeClient, peer: ScriptedPeer) -> None:
    dialler = Dialler(OPEN, lookup=lambda *_name, **_settings: found("127.0.0.2", "127.0.0.1"))
    client = make_client(dialler=dialler, idle_seconds=0.0)
    before = open_sockets()
    await ask(client, f"http://laptop.test:{peer.port}")
    for turns in range(30):
        exchange = begin(client, f"http://laptop{turns}.test:{peer.port}", method="DELETE")
        for _turn in range(turns):
            await asyncio.sleep(0)
        exchange.cancel()
    await soon(lambda: not client.connections and open_sockets() <= before, "no socket is left")


@pytest.mark.skipif(sys.platform != "linux", reason="is about what Linux does")
async def test_a_machine_whose_program_reads_late_is_not_gone(make_client: MakeClient) -> None:
    """It acknowledges all that finds room; Linux' TCP_USER_TIMEOUT would end the connection all the same."""
    body = bytes(4_000_000)

    def read_late() -> None:
        connection, _address = listener.accept()
        with connection:
            threading.Event().wait(1.5)
            left = len(body)
            with contextlib.suppress(ConnectionError):  # As the other side will say.
                while left > 0 and (piece := connection.recv(1_000_000)):
                    left -= len(piece)
                connection.sendall(wire.answer(b"ok"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        reader = threading.Thread(target=read_late)
        reader.start()
        client = make_client(dialler=Dialler(OPEN, absence_seconds=0.4))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        response = await ask(client, url, method="POST", body=body)
        assert response.body == b"ok"
        (connection,) = client.connections
        assert connection.inlet is not None
        opened = connection.inlet.get_extra_info("socket")
        assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 400, "from now on as before"
        reader.join()
