"""What is taken out of a log text, what is left alone, and how control characters are written."""

from __future__ import annotations

import json
import random
import threading
import time
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiverse import redaction
from multiverse.redaction import REDACTED, TEXT_MAX_LENGTH, Redactor, escape_controls

ADMIN_KEY = "admin+key/with=signs&16"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-123", "Authorization: [redacted]"),
        ("authorization: Basic dXNlcjpwYXNz then more", "authorization: [redacted] then more"),
        ("AUTHORIZATION=Token abc", "AUTHORIZATION=[redacted]"),
        ("Authorization: Odd-Scheme abc\nHost: here", "Authorization: [redacted]\nHost: here"),
        ("{'Authorization': 'Bearer abc', 'Accept': '*/*'}", "{'Authorization': [redacted], 'Accept': '*/*'}"),
        ("[(b'authorization', b'Bearer abc')]", "[(b'authorization', [redacted])]"),
        (r'"{\"authorization\": \"Bearer abc\", \"n\": 1}"', r'"{\"authorization\": [redacted], \"n\": 1}"'),
        ("Proxy-Authorization: Basic abc", "Proxy-Authorization: [redacted]"),
        ("got Bearer abc, and more", "got Bearer [redacted], and more"),
        ("bearer%20abc", "bearer%20[redacted]"),
        ("X-API-Key: abc def", "X-API-Key: [redacted] def"),
        ("x-api-key:abc", "x-api-key:[redacted]"),
        ("api_key=abc&model=m", "api_key=[redacted]&model=m"),
        ('{"api_key": "a\\"bc", "model": "m"}', '{"api_key": [redacted], "model": "m"}'),
        ("{'api_key': 'it\\'s', 'model': 'm'}", "{'api_key': [redacted], 'model': 'm'}"),
        ("apiKey='never closed", "apiKey=[redacted]"),
        ("CLIENT_API_KEYS=one,two three", "CLIENT_API_KEYS=[redacted] three"),
        ("client_api_keys=('one', 'two'), port=1", "client_api_keys=[redacted], port=1"),
        ("password: hunter2", "password: [redacted]"),
        ("Cookie: session=abc; other=def\nHost: h", "Cookie: [redacted]\nHost: h"),
        ("Set-Cookie: session=abc; Path=/", "Set-Cookie: [redacted]"),
        ("sk-abcdef123456", "[redacted]"),
        ("key sk-proj-ab_cd-ef123 refused", "key [redacted] refused"),
        ("mv-0123456789abcdef", "[redacted]"),
        ("hf_abcdefghijklmnopqrstuv", "[redacted]"),
        ("http://user:pass@host:1/v1", "http://[redacted]@host:1/v1"),
        ("https://token@host/v1", "https://[redacted]@host/v1"),
        ("postgresql://user:p@ss:word@host/db", "postgresql://[redacted]@host/db"),
        ("GET /metrics?token=abc&x=1", "GET /metrics?token=[redacted]&x=1"),
        ("/v1/models?key=abc HTTP/1.1", "/v1/models?key=[redacted] HTTP/1.1"),
        ("/a?x=1;access_token=abc#top", "/a?x=1;access_token=[redacted]"),
        ("key=abc&x=1", "key=[redacted]&x=1"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, expected: str) -> None:
    assert Redactor().redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "server registered model_name=gemma-3 has_api_key=true",
        "has_api_key: false, require_client_api_key=False, metrics_token=None, api_key: null",
        "prompt_tokens=12 completion_tokens=34 first_token_ms=5 tokens: 46",
        "http://localhost:8000/v1/models?limit=5 answered 200",
        "mail to owner@example.org about https://host/v1",
        "key_name=alice monkey=banana",
        "task-force-of-the-class, disk-space-is-low, sk-learn",
        "author: somebody",
        "北京 🌍 é",
        "",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert Redactor([ADMIN_KEY]).redact(text) == text


@pytest.mark.parametrize(
    "spelled",
    [
        ADMIN_KEY,
        quote(ADMIN_KEY),
        quote(ADMIN_KEY, safe=""),
        f"<{ADMIN_KEY}>",
        f"x{ADMIN_KEY}x",
        f"{ADMIN_KEY}{ADMIN_KEY}",
    ],
)
def test_known_secrets_are_found_wherever_they_stand(spelled: str) -> None:
    clean = Redactor([ADMIN_KEY]).redact(f"before {spelled} after")
    assert spelled not in clean
    assert ADMIN_KEY not in clean
    assert clean.startswith("before ")
    assert clean.endswith(" after")
    assert REDACTED in clean


def test_one_look_at_many_texts() -> None:
    redactor = Redactor([ADMIN_KEY])
    plain = ["request", "gemma-3:8b", "Ada L", "", "two\nlines"]
    assert redactor.finds_nothing_in([])
    assert redactor.finds_nothing_in(plain * 100)
    assert redactor.finds_nothing_in(["x" * TEXT_MAX_LENGTH] * 3)
    for text in (ADMIN_KEY, "Bearer abc", "sk-abcdef123456", "x" * (TEXT_MAX_LENGTH + 1)):
        assert redactor.redact(text) != text
        assert not redactor.finds_nothing_in([*plain, text, *plain])
    assert not redactor.finds_nothing_in(["x" * TEXT_MAX_LENGTH] * 4), "no batch takes long to be looked at"


def test_known_secrets_in_json_and_repr() -> None:
    secret = "quote\"back\\slash's"
    redactor = Redactor([secret])
    assert redactor.redact(json.dumps({"note": secret})) == '{"note": "[redacted]"}'
    assert "slash" not in redactor.redact(repr([secret]))


def test_longest_secret_first() -> None:
    assert Redactor(["class-key", "class-key-two"]).redact("the class-key-two") == "the [redacted]"


def test_short_secrets_are_whole_words_and_tiny_ones_are_left() -> None:
    redactor = Redactor(["ollama", "abc", ""])
    assert redactor.redact("ollama, ollamas, ollama/x, abc") == "[redacted], ollamas, [redacted]/x, abc"
    assert Redactor(["seven-7", "eight--8"]).redact("xseven-7 seven-7 xeight--8") == "xseven-7 [redacted] x[redacted]"


def test_secrets_added_at_run_time() -> None:
    redactor = Redactor(["known-from-start"])
    assert redactor.redact("known-from-start added-later") == "[redacted] added-later"
    redactor.add("added-later")
    redactor.add("added-later")
    assert redactor.redact("known-from-start added-later") == "[redacted] [redacted]"


def test_run_time_secrets_are_bounded_and_those_of_the_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiverse.redaction.RUNTIME_SECRETS_MAX", 3)
    redactor = Redactor(["from-the-settings"])
    for number in range(5):
        redactor.add(f"server-key-{number}")
    text = "from-the-settings " + " ".join(f"server-key-{number}" for number in range(5))
    assert redactor.redact(text) == "[redacted] server-key-0 server-key-1 [redacted] [redacted] [redacted]"


def test_a_secret_comes_and_goes_with_all_its_spellings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiverse.redaction.RUNTIME_SECRETS_MAX", 8)
    rng, fixed = random.Random(5), ["from-the-settings", "a/b+c"]
    # Some are spelled like another one, quoted; some are short, and some only as long as that when they are quoted.
    pool = ["a/b+c", "a%2Fb%2Bc", "x y z", "x+y+z", "x%20y%20z", "p/q", "p%2Fq", "wörd", 'say "hi" twice', "lang/er"]
    pool += [f"server-key-{number}" for number in range(8)]
    text = " ".join([*pool, *map(quote, pool), *map(json.dumps, pool)])
    redactor = Redactor(fixed)
    latest: dict[str, None] = {}
    for _round in range(200):
        secret = rng.choice(pool)
        redactor.add(secret)
        if secret not in fixed:
            latest.pop(secret, None)
            latest[secret] = None
        if len(latest) > 8:
            del latest[next(iter(latest))]
        assert redactor.redact(text) == Redactor([*fixed, *latest]).redact(text)


def test_one_more_secret_costs_what_one_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    spell = redaction._spellings

    def counted(secret: str) -> set[str]:
        looked_at.append(secret)
        return spell(secret)

    monkeypatch.setattr(redaction, "_spellings", counted)
    keys = [f"server-key-{number}" for number in range(100)]
    redactor = Redactor(["from-the-settings"])
    for key in ["from-the-settings", *keys, *keys, "", keys[7]]:
        redactor.add(key)
    assert looked_at == ["from-the-settings", *keys], "each once: it happens on the event loop"


def test_secrets_are_added_by_several_threads_while_texts_are_redacted() -> None:
    redactor = Redactor([ADMIN_KEY])
    leaks: list[str] = []

    def add_and_look(thread_number: int) -> None:
        for number in range(50):
            secret = f"secret-of-{thread_number}-number-{number}"
            redactor.add(secret)
            clean = redactor.redact(f"now {secret} {ADMIN_KEY}")
            if secret in clean or ADMIN_KEY in clean:
                leaks.append(clean)

    threads = [threading.Thread(target=add_and_look, args=(thread_number,)) for thread_number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = " ".join(f"secret-of-{left}-number-{right}" for left in range(4) for right in range(50))
    assert leaks == []
    assert "secret-of" not in redactor.redact(everything)


@given(st.text(), st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=8), st.text())
def test_no_known_secret_survives_any_surroundings(before: str, secret: str, after: str) -> None:
    clean = Redactor([secret]).redact(before + secret + after)
    # What is left of the surroundings may itself spell the secret only by spelling the replacement.
    assert secret not in clean.replace(REDACTED, "\0") or secret in REDACTED


@given(
    st.lists(st.sampled_from([*"ab:=@/?&'\"\\ ,[(\n", "api_key", "authorization", "bearer", "cookie", "://", "sk-"]))
)
def test_redaction_is_total(parts: list[str]) -> None:
    text = "".join(parts)
    clean = Redactor().redact(text)
    assert clean == text or REDACTED in clean


def test_long_texts_are_cut_and_no_secret_is_torn_apart() -> None:
    redactor = Redactor([ADMIN_KEY])
    assert redactor.redact("a" * TEXT_MAX_LENGTH) == "a" * TEXT_MAX_LENGTH
    assert (
        redactor.redact("é" * (TEXT_MAX_LENGTH + 1)) == "é" * TEXT_MAX_LENGTH + f"… ({TEXT_MAX_LENGTH + 1} characters)"
    )
    for shift in range(len(ADMIN_KEY)):
        filled = (ADMIN_KEY + " ") * 20_000
        clean = redactor.redact("x" * shift + filled)
        assert "admin" not in clean
        assert len(clean) < TEXT_MAX_LENGTH + 40


@pytest.mark.parametrize(
    "repeated",
    [
        "a",
        'api_key"',
        "://",
        "authorization: a ",
        "cookie'",
        "key=",
        "bearer ",
        "secret=[",
        "sk-",
        "\\",
        "password\\",
        " ",
    ],
)
def test_hostile_texts_take_no_time(repeated: str) -> None:
    text = (repeated * 200_000)[:200_000]
    began = time.thread_time()
    Redactor([ADMIN_KEY, "short1"]).redact(text)
    assert time.thread_time() - began < 1.0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("api_key", "anything", REDACTED),
        ("X-API-Key", "anything", REDACTED),
        ("apiKey", "anything", REDACTED),
        ("authorization", "anything", REDACTED),
        ("set-cookie", "anything", REDACTED),
        ("access_token", "anything", REDACTED),
        ("password", {"inner": "anything"}, REDACTED),
        ("client_api_keys", ["one", "two"], REDACTED),
        ("key", "anything", REDACTED),
        ("has_api_key", True, True),
        ("token", 5, 5),
        ("api_key", None, None),
        ("api_key", "", ""),
        ("key_name", "alice", "alice"),
        ("prompt_tokens", "12", "12"),
        ("url", "http://u:p@h/", "http://[redacted]@h/"),
        ("headers", {"Authorization": "Bearer x", "Accept": "*/*"}, {"Authorization": REDACTED, "Accept": "*/*"}),
        ("notes", ["fine", f"has {ADMIN_KEY}"], ["fine", "has [redacted]"]),
        ("deep", {ADMIN_KEY: {"token": "x"}}, {"[redacted]": {"token": REDACTED}}),
    ],
)
def test_fields(name: str, value: Any, expected: Any) -> None:
    assert Redactor([ADMIN_KEY]).redact_value(name, value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("nul\x00 bell\x07 delete\x7f", "nul\\x00 bell\\x07 delete\\x7f"),
        ("next\x85 csi\x9b", "next\\x85 csi\\x9b"),
        ("line\u2028 paragraph\u2029", "line\\u2028 paragraph\\u2029"),
        ("turned\u202e isolate\u2066 mark\ufeff", "turned\\u202e isolate\\u2066 mark\\ufeff"),
        ("lone \ud83d surrogate", "lone \\ud83d surrogate"),
        ("北京 🌍 é \\n", "北京 🌍 é \\n"),
    ],
)
def test_control_characters_are_escaped(text: str, expected: str) -> None:
    assert escape_controls(text) == expected


@given(st.text(alphabet=st.characters()))
def test_an_escaped_text_is_one_line_in_any_encoding(text: str) -> None:
    escaped = escape_controls(text)
    assert len(escaped.splitlines()) <= 1
    escaped.encode("utf-8")
