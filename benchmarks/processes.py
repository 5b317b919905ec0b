"""A process of the benchmark and all that it starts: pinned to a core, counted, and ended with us in any case.

Linux only (`/proc`). CPU is that of the whole tree: threads, children, and children that have ended.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

STOP_TIMEOUT_SECONDS = 5.0
LOG_TAIL_LINES = 12
INHERITED = ("PATH", "LANG", "LC_ALL")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class ProcessFailed(Exception):
    """A process ended or was not ready in time; the text carries the end of its log."""

    def summary(self) -> tuple[str, str]:
        """What happened, and the last thing that the process said."""
        lines = str(self).splitlines()
        return lines[0].rstrip(":"), lines[-1].strip()


@dataclass(frozen=True)
class Memory:
    """Memory of a process tree in bytes. PSS counts a shared page once over all who share it, RSS once for each."""

    pss_bytes: int
    rss_bytes: int


class ProcessTree:
    """A process that runs in `directory`, on `core` alone (None: anywhere), with its output in a log there."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        directory: Path,
        core: int | None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log_path = directory / f"{name.replace('/', '-').replace(' ', '-')}.log"
        with self.log_path.open("wb") as log_file, born_on(core):
            self._process = subprocess.Popen(
                mortal(command),
                env=child_environ(directory, environ or {}),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> ProcessTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the process itself runs."""
        return self._process.poll() is None

    def pids(self) -> list[int]:
        """The process and its descendants."""
        parents = {pid: int(fields[1]) for pid, fields in all_process_fields()}
        found = [self._process.pid]
        for pid in found:
            found.extend(child for child, parent in parents.items() if parent == pid)
        return found

    def cpu_seconds(self) -> float:
        """User and system time of the whole tree since its start."""
        return sum(process_cpu_seconds(pid) for pid in self.pids())

    def memory(self) -> Memory:
        """Memory of the whole tree."""
        sums = {"Pss": 0, "Rss": 0}
        for pid in self.pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    name, _, rest = line.partition(":")
                    if name in sums:
                        sums[name] += int(rest.split()[0]) * 1024
        return Memory(pss_bytes=sums["Pss"], rss_bytes=sums["Rss"])

    def failure(self, what: str) -> ProcessFailed:
        """An error with the last lines of the log."""
        text = self.log_path.read_text(encoding="utf-8", errors="replace")
        lines = [line.rstrip() for line in text.splitlines()][-LOG_TAIL_LINES:] or ["(it printed nothing)"]
        return ProcessFailed("\n    ".join([what, *lines]))

    def wait_for_line(self, start: str, timeout_seconds: float) -> str:
        """The rest of the first line of the log that begins so; raises ProcessFailed when it does not come."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            for line in self.log_path.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith(start):
                    return line.removeprefix(start).strip()
            if not self.alive:
                break
            time.sleep(0.01)
        raise self.failure(f"{self.name} did not say {start!r}:")

    def stop(self) -> None:
        """SIGTERM to the process, SIGKILL to what is left of its session after a while."""
        if self.alive:
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def child_environ(directory: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The little that any process needs: the caller's proxies, keys and settings must not matter."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**kept, "HOME": str(directory), "TMPDIR": str(directory), "PYTHONUNBUFFERED": "1", **environ}


@contextlib.contextmanager
def born_on(core: int | None) -> Iterator[None]:
    """What this thread starts meanwhile runs on that core alone."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def mortal(command: Sequence[str]) -> list[str]:
    """A command that gets SIGTERM when this thread ends, however that happens (prctl(2), PR_SET_PDEATHSIG)."""
    setpriv = shutil.which("setpriv")  # util-linux; without it only a kill -9 of ours leaves something behind
    return [setpriv, "--pdeathsig", "TERM", *command] if setpriv else list(command)


def all_process_fields() -> list[tuple[int, list[str]]]:
    """`/proc/PID/stat` of every process, from the state on (proc(5): field 3)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found.append((int(path.parent.name), path.read_text(errors="replace").rpartition(")")[2].split()))
    return found


def process_cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, and of its children that have ended; 0 when it is gone.

    The process's CPU clock is utime + stime of `/proc/PID/stat` in nanoseconds instead of ticks (clock_getcpuclockid(3)
    has the formula of its id); cutime and cstime are there in ticks only.
    """
    try:
        own_seconds = time.clock_gettime(~pid << 3 | 2)
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return own_seconds + (int(fields[13]) + int(fields[14])) / CLOCK_TICKS


def core_busy_seconds(core: int) -> float:
    """Time since boot that a core was busy for anybody, waiting for the host included (proc(5): /proc/stat)."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in rest.split()[:8])
            return (user + nice + system + irq + softirq + steal) / CLOCK_TICKS
    return 0.0


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in sockets]
