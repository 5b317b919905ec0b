"""The store among processes: killed, started three at a time, without the right to write, on a full disk.

Each child is a real Python that runs one of the scripts below with the path of the database as its argument.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlite_utils import Database

from multiverse.storage.migrations import schema_history, steps
from tests.stores import opened, registration, rows_on_disk

pytestmark = pytest.mark.usefixtures("io_loop")

PROJECT = Path(__file__).parent.parent
WAIT_SECONDS = 20.0

# Saves registrations one after the other beside a heavy load of usage, and prints each id once it is acknowledged.
SAVE_UNTIL_KILLED = """
import asyncio, itertools, sys
from multiverse.storage.store import Store

async def main():
    store = Store(sys.argv[1], flush_interval_seconds=0.001)
    await store.open()
    for number in itertools.count():
        registration_id = f"{sys.argv[2]}-{number}"
        for _count in range(50):
            store.queue_usage({"request_id": registration_id, "outcome": "ok"})
        row = {"registration_id": registration_id, "model_name": "m", "endpoint_url": f"http://{registration_id}"}
        await store.save_registration({**row, "tags": [registration_id]})
        print(registration_id, flush=True)

asyncio.run(main())
"""

# Opens when it is told to, writes, and closes.
OPEN_TOGETHER = """
import asyncio, sys
from multiverse.storage.store import Store

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    store = Store(sys.argv[1])
    await store.open()
    await store.save_registration(
        {"registration_id": sys.argv[2], "model_name": "m", "endpoint_url": f"http://{sys.argv[2]}"}
    )
    store.queue_usage({"request_id": sys.argv[2]})
    await store.close()

asyncio.run(main())
"""

# Opens as a user whom file permissions stop; root is stopped by none, so it becomes nobody first.
OPEN_WITHOUT_RIGHTS = """
import asyncio, os, sys
from multiverse.errors import StoreFailed
from multiverse.storage.store import Store

if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)

async def main():
    try:
        await Store(sys.argv[1]).open()
    except StoreFailed as error:
        print(error.message)

asyncio.run(main())
"""

# Files may not grow: what a full disk does to SQLite's writes. Then they may again.
FILL_THE_DISK = """
import asyncio, os, resource, sys
from multiverse.errors import StoreFailed
from multiverse.storage.store import Store

def limit_files(size_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))

async def main():
    store = Store(sys.argv[1], flush_interval_seconds=3600)
    await store.open()
    await store.save_registration({"registration_id": "reg-1", "model_name": "m", "endpoint_url": "http://h"})
    limit_files(os.stat(sys.argv[1] + "-wal").st_size)
    for number in range(1000):
        store.queue_usage({"request_id": "x" * 1000, "status": number})
    try:
        await store.flush()
    except StoreFailed as error:
        print(error.message)
    print(await store.check())
    try:
        await store.save_registration({"registration_id": "reg-2", "model_name": "m", "endpoint_url": "http://i"})
    except StoreFailed as error:
        print(error.message)
    print(store.queued, store.dropped)
    limit_files(resource.RLIM_INFINITY)
    print(await store.check(), store.queued)
    await store.close()

asyncio.run(main())
"""


@contextmanager
def child(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs `script`; killed at the end if it still runs."""
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    with subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def output_of(process: subprocess.Popen[str]) -> str:
    """What it prints until it ends, which must be with exit code 0."""
    output, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, errors
    return output


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    acknowledged: list[str] = []
    for life in range(3):
        with child(SAVE_UNTIL_KILLED, str(path), f"life{life}") as process:
            assert process.stdout is not None
            for _count in range(10 + 7 * life):
                acknowledged.append(process.stdout.readline().strip())
            process.send_signal(signal.SIGKILL)
            # What it could still print before it died was acknowledged too; a torn last line was not.
            rest = process.stdout.read()
            acknowledged += rest[: rest.rfind("\n") + 1].split()
        assert all(line.startswith("life") for line in acknowledged)
        async with opened(path) as store:
            stored = {row["registration_id"]: row["tags"] for row in await store.load_registrations()}
            assert {registration_id: stored.get(registration_id) for registration_id in acknowledged} == {
                registration_id: [registration_id] for registration_id in acknowledged
            }
            await store.save_registration(registration(f"between-{life}"))
        assert rows_on_disk(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("attempt", range(3))
def test_three_processes_open_a_fresh_database_at_once(tmp_path: Path, attempt: int) -> None:
    path = tmp_path / "gateway.db"
    names = ["first", "second", "third"]
    with (
        child(OPEN_TOGETHER, str(path), names[0]) as first,
        child(OPEN_TOGETHER, str(path), names[1]) as second,
        child(OPEN_TOGETHER, str(path), names[2]) as third,
    ):
        together = (first, second, third)
        for process in together:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in together:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in together:
            output_of(process)
    assert sorted(rows_on_disk(path, "SELECT registration_id FROM servers")) == [(name,) for name in sorted(names)]
    assert sorted(rows_on_disk(path, "SELECT request_id FROM usage")) == [(name,) for name in sorted(names)]
    with closing(Database(path, execute_plugins=False)) as database:
        assert schema_history().pending(database) == []
        assert rows_on_disk(path, "SELECT count(*) FROM _sqlite_migrations") == [(len(steps()),)], "each step ran once"


@pytest.mark.parametrize(
    ("file_mode", "problem"),
    [(None, "permission denied"), (0o444, "permission denied"), (0o666, "is read-only")],
    ids=["no file", "read-only file", "read-only directory"],
)
async def test_without_the_right_to_write(file_mode: int | None, problem: str) -> None:
    # Not below pytest's own directory, which other users may not enter.
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "gateway.db")
        if file_mode is not None:
            async with opened(path) as store:
                await store.save_registration(registration("reg-1"))
            path.chmod(file_mode)
        Path(directory).chmod(0o555)
        try:
            with child(OPEN_WITHOUT_RIGHTS, str(path)) as process:
                message = output_of(process)
        finally:
            Path(directory).chmod(0o755)
    assert message.startswith(f"DATABASE_URL: the database '{path}' ")
    assert problem in message


def test_a_full_disk_keeps_rows_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with child(FILL_THE_DISK, str(path)) as process:
        flushed, checked, saved, counted, recovered = output_of(process).splitlines()
    assert "its disk fails or is full" in flushed
    assert "its disk fails or is full" in checked
    assert "its disk fails or is full" in saved
    assert counted == "1000 0", "the rows wait"
    assert recovered == "None 0", "and are written as soon as there is room"
    assert rows_on_disk(path, "SELECT count(*), min(status), max(status) FROM usage") == [(1000, 0, 999)]
    assert rows_on_disk(path, "SELECT registration_id FROM servers") == [("reg-1",)]
    assert rows_on_disk(path, "PRAGMA integrity_check") == [("ok",)]
