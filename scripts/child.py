"""A process that the demo starts: its log, the address it announces, its end.

Nothing here knows what runs in the process, nor which processes there are.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

STOP_TIMEOUT_SECONDS = 10.0
LOG_TAIL_LINES = 15
INHERITED = {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR"}


class ChildFailed(Exception):
    """A process ended or was not ready in time; the message carries the last lines of its log."""


def child_environ(**settings: str) -> dict[str, str]:
    """Settings and the little that any process needs: the caller's own gateway settings or proxies must not matter."""
    kept = {name: value for name, value in os.environ.items() if name in INHERITED}
    return {**kept, "PYTHONUNBUFFERED": "1", **settings}


class Child:
    """A process that we start, whose output goes to a file, and that announces its address in one line."""

    def __init__(self, name: str, command: list[str], *, environ: dict[str, str], directory: Path) -> None:
        self.name = name
        self.log_path = directory / f"{name}.log"
        with self.log_path.open("wb") as log_file:
            # In a session of its own: Ctrl-C is for us, and we stop the children in order.
            self.process = subprocess.Popen(
                command,
                env=environ,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        """All it has printed up to now."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def address(self) -> str | None:
        """The URL it says it listens on, or None before that."""
        announced = re.search(r"listening on (http://\S+?:\d+)\b", self.output())
        return announced.group(1) if announced else None

    def require_alive(self) -> None:
        """Raises ChildFailed when the process has ended."""
        status = self.process.poll()
        if status is not None:
            raise self.failure(f"{self.name} ended with status {status}.")

    def failure(self, what: str) -> ChildFailed:
        """An error that carries the last lines of the log."""
        return ChildFailed(f"{what}\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of the log, indented under a heading."""
        lines = self.output().splitlines()[-LOG_TAIL_LINES:] or ["(nothing)"]
        return "\n".join([f"The last lines of {self.name}'s log:", *(f"  | {line}" for line in lines)])

    def stop(self) -> None:
        """SIGTERM, a wait of `STOP_TIMEOUT_SECONDS`, then SIGKILL; collects the process in any case."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
