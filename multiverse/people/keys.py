"""Who calls: API keys, kept as hashes in memory, looked up in the same time whether they are right or wrong.

A presented key is hashed (SHA-256 of a long random secret needs no salt) and looked up by its digest, so that comparing
leaks nothing of the stored keys. Where a key is read from is the business of web/; who gets one, of keyring.py.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from multiverse.clock import Clock
from multiverse.errors import InvalidRequest

ADMIN, STUDENT, READER, ANONYMOUS = "admin", "student", "reader", "anonymous"
ROLES = (ADMIN, STUDENT, READER)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request. `key_id` is what usage is counted under; None in `models` and limits is "no own one"."""

    name: str
    role: str
    key_id: str = ANONYMOUS
    models: frozenset[str] | None = None
    expires_unix: float | None = None
    weight: int = 1
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    requests_at_once: int | None = None

    @property
    def is_admin(self) -> bool:
        """May use every route."""
        return self.role == ADMIN

    @property
    def may_own_servers(self) -> bool:
        """May register servers, and change and remove those."""
        return self.role in (ADMIN, STUDENT)

    @property
    def has_own_limits(self) -> bool:
        """Whether the key was given limits of its own."""
        return not (self.requests_per_minute is self.tokens_per_day is self.requests_at_once is None)

    def may_ask(self, model_name: str) -> bool:
        """Whether the key's list of models, if it has one, contains `model_name`."""
        return self.models is None or model_name in self.models


NOBODY = Caller(ANONYMOUS, ANONYMOUS)


class Keys:
    """The known keys by their digests: the admin's, those of the settings (readers named by their place), others."""

    def __init__(self, *, admin_key: str, client_keys: Iterable[str] = (), clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._callers: dict[bytes, tuple[bytes, Caller]] = {}
        self._digests: dict[str, bytes] = {}
        for place, key in enumerate(client_keys, 1):
            self.put(digest_of(key), Caller(f"client-{place}", READER, key_id=f"client-{place}"))
        self.put(digest_of(admin_key), Caller(ADMIN, ADMIN, key_id=ADMIN))

    def put(self, digest: bytes, caller: Caller) -> None:
        """From now on the key with this digest is `caller`'s; whatever was known of that `key_id` is replaced."""
        self.drop(caller.key_id)
        self._callers[digest] = digest, caller
        self._digests[caller.key_id] = digest

    def drop(self, key_id: str) -> None:
        """The key with this id is nobody's any more."""
        digest = self._digests.pop(key_id, None)
        if digest is not None:
            self._callers.pop(digest, None)

    def has(self, key_id: str) -> bool:
        """Whether a key with this id is somebody's."""
        return key_id in self._digests

    def ids_of(self, names: Iterable[str], *, param: str) -> tuple[str, ...]:
        """The ids of the keys with these names or ids, each once.

        Raises InvalidRequest for a name that nobody's key has, or several have.
        """
        found = []
        for name in names:
            ids = self._ids_of_one(name)
            if not ids:
                raise InvalidRequest(f"Nobody's key here is named '{name}', nor has it this id. Ask them.", param=param)
            if len(ids) > 1:
                raise InvalidRequest(
                    f"{len(ids)} keys are named '{name}'. Give the id of the right one (key-…): it came with the key, "
                    "and the admin has a list.",
                    param=param,
                )
            found += ids
        return tuple(dict.fromkeys(found))

    def _ids_of_one(self, name: str) -> list[str]:
        if name in self._digests:
            return [name]
        wanted = name.casefold()
        return [caller.key_id for _digest, caller in self._callers.values() if caller.name.casefold() == wanted]

    def names_of(self, key_ids: Iterable[str]) -> list[str]:
        """What `ids_of` would take for these keys: names, ids where a name is not one key's only; none for revoked.

        Ids as well for names like "Hopper, Grace": where names are written with commas between, these would be two.
        """
        known = [key_id for key_id in key_ids if key_id in self._digests]
        names = [(key_id, self._callers[self._digests[key_id]][1].name) for key_id in known]
        return [name if self._ids_of_one(name) == [key_id] and "," not in name else key_id for key_id, name in names]

    def identify(self, key: str) -> Caller | None:
        """The caller with this key; None when nobody has it, or it has expired."""
        return self.identify_digest(digest_of(key))

    def identify_digest(self, digest: bytes) -> Caller | None:
        """The caller whose key has this digest; None as above."""
        known = self._callers.get(digest)
        if known is None or not hmac.compare_digest(digest, known[0]):
            return None
        caller = known[1]
        if caller.expires_unix is not None and caller.expires_unix <= self._clock.unix_seconds():
            return None
        return caller


def digest_of(secret: str) -> bytes:
    """What is kept of a key, of a claim code or of a session's id."""
    # Headers arrive as latin-1 text; anything else can be no secret of ours, but must not raise.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
