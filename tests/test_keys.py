"""Who a key belongs to."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiverse.people.keys import ADMIN, NOBODY, READER, Keys
from tests.bench import UNHURRIED

ADMIN_KEY = "an-admin-key-of-the-tests"
CLIENT_KEYS = ("sk-one-of-a-client", "sk-two-of-a-client")


@pytest.fixture
def keys() -> Keys:
    return Keys(admin_key=ADMIN_KEY, client_keys=CLIENT_KEYS)


def test_who_is_who(keys: Keys) -> None:
    admin, *clients = (keys.identify(key) for key in (ADMIN_KEY, *CLIENT_KEYS))
    assert admin is not None
    assert (admin.name, admin.role, admin.is_admin) == ("admin", ADMIN, True)
    assert [(client.name, client.role, client.is_admin) for client in clients if client] == [
        ("client-1", READER, False),
        ("client-2", READER, False),
    ]
    assert not NOBODY.is_admin


@pytest.mark.parametrize(
    "key",
    [
        "",
        " ",
        ADMIN_KEY[:-1],
        ADMIN_KEY + " ",
        ADMIN_KEY.upper(),
        ",".join(CLIENT_KEYS),
        "admin",
        "é\udc80\U0001f30d",
        "x" * 1_000_000,
        hashlib.sha256(ADMIN_KEY.encode()).hexdigest(),
        hashlib.sha256(ADMIN_KEY.encode()).digest().decode("latin-1"),
    ],
    ids=range(11),
)
def test_what_is_no_key(keys: Keys, key: str) -> None:
    assert keys.identify(key) is None


@UNHURRIED
@given(key=st.text(st.characters()))
def test_no_text_makes_it_fail(key: str) -> None:
    keys = Keys(admin_key=ADMIN_KEY, client_keys=CLIENT_KEYS)
    assert (keys.identify(key) is not None) is (key in (ADMIN_KEY, *CLIENT_KEYS))


def test_the_admins_key_stays_the_admins() -> None:
    caller = Keys(admin_key=ADMIN_KEY, client_keys=[ADMIN_KEY]).identify(ADMIN_KEY)
    assert caller is not None
    assert caller.is_admin


def test_no_key_is_kept(keys: Keys) -> None:
    kept = repr(vars(keys))
    assert not any(key in kept for key in (ADMIN_KEY, *CLIENT_KEYS)), "only what it hashes to"
