"""Sessions of browsers: an opaque id stands for a key, so that the key itself need not stay in the browser.

Only hashes are kept, of ids and keys alike, and only in memory: after a restart people sign in again. A session is
worth what its key is worth at that moment; one that was revoked takes its sessions along.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict

from multiverse.clock import Clock
from multiverse.people.keys import Caller, Keys, digest_of

MOST_SESSIONS = 10_000
MOST_SESSIONS_OF_A_KEY = 200


class Sessions:
    """Who is signed in. A session ends `idle_seconds` after its last use, or when it is ended."""

    def __init__(self, *, keys: Keys, clock: Clock, idle_seconds: float) -> None:
        self._keys = keys
        self._clock = clock
        self.idle_seconds = idle_seconds
        # Digest of the id → digest of the key and the moment of the last use; whoever was seen last stands last.
        self._sessions: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        # Digest of the key → digests of its sessions, in the same order.
        self._of_key: dict[bytes, OrderedDict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, key: str) -> str | None:
        """A new session of whoever has `key`: its id, 256 bits that are told nobody else. None for an unknown key."""
        if self._keys.identify(key) is None:
            return None
        session_id = secrets.token_urlsafe(32)
        digest, key_digest = digest_of(session_id), digest_of(key)
        self._sessions[digest] = (key_digest, self._clock.monotonic())
        own = self._of_key.setdefault(key_digest, OrderedDict())
        own[digest] = None
        if len(own) > MOST_SESSIONS_OF_A_KEY:
            self._drop(next(iter(own)))  # Who signs in again and again signs out nobody else.
        self._forget_old()
        return session_id

    def caller(self, session_id: str) -> Caller | None:
        """Who is signed in under this id; None when nobody is (any more)."""
        digest = digest_of(session_id)
        known = self._sessions.get(digest)
        if known is None:
            return None
        key_digest, used_seconds = known
        caller = self._keys.identify_digest(key_digest)
        now = self._clock.monotonic()
        if caller is None or now - used_seconds > self.idle_seconds:
            self._drop(digest)
            return None
        self._sessions[digest] = (key_digest, now)
        self._sessions.move_to_end(digest)
        self._of_key[key_digest].move_to_end(digest)
        return caller

    def end(self, session_id: str) -> None:
        """Sign out; an unknown id is none."""
        self._drop(digest_of(session_id))

    def _drop(self, digest: bytes) -> None:
        known = self._sessions.pop(digest, None)
        if known is not None:
            own = self._of_key[known[0]]
            del own[digest]
            if not own:
                del self._of_key[known[0]]

    def _forget_old(self) -> None:
        """Drop who has not been seen for too long, and beyond `MOST_SESSIONS` whoever was not seen for longest."""
        before = self._clock.monotonic() - self.idle_seconds
        while self._sessions:
            oldest = next(iter(self._sessions))
            if len(self._sessions) <= MOST_SESSIONS and self._sessions[oldest][1] >= before:
                return
            self._drop(oldest)
