"""What an `endpoint_url` means, and which addresses may be dialled.

`parse_endpoint` is syntax only: it takes what is unambiguous and says what to write instead of the rest.
`AddressPolicy` is policy only; `check_ip` is asked at every dial, since DNS may answer differently each time. Whatever
is not understood is refused. No name is resolved and no socket opened here.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

from multiverse.errors import InvalidRequest

MAX_URL_LENGTH = 2048
FORBIDDEN_ADDRESS_MESSAGE = (
    "This address may not be registered. Use the address under which other machines reach the server: a public https "
    "tunnel, or an address of the class network if the gateway allows it."
)

# ASCII: without it IGNORECASE lets U+017F stand for "s".
_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/]*)(?P<path>/.*)?", re.IGNORECASE | re.ASCII | re.DOTALL)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?P<port>:.*)?", re.DOTALL)
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NEVER_IN_A_URL = re.compile(r"[ \\\ud800-\udfff]|\s")
_PORT = re.compile(r":(?P<number>[0-9]{1,5})")
# RFC 1123 §2.1 labels, plus the underscore that container networks put into names.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_MAX_HOST_LENGTH = 253
# RFC 3986 §3.3 pchar and "/".
_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
# Programs show the whole address of a route, which people then paste; no prefix ends like that.
_V1_AT_END = re.compile(r"/v1(?:/(?:chat/completions|completions|embeddings|messages|models|responses))?\Z")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
# WHATWG URL §3.5 "ends in a number": resolvers read such a host as an IPv4 address in decimal, octal or hex.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# IDNA 2003 (Python's codec) and what browsers do take these to different hosts: UTS 46 §4.1.2 "deviation characters".
_AMBIGUOUS_IN_HOSTS = re.compile("[\u00df\u1e9e\u03c2\u200c\u200d]")
_ISATAP_IDENTIFIER = 0x0000_5EFE  # RFC 5214 §6.1
_ISATAP_MASK = 0xFCFF_FFFF  # its universal and group bits may be set

_IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_REFUSED_ALWAYS: tuple[_IPNetwork, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # "this network", RFC 6890; Linux connects 0.0.0.0 to itself
        "169.254.0.0/16",  # link-local, RFC 3927; holds most cloud metadata services
        "224.0.0.0/4",  # multicast, RFC 5771
        "240.0.0.0/4",  # reserved and broadcast, RFC 6890
        "100.100.100.200/32",  # Alibaba Cloud metadata, inside the CGNAT net
        "168.63.129.16/32",  # Azure platform address, looks public
        "192.0.0.192/32",  # Oracle Cloud Classic metadata
        "fd00:ec2::/32",  # AWS: metadata, pod identity, DNS, time
        "fd20:ce::254/128",  # Google Cloud metadata
        "fd00:c1::a9fe:a9fe/128",  # Oracle Cloud metadata
        "fd00:42::42/128",  # Scaleway metadata
        "fd00:a9fe:a9fe::1/128",  # Linode metadata
        "fd00:100::100:200/128",  # Alibaba Cloud metadata
        "2001::/32",  # Teredo, RFC 4380: an IPv4 address inside
        "2002::/16",  # 6to4, RFC 3056: an IPv4 address inside
    )
)
# Names of the same services. `check_ip` refuses what they mean inside a cloud; elsewhere they mean nothing, or a trap.
_METADATA_NAMES = frozenset({"metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"})
# The only IPv6 nets in which a server can live (RFC 4291 §2.4, IANA "IPv6 Address Space"). Outside are the unspecified
# address, IPv4-mapped ::ffff:0:0/96 and IPv4-compatible ::/96 (RFC 4291 §2.5.5), IPv4-translated (RFC 2765), NAT64
# 64:ff9b::/96 (RFC 6052) and 64:ff9b:1::/48 (RFC 8215), link-local, site-local fec0::/10 (RFC 3879) and multicast.
# A NAT64 prefix that a network chose for itself cannot be told from its other addresses.
_IPV6_IN_USE = tuple(ipaddress.IPv6Network(network) for network in ("2000::/3", "fc00::/7", "::1/128"))
# Not reachable from everywhere (RFC 6890), though some versions of `ipaddress` call them global.
_NOT_GLOBAL: tuple[_IPNetwork, ...] = tuple(
    ipaddress.ip_network(network)
    for network in ("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")
)


class ForbiddenAddress(Exception):
    """This address may not be dialled; the text is the same for all, so that nothing can be learned from it."""

    def __init__(self) -> None:
        super().__init__(FORBIDDEN_ADDRESS_MESSAGE)


class _DisguisedAddress(ValueError):
    """A host in non-ASCII characters that turns into a numeric one."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's address as `parse_endpoint` understood it; equal when the normal forms are equal.

    `host` is lower-case ASCII: an IDNA A-label, a dotted quad, or IPv6 in short form without brackets. A number in an
    odd spelling (`127.1`) stays as it was, for `AddressPolicy.check_host` to refuse. `path` is "" or "/prefix".
    `authority` is the value of `Host`: the port only when it is not the scheme's own (RFC 9110 §7.2).
    """

    scheme: str
    host: str
    port: int
    path: str
    authority: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        authority = host if self.port == _default_port(self.scheme) else f"{host}:{self.port}"
        object.__setattr__(self, "authority", authority)

    @property
    def url(self) -> str:
        """The normal form, in which endpoints are shown and compared."""
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_endpoint(text: str) -> Endpoint:
    """The endpoint that a pasted `endpoint_url` means, with or without a trailing `/`, `/v1`, `/v1/` or route of it.

    Raises InvalidRequest (`param` is `endpoint_url`) with a message that tells what to write instead; never anything
    else, whatever the text. An address that is well written but forbidden is the business of AddressPolicy.
    """
    url = text.strip()  # Spaces come along when an address is pasted; what nobody sees never gets in, at no end of it.
    if len(url) > MAX_URL_LENGTH:
        raise _refusal(f"must not be longer than {MAX_URL_LENGTH} characters")
    if _CONTROL_CHARACTER.search(text) or _NEVER_IN_A_URL.search(url):
        raise _refusal("must not contain spaces, control characters or backslashes; paste the bare address")
    parts = _URL.fullmatch(url)
    if parts is None:
        raise _scheme_refusal(url)
    if "?" in url or "#" in url:
        raise _refusal("must not contain '?' or '#'; leave out the query and the fragment")
    scheme = parts["scheme"].lower()
    host, port = _parse_authority(parts["authority"], _default_port(scheme))
    endpoint = Endpoint(scheme=scheme, host=host, port=port, path=_parse_path(parts["path"] or ""))
    if len(endpoint.url) > MAX_URL_LENGTH:  # an internationalised host name grows in its ASCII form
        raise _refusal(f"must not be longer than {MAX_URL_LENGTH} characters")
    return endpoint


class AddressPolicy:
    """Which addresses the gateway may dial.

    Link-local, cloud metadata, multicast, unspecified and reserved addresses, IPv4 addresses inside IPv6 ones and odd
    spellings are refused always; loopback and private networks only when `allow_private` is false.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    def check_host(self, host: str) -> None:
        """Raises ForbiddenAddress for a number that may not be dialled, as typed or as `parse_endpoint` gave it.

        Names pass, but those of cloud metadata: `check_ip` judges their addresses when they are known.
        """
        try:
            normal = _normalise_host(host)
        except ValueError:
            raise ForbiddenAddress from None
        if normal in _METADATA_NAMES:
            raise ForbiddenAddress
        if ":" in normal or _ends_in_number(normal):
            self.check_ip(normal)
        elif not self._allow_private and normal.rpartition(".")[2] == "localhost":  # RFC 6761 §6.3: loopback
            raise ForbiddenAddress

    def check_ip(self, address: str) -> None:
        """Raises ForbiddenAddress for an address that may not be dialled, has a zone id or is oddly spelled."""
        if not self._permits(address):
            raise ForbiddenAddress

    def permitted(self, addresses: Iterable[str]) -> list[str]:
        """Those of the resolved `addresses` that may be dialled, in their order."""
        return [address for address in addresses if self._permits(address)]

    def _permits(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return not _is_refused_always(parsed) and (self._allow_private or _is_public(parsed))


def _is_refused_always(address: _IPAddress) -> bool:
    if any(address in network for network in _REFUSED_ALWAYS):
        return True
    if isinstance(address, ipaddress.IPv4Address):
        return False
    if address.scope_id is not None or not any(address in network for network in _IPV6_IN_USE):
        return True
    return (int(address) >> 32) & _ISATAP_MASK == _ISATAP_IDENTIFIER


def _is_public(address: _IPAddress) -> bool:
    return address.is_global and not any(address in network for network in _NOT_GLOBAL)


def _refusal(hint: str) -> InvalidRequest:
    return InvalidRequest(f"endpoint_url {hint}.", param="endpoint_url")


def _scheme_refusal(url: str) -> InvalidRequest:
    """`localhost:11434` looks like a scheme, too: only "://" tells that somebody meant one."""
    scheme, separator, _rest = url.partition("://")
    if separator and scheme.lower() not in ("http", "https"):
        return _refusal("must start with http:// or https://; the gateway can reach no other kind of address")
    return _refusal(
        "must start with http:// or https://, for example http://192.168.1.20:11434 or https://your-name.ngrok.app"
    )


def _default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _parse_authority(authority: str, default_port: int) -> tuple[str, int]:
    if "@" in authority:
        raise _refusal("must not contain a user name or password; send the server's key as api_key")
    if "%" in authority:
        raise _refusal("must not contain '%' in its host; write the host name or address itself, without a zone")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None or (authority.count(":") > 1 and not authority.startswith("[")):
        raise _refusal("must have an IPv6 address in square brackets, for example http://[fd12::1]:8000")
    if not parts["host"]:
        raise _refusal("must name a host after http:// or https://, for example http://192.168.1.20:11434")
    try:
        host = _normalise_host(parts["host"])
    except _DisguisedAddress:
        raise InvalidRequest(FORBIDDEN_ADDRESS_MESSAGE, param="endpoint_url") from None
    except ValueError:
        raise _refusal(
            "must have a valid host: a name of letters, digits, '-' and '.' (an international name in its xn-- form), "
            "an IPv4 address, or an IPv6 address in square brackets"
        ) from None
    return host, default_port if parts["port"] is None else _parse_port(parts["port"])


def _parse_port(text: str) -> int:
    port = _PORT.fullmatch(text)
    if port is None or not 1 <= int(port["number"]) <= 65535:
        raise _refusal("must have a port from 1 to 65535 after the ':', or neither")
    return int(port["number"])


def _parse_path(path: str) -> str:
    """The path as a prefix to which `/v1/…` can be added, in the normal form of RFC 3986 §6.2.2."""
    if not _PATH.fullmatch(path):
        raise _refusal("must have a path of plain characters; write any others percent-encoded")
    # Unreserved characters are decoded first, so that neither "%2e%2e" nor "/%761" can hide what they are.
    prefix = _ESCAPE.sub(_normalise_escape, path).rstrip("/")
    while match := _V1_AT_END.search(prefix):  # more than once, or the normal form would change when it is read again
        prefix = prefix[: match.start()].rstrip("/")
    segments = prefix.split("/")[1:]
    if "" in segments or "." in segments or ".." in segments:
        raise _refusal("must not contain '//', '/./' or '/../' in its path; write the path in full")
    return prefix


def _normalise_escape(escape: re.Match[str]) -> str:
    code = int(escape[0][1:], 16)
    if code < 0x20 or code == 0x7F or chr(code) in "/\\":
        raise _refusal("must not contain percent-encoded slashes, backslashes or control characters")
    return chr(code) if _UNRESERVED.fullmatch(chr(code)) else escape[0].upper()


def _normalise_host(host: str) -> str:
    """Lower-case ASCII without brackets and trailing dot; raises ValueError for what is no host."""
    if host.startswith("[") and host.endswith("]"):
        return _normalise_ipv6(host[1:-1])
    if ":" in host:
        return _normalise_ipv6(host)
    name = (host if host.isascii() else _to_ascii(host)).lower().removesuffix(".")
    if len(name) > _MAX_HOST_LENGTH or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError("not a host name")
    if not host.isascii() and _ends_in_number(name):
        # Nobody writes 127.0.0.1 in circled digits by accident; in ASCII it would pass for a plain spelling.
        raise _DisguisedAddress
    return name


def _normalise_ipv6(text: str) -> str:
    address = ipaddress.IPv6Address(text)
    if address.scope_id is not None:
        raise ValueError("a zone id has a meaning on one machine only")
    return address.compressed


def _to_ascii(host: str) -> str:
    """IDNA (RFC 3490) after NFKC; UnicodeError, which is a ValueError, for what has no ASCII form."""
    # NFKC makes U+3002 of U+FF61 and "." of U+FF0E; RFC 3490 §3.1 counts all of them as dots.
    normal = unicodedata.normalize("NFKC", host).replace("\u3002", ".")
    if _AMBIGUOUS_IN_HOSTS.search(normal):
        raise ValueError("browsers and Python disagree about this host name")
    return normal.encode("idna").decode("ascii")


def _ends_in_number(host: str) -> bool:
    return _NUMBER.fullmatch(host.rpartition(".")[2]) is not None
