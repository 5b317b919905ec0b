"""Who calls: API keys, kept as hashes, looked up in constant time per key.

A presented key is hashed (SHA-256 of a long random secret needs no salt) and looked up by its digest, so that comparing
leaks nothing of the stored keys. Where a key is read from is the business of web/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

ADMIN, CLIENT, ANONYMOUS = "admin", "client", "anonymous"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request: a name for logs and usage, and a role."""

    name: str
    role: str

    @property
    def is_admin(self) -> bool:
        """May use every route."""
        return self.role == ADMIN


NOBODY = Caller(ANONYMOUS, ANONYMOUS)


class Keys:
    """The known keys: the admin's, and those of clients, which are named by their place in the list."""

    def __init__(self, *, admin_key: str, client_keys: Iterable[str] = ()) -> None:
        self._callers = {_digest(key): Caller(f"client-{place}", CLIENT) for place, key in enumerate(client_keys, 1)}
        self._callers[_digest(admin_key)] = Caller(ADMIN, ADMIN)

    def identify(self, key: str) -> Caller | None:
        """The caller with this key; None when nobody has it."""
        return self.identify_digest(_digest(key))

    def identify_digest(self, digest: bytes) -> Caller | None:
        """The caller whose key has this digest."""
        return self._callers.get(digest)

    @staticmethod
    def digest(key: str) -> bytes:
        """What is kept of a key in its place."""
        return _digest(key)


def _digest(key: str) -> bytes:
    # Headers arrive as latin-1 text; anything else can be no key, but must not raise.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
