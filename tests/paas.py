"""What a PaaS does to an app, scaled: a router of its own in front, with its limits, headers and pages.

Heroku's numbers: 30 s to the first byte, 55 s between bytes, and pages in HTML for what goes wrong (its codes H10, H12,
H13, H15). Their clock runs `speed` times as fast. Sockets and threads only; nothing of the package is imported.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Collection

FIRST_BYTE_SECONDS, SILENCE_SECONDS = 30.0, 55.0
PAGE = "<!DOCTYPE html><html><body>Application error</body></html>"
CLIENT_ADDRESS = "198.51.100.7"  # RFC 5737: the address that the router saw


def free_port() -> int:
    """A port that nobody listens on now; a platform chooses it for the app."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Router:
    """Passes connections on to `target_port`, one request each; a context manager. `pages` are the codes of its own."""

    def __init__(
        self,
        target_port: int,
        *,
        speed: float,
        strips: Collection[str] = (),
        buffers: bool = False,
        most_bytes: int = 0,
    ) -> None:
        """`strips` headers of requests (lower case), `buffers` whole answers, refuses over `most_bytes`, if any."""
        self.target_port = target_port
        self._strips = frozenset(strips)
        self._buffers = buffers
        self._most_bytes = most_bytes
        self.pages: list[str] = []
        self._first_byte_seconds = FIRST_BYTE_SECONDS / speed
        self._silence_seconds = SILENCE_SECONDS / speed
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Router:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):  # a client that has left wants no page
            request = self._read_request(client)
            try:
                app = socket.create_connection(("127.0.0.1", self.target_port), timeout=self._first_byte_seconds)
            except OSError:
                self._send_page(client, "H10")
                return
            with app:
                app.sendall(request)
                self._pass_answer(app, client)

    def _read_request(self, client: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += client.recv(65536)
        head, _empty, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        given = {name.lower(): value for name, value in pairs}
        if 0 < self._most_bytes < int(given.get("content-length", 0)):
            client.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        while len(body) < int(given.get("content-length", 0)):
            body += client.recv(65536)
        before = given.get("x-forwarded-for")
        ours = {
            "X-Forwarded-For": f"{before}, {CLIENT_ADDRESS}" if before else CLIENT_ADDRESS,
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Port": "443",
            "Via": "1.1 router",
            "Connection": "close",
        }
        replaced = {name.lower() for name in ours}
        fields = [*((name, value) for name, value in pairs if name.lower() not in replaced), *ours.items()]
        lines = [first, *(f"{name}: {value}" for name, value in fields if name.lower() not in self._strips)]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def _pass_answer(self, app: socket.socket, client: socket.socket) -> None:
        app.settimeout(self._first_byte_seconds)
        begun, held = False, b""
        try:
            while data := app.recv(65536):
                begun = True
                app.settimeout(self._silence_seconds)
                held += data
                if not self._buffers:
                    client.sendall(held)
                    held = b""
            client.sendall(held)
        except TimeoutError:
            if begun:
                self.pages.append("H15")  # too late for a page: the connection is cut
            else:
                self._send_page(client, "H12")
        else:
            if not begun:
                self._send_page(client, "H13")

    def _send_page(self, client: socket.socket, code: str) -> None:
        self.pages.append(code)
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: {len(PAGE)}\r\n\r\n"
        client.sendall((head + PAGE).encode())
