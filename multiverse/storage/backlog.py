"""Rows that wait to be written: bounded, in memory, safe to fill from one thread and to empty from another.

Adding never blocks on the disk. Nothing here knows SQLite. When rows come faster than they can be written, the oldest
are dropped and counted: recent usage is worth more than old, and memory is worth more than both.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

Row = dict[str, Any]
# Of `usage`, which gets one for every request: the values of its columns, in their order.
UsageRow = tuple[Any, ...]
Waiting = TypeVar("Waiting", Row, UsageRow)
# column -> (number of the change, value): the number tells what is older than a registration that was saved meanwhile
Changes = dict[str, tuple[int, Any]]


class Mark(NamedTuple):
    """A moment in the backlog's life, by what had been added: changes of state, and rows of usage."""

    changes: int
    usage: int


@dataclass
class Batch:
    """What one transaction writes; `states` maps a registration_id to its changes."""

    usage: list[UsageRow] = field(default_factory=list)
    probes: list[Row] = field(default_factory=list)
    states: dict[str, Changes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.usage) + len(self.probes) + len(self.states)

    def add(self, other: Batch) -> None:
        """What `other` holds is in this one as well."""
        self.usage += other.usage
        self.probes += other.probes
        self.states |= other.states

    def halves(self) -> tuple[Batch, Batch]:
        """Two that are written one after the other as this one would be."""
        usage = len(self) // 2
        probes = max(usage - len(self.usage), 0)
        states, order = max(probes - len(self.probes), 0), list(self.states.items())
        return (
            Batch(self.usage[:usage], self.probes[:probes], dict(order[:states])),
            Batch(self.usage[usage:], self.probes[probes:], dict(order[states:])),
        )


class Backlog:
    """A queue of usage rows and of probe rows, each of at most `limit`, and the last state of each server.

    One batch is taken at a time; while it is out, its rows count as waiting, and as many again may queue up behind it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Held for microseconds, never during a write.
        self._lock = threading.Lock()
        self._usage: deque[UsageRow] = deque()
        self._probes: deque[Row] = deque()
        self._states: dict[str, Changes] = {}
        self._last_change = 0
        self._usage_gone = 0  # Rows that were added and are no more in the queue.
        self._taken = 0
        self._dropped = 0

    def __len__(self) -> int:
        """Rows not yet on disk."""
        with self._lock:
            return len(self._usage) + len(self._probes) + len(self._states) + self._taken

    @property
    def dropped(self) -> int:
        """Rows lost since the start."""
        return self._dropped

    def add_usage(self, row: UsageRow) -> None:
        """One row for `usage`; the oldest gives way when there are too many."""
        with self._lock:
            self._usage.append(row)
            if len(self._usage) > self._limit:
                self._trim_usage()

    def add_probe(self, row: Row) -> None:
        """One row for `health_checks`, likewise."""
        with self._lock:
            self._probes.append(row)
            self._trim_probes()

    def add_state(self, registration_id: str, changes: Mapping[str, Any]) -> None:
        """The last value of each column wins."""
        with self._lock:
            self._last_change += 1
            numbered = {column: (self._last_change, value) for column, value in changes.items()}
            self._states.setdefault(registration_id, {}).update(numbered)

    def mark(self) -> Mark:
        """This moment: says later what was added before it."""
        with self._lock:
            return Mark(self._last_change, self._usage_gone + len(self._usage))

    def take(self, rows: int, mark: Mark) -> Batch:
        """At most `rows` of usage up to `mark` and of probes, oldest first, and the changes of state up to `mark`.

        Whoever counts usage in memory from `mark` on finds on disk what came before, and nothing else. Follow it with
        `put_back` or `written`.
        """
        with self._lock:
            older_usage = max(min(rows, mark.usage - self._usage_gone), 0)
            batch = Batch(usage=_take_first(self._usage, older_usage), probes=_take_first(self._probes, rows))
            self._usage_gone += len(batch.usage)
            for registration_id, changes in self._states.items():
                older = {column: change for column, change in changes.items() if change[0] <= mark.changes}
                if older:
                    batch.states[registration_id] = older
            for registration_id, older in batch.states.items():
                self._forget(registration_id, older, mark)
            self._taken = len(batch)
            return batch

    def written(self, dropped: int = 0) -> None:
        """The batch is on disk, without the rows that can never be written."""
        with self._lock:
            self._taken = 0
            self._dropped += dropped

    def put_back(self, batch: Batch) -> None:
        """The batch could not be written: it comes first again; a newer change of state wins over an older one."""
        with self._lock:
            self._taken = 0
            self._usage.extendleft(reversed(batch.usage))
            self._usage_gone -= len(batch.usage)
            self._trim_usage()
            self._probes.extendleft(reversed(batch.probes))
            self._trim_probes()
            for registration_id, older in batch.states.items():
                self._states[registration_id] = {**older, **self._states.get(registration_id, {})}

    def forget(self, registration_id: str, columns: Collection[str], mark: Mark) -> None:
        """A registration was saved as it was at `mark`: older changes to these columns must not be written over it."""
        with self._lock:
            self._forget(registration_id, columns, mark)

    def _forget(self, registration_id: str, columns: Collection[str], mark: Mark) -> None:
        changes = self._states.get(registration_id, {})
        for column in columns:
            if column in changes and changes[column][0] <= mark.changes:
                del changes[column]
        if not changes:
            self._states.pop(registration_id, None)

    def _trim_usage(self) -> None:
        while len(self._usage) > self._limit:
            self._usage.popleft()
            self._usage_gone += 1
            self._dropped += 1

    def _trim_probes(self) -> None:
        while len(self._probes) > self._limit:
            self._probes.popleft()
            self._dropped += 1


def _take_first(queue: deque[Waiting], count: int) -> list[Waiting]:
    return [queue.popleft() for _ in range(min(count, len(queue)))]
