"""The command line's HTTP client: calls a gateway's API and turns whatever comes back into a value or one clear error.

Standard library only, one connection for each call, TLS verified, redirects never followed, every read timed. It knows
nothing of terminals (cli_output.py) or options (cli_options.py), and the gateway itself never uses it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from multiverse import __version__

CONNECT_TIMEOUT_SECONDS = 10.0
CALL_TIMEOUT_SECONDS = 90.0  # registering probes the server first
COMPLETION_TIMEOUT_SECONDS = 600.0  # a plain answer comes in one piece, perhaps after a wait in the gateway's queue
MAX_ANSWER_BYTES = 128 * 1024 * 1024
MAX_LINE_BYTES = 4 * 1024 * 1024
DONE = b"[DONE]"

Query = Mapping[str, str | int | None]


class CallFailed(Exception):
    """A call that gave no result; the text says why and what to do, `exit_code` is the command's."""

    exit_code = 1


class GatewayRefused(CallFailed):
    """The gateway answered with an error of its API; the text has its message, code and request id."""


class NotAnAnswer(CallFailed):
    """Something answered, but not as a gateway does: a tunnel's page, a redirect, half an answer."""


class GatewayUnreachable(CallFailed):
    """Nobody answered at this address."""

    exit_code = 3


@dataclass(frozen=True)
class GatewayAddress:
    """Where a gateway listens; `prefix` is the path before `/v1` and `/admin`, mostly empty."""

    scheme: str
    host: str
    port: int
    prefix: str

    @classmethod
    def parse(cls, text: str) -> GatewayAddress:
        """Read `http://host:port`, also with `/v1` (OpenAI's base URL) or a prefix. ValueError says what is wrong."""
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("it must be plain characters without spaces")
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it must look like http://127.0.0.1:8000 or https://gateway.example.org")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "it must not contain a user, a query or a fragment; keys go into --key or MULTIVERSE_API_KEY"
            )
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/").removesuffix("/v1").rstrip("/"))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"


@dataclass(frozen=True)
class Watched:
    """A stream that was read to its end: its headers, by their names in lower case, and each event with its moment."""

    headers: Mapping[str, str]
    arrivals: tuple[tuple[Any, float], ...]


def segment(text: str) -> str:
    """`text` as one segment of a path, whatever it contains (RFC 3986 §3.3)."""
    return quote(text, safe="", errors="replace")


class GatewayClient:
    """Calls one gateway, with one key; without a key it sends `not-needed`, as OpenAI's libraries do."""

    def __init__(self, address: GatewayAddress, key: str | None = None) -> None:
        self._address = address
        self._key = key

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """One call, with further `headers`; returns the JSON of a 2xx answer.

        Raises GatewayRefused, NotAnAnswer, GatewayUnreachable.
        """
        given = {name: str(value) for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given, errors='replace')}" if given else path
        return self._read_json_of(method, target, body, CALL_TIMEOUT_SECONDS, headers)

    def complete(self, body: Mapping[str, Any]) -> Any:
        """A plain chat completion (OpenAI API, "Create chat completion"). Raises like call()."""
        return self._read_json_of("POST", "/v1/chat/completions", body, COMPLETION_TIMEOUT_SECONDS)

    def stream(self, body: Mapping[str, Any]) -> Iterator[Any]:
        """The events of a streamed chat completion as they come, without `[DONE]`.

        A server may answer a stream request with plain JSON: that is then the only event. Raises like call(), and also
        GatewayRefused for an error event and NotAnAnswer for a stream that breaks off.
        """
        with self._connected(COMPLETION_TIMEOUT_SECONDS) as connection:
            response = self._send(connection, "POST", "/v1/chat/completions", {**body, "stream": True})
            if response.status != 200 or _media_type(response) != "text/event-stream":
                yield self._read_json(response)
                return
            for data in self._read_events(response):
                if data == DONE:
                    return
                event = _parse(data)
                if isinstance(event, dict) and event.get("error"):
                    raise _refusal(event["error"], None, response)
                yield event
            raise NotAnAnswer(
                "The answer broke off: the stream ended before it was complete. Ask again." + _request_id(response)
            )

    def watch(self, path: str, headers: Mapping[str, str]) -> Watched:
        """A stream of events and when each came, `headers` having been sent besides. Raises like call()."""
        with self._connected(CALL_TIMEOUT_SECONDS) as connection:
            response = self._send(connection, "GET", path, None, headers)
            if response.status != 200 or _media_type(response) != "text/event-stream":
                self._read_json(response)
                raise self._not_an_answer(response)
            arrivals = tuple((_parse(data), time.monotonic()) for data in self._read_events(response))
            return Watched({name.lower(): value for name, value in response.getheaders()}, arrivals)

    def _read_json_of(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        with self._connected(timeout_seconds) as connection:
            return self._read_json(self._send(connection, method, target, body, headers))

    @contextlib.contextmanager
    def _connected(self, timeout_seconds: float) -> Iterator[http.client.HTTPConnection]:
        """A connection whose reads take at most `timeout_seconds` each; closed at the end."""
        with contextlib.closing(self._new_connection()) as connection:
            with self._faults_explained():
                connection.connect()
            connection.sock.settimeout(timeout_seconds)
            yield connection

    def _new_connection(self) -> http.client.HTTPConnection:
        host, port = self._address.host, self._address.port
        if self._address.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_SECONDS)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_SECONDS, context=context)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        body: Mapping[str, Any] | None,
        further: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        headers = {
            "Accept": "application/json, text/event-stream",
            "Authorization": f"Bearer {self._key or 'not-needed'}",
            "User-Agent": f"multiverse-cli/{__version__}",
            "ngrok-skip-browser-warning": "1",  # a gateway behind a free ngrok tunnel: else it answers with a page
            **(further or {}),
        }
        content = None if body is None else json.dumps(body).encode("ascii")
        if content is not None:
            headers["Content-Type"] = "application/json"
        with self._faults_explained():
            connection.request(method, self._address.prefix + target, content, headers)
            return connection.getresponse()

    @contextlib.contextmanager
    def _faults_explained(self) -> Iterator[None]:
        """What the network does wrong becomes an error that says what to check."""
        address = self._address
        try:
            yield
        except http.client.IncompleteRead:
            raise NotAnAnswer(f"The answer of {address} broke off before it was complete. Try again.") from None
        except TimeoutError:
            raise GatewayUnreachable(
                f"The gateway at {address} did not answer in time. Is it very busy, or is the address wrong?"
            ) from None
        except ssl.SSLError as error:
            reason = error.reason or "no details"
            raise GatewayUnreachable(
                f"No secure connection to {address} ({reason}). Check that it is https, and its certificate."
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise GatewayUnreachable(
                f"The gateway at {address} cannot be reached ({reason}). Is it running (`multiverse serve`), and is "
                "the address right (--gateway, or MULTIVERSE_URL in the environment or .env)?"
            ) from None

    def _read_json(self, response: http.client.HTTPResponse) -> Any:
        with self._faults_explained():
            content = response.read(MAX_ANSWER_BYTES)
        answer = _parse(content)
        if 200 <= response.status < 300 and answer is not None:
            return answer
        error = answer.get("error") if isinstance(answer, dict) else None
        if isinstance(error, dict) and response.status >= 400:
            raise _refusal(error, response.status, response)
        raise self._not_an_answer(response)

    def _not_an_answer(self, response: http.client.HTTPResponse) -> NotAnAnswer:
        where = f"{self._address} answered with"
        if 300 <= response.status < 400:
            location = response.getheader("Location", "nowhere")
            return NotAnAnswer(
                f"{where} a redirect to {location}, which is not followed. If that is the gateway, name it in "
                "--gateway or MULTIVERSE_URL."
            )
        kind = "a web page" if _media_type(response) == "text/html" else "something else than the gateway's JSON"
        return NotAnAnswer(
            f"{where} {kind} (status {response.status}). Is this really the gateway's address (--gateway or "
            "MULTIVERSE_URL)? If it is a tunnel's, is the tunnel online?" + _request_id(response)
        )

    def _read_events(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """The data of each complete event (WHATWG HTML, "Server-sent events"), without comments and other fields."""
        lines: list[bytes] = []
        while True:
            with self._faults_explained():
                line = response.readline(MAX_LINE_BYTES)
            if not line.endswith(b"\n"):  # the end, or a line that has none: half an event counts for nothing
                return
            content = line.rstrip(b"\r\n")
            if content.startswith(b"data:"):
                lines.append(content[5:].removeprefix(b" "))
            elif not content and lines:
                yield b"\n".join(lines)
                lines = []


def _parse(content: bytes) -> Any:
    """The JSON in `content`, or None when there is none (no answer of the gateway is `null`)."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _media_type(response: http.client.HTTPResponse) -> str:
    return response.getheader("Content-Type", "").partition(";")[0].strip().lower()


def _refusal(error: Any, status: int | None, response: http.client.HTTPResponse) -> GatewayRefused:
    """OpenAI's error object in one line: message, then status, code, field and when to come back."""
    fields = error if isinstance(error, dict) else {"message": str(error)}
    facts = [str(fact) for fact in (status, fields.get("code")) if fact]
    if fields.get("param"):
        facts.append(f"field {fields['param']}")
    if status is not None and response.getheader("Retry-After"):
        facts.append(f"try again in {response.getheader('Retry-After')} s")
    details = f" ({', '.join(facts)})" if facts else ""
    return GatewayRefused(f"{fields.get('message') or 'The gateway gave no reason.'}{details}{_request_id(response)}")


def _request_id(response: http.client.HTTPResponse) -> str:
    request_id = response.getheader("X-Request-ID")
    return f" [request id {request_id}]" if request_id else ""
