"""Rows on disk: who is registered, what probes found, what was used. `Store` is the only way in.

The only room that knows SQLite and sqlite-utils; foreign errors become `StoreFailed` here. Who can answer *now* is not
decided here: that is the registry's truth, in memory, and no request ever waits for this room.
"""

from __future__ import annotations

from multiverse.storage.store import Store

__all__ = ["Store"]
