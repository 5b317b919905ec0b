"""Logging into a directory of a test, and what has come to stand there."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from multiverse.config import Config, load_config
from multiverse.logs import Logs, open_logs

ADMIN_KEY = "s3cure-admin-key-of-a-test"
CLIENT_KEY = "client-key-of-a-test"
METRICS_TOKEN = "metrics-token-of-a-test"
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def config_for(directory: Path, **variables: str) -> Config:
    """Logs into `directory`, not to the console."""
    environ = {
        "ADMIN_API_KEY": ADMIN_KEY,
        "CLIENT_API_KEYS": CLIENT_KEY,
        "METRICS_TOKEN": METRICS_TOKEN,
        "LOG_DIR": str(directory),
        "ENABLE_CONSOLE_LOGGING": "false",
    }
    return load_config({**environ, **variables}, dotenv_path=None)


@contextmanager
def logging_to(directory: Path, **variables: str) -> Iterator[Logs]:
    with closing(open_logs(config_for(directory, **variables))) as logs:
        yield logs


def lines_of(directory: Path, name: str = "gateway.log") -> list[str]:
    text = (directory / name).read_bytes().decode("utf-8")
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


def objects_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(directory)]


class StuckConsole:
    """A stderr on which nobody reads until `drain`; the pipe is full from the start, so the first line blocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reading_end, writing_end = os.pipe()
        self._reader = os.fdopen(reading_end, "rb")
        self._stream = os.fdopen(writing_end, "w")
        self._received: list[bytes] = []
        self._drain = threading.Thread(target=lambda: self._received.append(self._reader.read()))
        os.set_blocking(writing_end, False)
        try:
            while True:
                os.write(writing_end, b"\n" * 1024)
        except BlockingIOError:
            os.set_blocking(writing_end, True)
        monkeypatch.setattr(sys, "stderr", self._stream)

    def drain(self) -> None:
        """Starts to read, in a thread."""
        self._drain.start()

    def finish(self) -> list[str]:
        """The lines that were written, once there is no writer any more."""
        self._stream.close()
        self._drain.join()
        self._reader.close()
        return [line for line in self._received[0].decode().splitlines() if line]
