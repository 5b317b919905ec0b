"""Run by Python at the start of a gateway in debug mode: tells of callbacks that take long through their own fault.

What asyncio itself says goes by the clock on the wall, and on a busy machine every callback is slow now and then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time

SLOW_SECONDS = 0.1
LOG = logging.getLogger("asyncio")
RUN = asyncio.Handle._run
# Of the thread that opens it; see multiverse/loop_watch.py. A gateway's loop runs in the thread that starts it.
SCHEDULER_FILE = os.open("/proc/thread-self/schedstat", os.O_RDONLY)


def own_seconds() -> float:
    """A clock that stands still while this thread wants a CPU and gets none."""
    return time.monotonic() - int(os.pread(SCHEDULER_FILE, 100, 0).split()[1]) / 1e9


def run_and_tell(handle: asyncio.Handle) -> None:
    """Stands in for `Handle._run`."""
    began = own_seconds()
    RUN(handle)
    took_seconds = own_seconds() - began
    if took_seconds > SLOW_SECONDS:
        LOG.warning("%r took %.3f seconds of its own", handle, took_seconds)


asyncio.Handle._run = run_and_tell  # type: ignore[method-assign]
