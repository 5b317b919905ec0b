"""How many files and sockets the process may have open, and how a lack of them is told apart from others' faults.

Each client and each server takes one, and what the shell gives (1024, on macOS 256) is soon used up. What the gateway's
own machine lacks is nobody else's fault; it is logged once a minute at most, however many requests fail by it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from typing import TypeGuard

from multiverse.clock import Clock

LOG = logging.getLogger(__name__)

MOST_OPEN_FILES = 1_048_576
MOST_OPEN_FILES_ON_MACOS = 10_240  # OPEN_MAX: setrlimit(2) refuses more there, whatever the hard limit says.
TOLD_EVERY_SECONDS = 60.0
OWN_LACKS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def raise_limit() -> None:
    """Raise the process's soft limit of open files to its hard limit, as far as the system lets it."""
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    most = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    for wanted in (most, MOST_OPEN_FILES_ON_MACOS):
        if wanted <= soft:
            return
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return


def limit() -> int | None:
    """How many files and sockets may be open at a time; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def is_own_lack(error: object) -> TypeGuard[OSError]:
    """Whether `error` says that this machine has no descriptor, buffer or memory left for another connection."""
    return isinstance(error, OSError) and error.errno in OWN_LACKS


def check_room() -> None:
    """Raises OSError when not one more file can be opened: for calls that keep to themselves why they failed."""
    os.close(os.open(os.devnull, os.O_RDONLY))


class LackLog:
    """Tells the admin in the log what this machine lacks, once in a while."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told_seconds = float("-inf")

    def note(self, error: BaseException) -> None:
        """Something has just failed by `error`."""
        now = self._clock.monotonic()
        if now < self._told_seconds + TOLD_EVERY_SECONDS:
            return
        self._told_seconds = now
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        fields = {"reason": reason, "limit_of_open_files": limit()}
        LOG.error(
            "this machine has no room for another connection; allow the gateway more open files: `ulimit -n`, "
            "LimitNOFILE= of systemd, --ulimit of Docker",
            extra={"fields": fields},
        )
