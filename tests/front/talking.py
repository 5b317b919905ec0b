"""A client that sends bytes and reads answers, in the loop of the test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Answer:
    """One answer; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Talk:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, to_head: bool = False, skip_interim: bool = True) -> Answer:
        """The next answer; asyncio.IncompleteReadError when there is none."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while True:
                head = (await self.reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1")
                status_line, *lines = head.split("\r\n")
                pairs = (line.partition(": ") for line in lines)
                headers = {name.lower(): value for name, _colon, value in pairs}
                status = int(status_line.split()[1])
                if status >= 200 or not skip_interim:
                    break
            return Answer(status, headers, b"" if to_head or status < 200 else await self._body(status, headers))

    async def _body(self, status: int, headers: dict[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
            return body
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        return await self.reader.read()

    async def at_end(self) -> bool:
        """Whether the door closes without sending anything more."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            try:
                return not await self.reader.read(1)
            except ConnectionError:
                return True


@contextlib.asynccontextmanager
async def talk(port: int) -> AsyncIterator[Talk]:
    """A connection to the door at `port`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Talk(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
