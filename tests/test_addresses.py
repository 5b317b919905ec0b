"""What an `endpoint_url` means and which addresses may be dialled: tables of spellings, and properties over all."""

from __future__ import annotations

import contextlib
import ipaddress
from urllib.parse import urlsplit

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from multiverse.errors import InvalidRequest
from multiverse.transport.addresses import (
    FORBIDDEN_ADDRESS_MESSAGE,
    AddressPolicy,
    Endpoint,
    ForbiddenAddress,
    parse_endpoint,
)

OPEN = AddressPolicy(allow_private=True)
PUBLIC_ONLY = AddressPolicy(allow_private=False)

NORMAL_FORMS = [
    ("http://laptop:1", "http://laptop:1"),
    ("http://laptop:1/", "http://laptop:1"),
    ("http://laptop:1//", "http://laptop:1"),
    ("http://laptop:1/v1", "http://laptop:1"),
    ("http://laptop:1/v1/", "http://laptop:1"),
    ("http://laptop:1/v1/v1", "http://laptop:1"),
    ("http://laptop:1/%761", "http://laptop:1"),
    ("http://laptop:1/v1/chat/completions", "http://laptop:1"),
    ("http://laptop:1/v1/models/", "http://laptop:1"),
    ("http://laptop:1/openai/v1/embeddings/v1/responses", "http://laptop:1/openai"),
    ("http://laptop:1/chat/completions", "http://laptop:1/chat/completions"),
    ("http://laptop:1/v1/models2", "http://laptop:1/v1/models2"),
    ("http://laptop:1/V1", "http://laptop:1/V1"),
    ("http://laptop:1/openai/v1/", "http://laptop:1/openai"),
    ("http://laptop:1/openaiv1", "http://laptop:1/openaiv1"),
    ("http://laptop:1/v1/openai", "http://laptop:1/v1/openai"),
    ("http://laptop:1/%7Eme/%c3%a9", "http://laptop:1/~me/%C3%A9"),
    ("http://laptop:1/user@home:a", "http://laptop:1/user@home:a"),
    ("  https://laptop ", "https://laptop"),
    ("\u00a0https://laptop\u3000", "https://laptop"),
    ("HTTPS://Your-Server.NGROK.app/V", "https://your-server.ngrok.app/V"),
    ("http://laptop:80/", "http://laptop"),
    ("http://laptop:00080", "http://laptop"),
    ("https://laptop:443", "https://laptop"),
    ("http://laptop:443", "http://laptop:443"),
    ("https://laptop:80", "https://laptop:80"),
    ("http://example.com./v1", "http://example.com"),
    ("http://127.0.0.1.:8000", "http://127.0.0.1:8000"),
    ("http://my_server:8000", "http://my_server:8000"),
    ("http://[2606:4700:0:0:0:0:0:1111]:8000/v1", "http://[2606:4700::1111]:8000"),
    ("http://[2606:4700::ABCD]:80", "http://[2606:4700::abcd]"),
    ("https://b\u00fccher.example/v1", "https://xn--bcher-kva.example"),
    ("https://B\u00dcCHER\u3002example", "https://xn--bcher-kva.example"),
    ("https://\uff2c\uff41\uff50\uff54\uff4f\uff50\uff61example\uff0e", "https://laptop.example"),
    ("https://\u5317\u4eac.example", "https://xn--1lq90i.example"),
    ("http://xn--bcher-kva.example", "http://xn--bcher-kva.example"),
    ("http://0X7F.1:8000", "http://0x7f.1:8000"),
    ("http://2130706433", "http://2130706433"),
]

REFUSED = {
    "http:// or https://": [
        *("", "laptop", "localhost:11434", "127.0.0.1:8000/v1", "//laptop", "http:laptop", "http:/laptop", "http"),
        *("javascript:alert(1)", "http\u017f://laptop"),
    ],
    "no other kind": ["file:///etc/passwd", "gopher://laptop:70/1", "ws://laptop", "ftp://laptop"],
    "user name": [
        *("http://user@laptop", "http://user:secret@laptop", "http://@laptop", "http://example.com@127.0.0.1"),
        "http://127.0.0.1%2f@other",
    ],
    "'?'": ["http://laptop?", "http://laptop/?key=1"],
    "'#'": ["http://laptop#", "http://laptop/v1#top"],
    "spaces": [
        *("http://lap top", "http://laptop/a b", "http://laptop/a\u3000b", "http://laptop\r\nHost: other/"),
        *("http://lap\ttop", "http://laptop\x00", "http://laptop/\x7f", "http://lap\ud800top"),
        *("http://laptop\n", "http://laptop/v1\r\n", "\thttp://laptop", "http://laptop\x1c", "\x85http://laptop"),
    ],
    "backslashes": ["http://laptop\\@other", "http:\\\\laptop"],
    "port": [
        *("http://laptop:", "http://laptop:0", "http://laptop:65536", "http://laptop:99999", "http://laptop:000080"),
        *("http://laptop:http", "http://laptop:+80", "http://laptop:-1", "http://laptop:8_0"),
        *("http://laptop:\u0661\u0662", "http://[::1]:x"),
    ],
    "name a host": ["http://", "http:///v1", "http://:8000"],
    "valid host": [
        *("http://.", "http://..", "http://laptop..", "http://a..b", "http://.laptop", "http://-laptop"),
        *("http://laptop-", "http://lap*top", "http://a\uff0fb", "http://a\uff20b", "http://laptop\uff1a80"),
        *("http://\u2100.example", "http://" + "a" * 64, "http://" + "\u00fc" * 63),
        *("http://" + "abc." * 64 + "example", "http://[]", "http://[1::2::3]", "http://[127.0.0.1]"),
        *("http://[v1.fe80]", "http://[\uff1a\uff1a1]"),
    ],
    "xn--": ["http://stra\u00dfe.example", "http://\u03c3\u03bf\u03c6\u03cc\u03c2.example", "http://lap\u200dtop"],
    "'%'": ["http://lap%74op", "http://[fe80::1%eth0]", "http://[fe80::1%25eth0]:8000"],
    "square brackets": [
        "http://::1",
        "http://::1:8000/v1",
        "http://2606:4700::1111",
        "http://[::1",
        "http://[::1]8000",
    ],
    "path": [
        *("http://laptop/..", "http://laptop/a/../admin", "http://laptop/./v1", "http://laptop/%2e%2e/admin"),
        *("http://laptop/.%2E/v1", "http://laptop//openai", "http://laptop/a//b/v1", "http://laptop/\u00e9"),
        *("http://laptop/<b>", "http://laptop/a%", "http://laptop/a%zz"),
    ],
    "percent-encoded": ["http://laptop/a%2fb", "http://laptop/a%5Cb", "http://laptop/a%0d%0ab", "http://laptop/%00"],
    "2048": ["http://laptop/" + "a" * 2048],
    FORBIDDEN_ADDRESS_MESSAGE: [
        *("http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460", "http://\uff11\uff12\uff17.0.0.1"),
        *("http://127\u30020\u30020\u30021", "http://127.0.0.\u00ad1", "http://\uff10x7f000001"),
    ],
}

REFUSED_ALWAYS = [
    *("0.0.0.0", "0.1.2.3", "169.254.0.1", "169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "fe80::1", "febf::1", "fec0::1", "ff02::1", "ff0e::1", "fd00:ec2::254", "fd20:ce::254"),
    *("::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8", "::2", "::ffff:0:8.8.8.8"),
    *("64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::1", "2001:0:1::1"),
    *("2606:4700::5efe:7f00:1", "2606:4700::200:5efe:808:808", "fd12::5efe:10.0.0.1", "100::1", "5f00::1", "4000::1"),
    *("fe80::1%eth0", "2606:4700::1%eth0", "fd12::1%1"),
    *("", "laptop", "127.1", "2130706433", "0x7f.0.0.1", "127.0.0.01", " 8.8.8.8", "8.8.8.8\n", "[::1]", "8.8.8.8/32"),
    *("\u0661.1.1.1", "\ud800"),
]

PRIVATE = [
    *("127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.20", "100.64.0.1"),
    *("100.127.255.255", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"),
    *("::1", "fc00::1", "fd12:3456::1", "2001:db8::1", "2001:2::1", "3fff::1"),
]

PUBLIC = [
    *("8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "126.0.0.1"),
    *("2606:4700::1111", "2a00:1450::1", "2001:4860::8"),
]

ODD_HOSTS = [
    *("127.1", "127.0.1", "0x7f.1", "0X7F.0.0.1", "0x7f000001", "2130706433", "017700000001", "0177.0.0.1"),
    *("127.0.0.01", "127.0.0.0x1", "0x", "8.8.8.0x", "256.0.0.1", "127.0.0.1.1", "1", "0", "0.1", "laptop.1"),
    *("laptop.0x7f", "08.8.8.8", "8.8.2056", "134744072", "127.1.", "99999999999999999999"),
    *("\u2460\u2461\u2466.\u24ea.\u24ea.\u2460", "\uff18.8.8.8", "8\u30028\u30028\u30028"),
    *("[8.8.8.8]", "[fe80::1%eth0]", "fe80::1%eth0"),
    *("", ".", "a..b", "lap top", "127.0.0.1 ", "127.0.0.1\x00", "127.0.0.1..", "127%2e1", "\ud800", "user@laptop"),
]

NAMES = [
    *("laptop", "example.com", "Example.COM.", "0x7g", "1a", "10.example", "127.0.0.1.nip.io"),
    *("8.8.8.\u0668", "b\u00fccher.example"),
]


def refused_by(policy: AddressPolicy, host: str) -> bool:
    """Whether a registration of this host would be refused, by its syntax or by the policy."""
    try:
        policy.check_host(parse_endpoint(f"http://{host}/v1").host)
    except (InvalidRequest, ForbiddenAddress):
        return True
    return False


@pytest.mark.parametrize(("pasted", "normal"), NORMAL_FORMS)
def test_pasted_forms_have_one_normal_form(pasted: str, normal: str) -> None:
    endpoint = parse_endpoint(pasted)
    assert endpoint.url == normal
    assert parse_endpoint(normal) == endpoint
    assert urlsplit(normal).hostname == endpoint.host


@pytest.mark.parametrize(("hint", "pasted"), [(hint, pasted) for hint, urls in REFUSED.items() for pasted in urls])
def test_malformed_urls_are_refused_with_a_hint(hint: str, pasted: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_endpoint(pasted)
    assert caught.value.param == "endpoint_url"
    assert hint in caught.value.message
    assert "secret" not in caught.value.message


def test_the_longest_url_is_taken_and_one_more_is_not() -> None:
    prefix = "http://laptop/"
    assert len(parse_endpoint(prefix + "a" * (2048 - len(prefix))).url) == 2048
    with pytest.raises(InvalidRequest, match="2048"):
        parse_endpoint(prefix + "a" * (2049 - len(prefix)))
    with pytest.raises(InvalidRequest, match="2048"):  # fits as typed, not in its ASCII form
        parse_endpoint("http://\u00fc/" + "a" * 2039)


def test_parts_of_an_endpoint() -> None:
    endpoint = parse_endpoint("https://[2606:4700::1]:8443/openai/v1")
    assert endpoint == Endpoint(scheme="https", host="2606:4700::1", port=8443, path="/openai")
    assert endpoint.authority == "[2606:4700::1]:8443"
    assert endpoint.url == "https://[2606:4700::1]:8443/openai"
    plain = parse_endpoint("http://laptop/")
    assert (plain.port, plain.authority, plain.path) == (80, "laptop", "")
    assert parse_endpoint("https://laptop").port == 443


@pytest.mark.parametrize("address", REFUSED_ALWAYS)
@pytest.mark.parametrize("policy", [OPEN, PUBLIC_ONLY])
def test_some_addresses_are_never_dialled(policy: AddressPolicy, address: str) -> None:
    with pytest.raises(ForbiddenAddress) as caught:
        policy.check_ip(address)
    assert str(caught.value) == FORBIDDEN_ADDRESS_MESSAGE


@pytest.mark.parametrize("address", REFUSED_ALWAYS[: REFUSED_ALWAYS.index("fe80::1%eth0")])
def test_those_addresses_are_refused_as_hosts_too(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address
    assert refused_by(OPEN, literal)
    for spelling in (address, literal, address.upper(), f"{address}." if "." in address else address):
        with pytest.raises(ForbiddenAddress):
            OPEN.check_host(spelling)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_a_choice(address: str) -> None:
    OPEN.check_ip(address)
    OPEN.check_host(address)
    for check in (PUBLIC_ONLY.check_ip, PUBLIC_ONLY.check_host):
        with pytest.raises(ForbiddenAddress):
            check(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_dialled(address: str) -> None:
    for policy in (OPEN, PUBLIC_ONLY):
        policy.check_ip(address)
        policy.check_host(address)
        assert not refused_by(policy, f"[{address}]" if ":" in address else address)


@pytest.mark.parametrize("host", ODD_HOSTS)
@pytest.mark.parametrize("policy", [OPEN, PUBLIC_ONLY])
def test_odd_spellings_are_always_forbidden(policy: AddressPolicy, host: str) -> None:
    with pytest.raises(ForbiddenAddress):
        policy.check_host(host)
    assert refused_by(policy, host)


@pytest.mark.parametrize("host", NAMES)
def test_names_pass_until_they_are_resolved(host: str) -> None:
    PUBLIC_ONLY.check_host(host)
    assert not refused_by(PUBLIC_ONLY, host)


@pytest.mark.parametrize("host", ["metadata.google.internal", "METADATA.google.internal.", "metadata.goog"])
@pytest.mark.parametrize("policy", [OPEN, PUBLIC_ONLY])
def test_names_of_cloud_metadata_need_not_be_resolved(policy: AddressPolicy, host: str) -> None:
    assert refused_by(policy, host)
    policy.check_host("metadata.example.org")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "api.localhost", "\uff4c\uff4f\uff43\uff41\uff4chost"])
def test_localhost_counts_as_loopback(host: str) -> None:
    OPEN.check_host(host)
    with pytest.raises(ForbiddenAddress):
        PUBLIC_ONLY.check_host(host)
    PUBLIC_ONLY.check_host("localhost.example")
    PUBLIC_ONLY.check_host("notlocalhost")


def test_permitted_keeps_the_order_of_what_may_be_dialled() -> None:
    resolved = ["169.254.169.254", "10.0.0.1", "2606:4700::1", "fe80::1%eth0", "8.8.8.8", "::ffff:8.8.8.8"]
    assert OPEN.permitted(resolved) == ["10.0.0.1", "2606:4700::1", "8.8.8.8"]
    assert PUBLIC_ONLY.permitted(iter(resolved)) == ["2606:4700::1", "8.8.8.8"]
    assert OPEN.permitted([]) == []


def odd_spellings(address: ipaddress.IPv4Address) -> list[str]:
    """The ways round a naive filter: each reaches `address` on some resolver or network."""
    number, octets = int(address), address.packed
    wide_digits = {ord("0") + digit: 0xFF10 + digit for digit in range(10)}
    circled_digits = {ord("0"): 0x24EA} | {ord("0") + digit: 0x245F + digit for digit in range(1, 10)}
    high, low = number >> 16, number & 0xFFFF
    return [
        str(number),
        hex(number),
        hex(number).upper(),
        f"0{number:o}",
        ".".join(hex(octet) for octet in octets),
        ".".join(f"0{octet:o}" for octet in octets),
        f"{octets[0]}.{number & 0xFFFFFF}",
        f"{octets[0]}.{octets[1]}.{low}",
        str(address).translate(wide_digits),
        str(address).translate(circled_digits),
        str(address).replace(".", "\u3002"),
        f"[::ffff:{address}]",
        f"[::{address}]",
        f"[::ffff:0:{address}]",
        f"[64:ff9b::{address}]",
        f"[64:ff9b:1::{high:x}:{low:x}]",
        f"[2002:{high:x}:{low:x}::1]",
        f"[2001:0:{high:x}:{low:x}::1]",
        f"[2606:4700::5efe:{address}]",
    ]


@given(st.ip_addresses(v=4), st.booleans())
@example(ipaddress.IPv4Address("127.0.0.1"), False)
@example(ipaddress.IPv4Address("169.254.169.254"), True)
def test_an_address_is_refused_in_all_odd_spellings(address: ipaddress.IPv4Address, allow_private: bool) -> None:
    policy = AddressPolicy(allow_private=allow_private)
    assume(address != ipaddress.IPv4Address("0.0.0.1"))  # its IPv4-compatible form is ::1, the real loopback address
    for spelling in odd_spellings(address):
        assert refused_by(policy, spelling), spelling
        with pytest.raises(ForbiddenAddress):
            policy.check_host(spelling)


@given(st.ip_addresses(), st.booleans())
def test_literals_and_resolved_addresses_are_judged_alike(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, allow_private: bool
) -> None:
    policy = AddressPolicy(allow_private=allow_private)
    literal = f"[{address.exploded}]" if address.version == 6 else str(address)
    assert refused_by(policy, literal) == (policy.permitted([str(address)]) == [])
    if not address.is_global:
        assert PUBLIC_ONLY.permitted([str(address)]) == []


ANY_TEXT = st.text(st.characters(), max_size=40)  # with lone surrogates
URL_PIECES = st.sampled_from(
    [
        *(
            "http://",
            "https://",
            "HTTP://",
            "localhost",
            "example.com",
            "127.0.0.1",
            "0x7f.1",
            "[::1]",
            "[",
            "]",
            "xn--",
        ),
        *(":", ":80", ":443", ":8000", "@", "/", "//", "/v1", "/v1/", "..", ".", "%2e", "%2E%2e", "%76", "%2f", "%"),
        *("%41", "?", "#", "a", "B", "-", "_", " ", "\u00fc", "\u00df", "\uff0e", "\u2460", "\u3002", "\\", "~", ";"),
    ]
)
URL_LIKE = st.lists(URL_PIECES | ANY_TEXT, max_size=10).map("".join)
URLS = st.builds("{}{}{}".format, st.sampled_from(["http://", "https://"]), URL_LIKE, st.sampled_from(["", "/", "/v1"]))


@given(ANY_TEXT | URL_LIKE | URLS)
def test_any_text_is_an_endpoint_or_an_invalid_request(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except InvalidRequest:
        return
    assert parse_endpoint(endpoint.url) == endpoint
    assert endpoint.url.isascii()
    assert not endpoint.path.endswith(("/", "/v1"))
    parts = urlsplit(endpoint.url)
    assert (parts.scheme, parts.hostname, parts.path) == (endpoint.scheme, endpoint.host, endpoint.path)
    assert (parts.port or {"http": 80, "https": 443}[endpoint.scheme]) == endpoint.port


@given(ANY_TEXT | URL_LIKE)
def test_the_policy_answers_for_any_text(text: str) -> None:
    for check in (OPEN.check_host, OPEN.check_ip, PUBLIC_ONLY.check_host, PUBLIC_ONLY.check_ip):
        with contextlib.suppress(ForbiddenAddress):
            check(text)
