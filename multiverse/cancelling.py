"""Whose cancellation a `CancelledError` is: the running task's own, or that of something the task waited for.

The first must go on, or nothing could end the task (asyncio's documentation of `Task.cancel`). The second is a fault
like any other: whoever the task works for still waits for an answer.
"""

from __future__ import annotations

import asyncio


def is_cancelled_itself() -> bool:
    """Whether the task that runs is asked to end. To be called where a `CancelledError` has been caught."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
