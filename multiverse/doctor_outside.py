"""What `multiverse doctor --from URL` looks at: the way from there to the gateway, and what proxies on it change.

Asks `/health`, then `/admin/mirror` with the admin's key: never a model. Whatever answers there gets the key only after
it has said that it is a gateway, and never over plain http from afar.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from multiverse.cli_client import CallFailed, GatewayAddress, GatewayClient, GatewayRefused, Watched

SERVICE = "Multiverse Inference Gateway"
ABOUT = "from outside"
LARGE_BODY_BYTES = 2 * 1024 * 1024  # nginx takes 1 MiB unless told otherwise
# Which share of the pauses between events must be left of them here: a buffer leaves none.
LEAST_SHARE_OF_PAUSES = 0.5

# Headers that are sent along, and what goes wrong without them.
NEEDED = {
    "authorization": "clients' keys do not arrive: let the proxy pass `Authorization` on as it is",
    "x-api-key": "the admin's key does not arrive where it is sent as `X-API-Key`",
    "x-request-id": "clients cannot name their requests: the ids in their logs will not be found in the gateway's",
    "last-event-id": "a page that reconnects to a stream cannot say where it was",
    "traceparent": "traces of clients end at the proxy",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found `about` something; a `fault` keeps the gateway from working, a `warning` may some day."""

    about: str
    state: Literal["ok", "warning", "fault"]
    text: str


def look_from_outside(text: str | None, key: str | None) -> Iterator[Finding]:
    """Findings about the address `text`, nothing for None; with the admin's `key` also about what is in between."""
    if text is None:
        return
    try:
        address = GatewayAddress.parse(text)
        told = GatewayClient(address).call("GET", "/health")
    except ValueError as error:
        yield Finding(ABOUT, "fault", f"the address is wrong: {error}")
        return
    except CallFailed as error:
        yield Finding(ABOUT, "fault", f"{text}: {error}")
        return
    if not isinstance(told, dict) or told.get("service") != SERVICE:
        yield Finding(ABOUT, "fault", f"{text}: what answers there is no gateway")
        return
    yield Finding(ABOUT, "ok", f"{text} answers, version {told.get('version')}")
    if address.scheme == "http" and not _is_near(address.host):
        yield Finding("secrecy", "fault", "keys would travel readable for everybody in between: put https in front")
    elif key is None:
        yield Finding("proxies", "warning", "not looked at: that takes the ADMIN_API_KEY of the gateway, set it here")
    else:
        yield from _between(address, key)


def _is_near(host: str) -> bool:
    """This machine, or the network around it."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or "." not in host


def _between(address: GatewayAddress, key: str) -> Iterator[Finding]:
    client, request_id = GatewayClient(address, key), f"doctor-{secrets.token_hex(8)}"
    sent = {
        "X-API-Key": key,
        "X-Request-ID": request_id,
        "Last-Event-ID": "7",
        "traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
    }
    try:
        watched = client.watch("/admin/mirror", sent)
        arrived = watched.arrivals[0][0]
        names = set(arrived["headers"])
    except GatewayRefused as error:
        yield Finding("proxies", "fault", f"the key did not arrive, or it is another gateway's: {error}")
        return
    except (CallFailed, IndexError, KeyError, TypeError) as error:
        yield Finding("proxies", "warning", f"not looked at: the gateway there has no /admin/mirror ({error})")
        return
    yield from _headers_in(arrived, names, request_id)
    yield from _who_asks(arrived, names, address)
    yield _headers_out(watched.headers, request_id)
    if _bunched(watched, arrived):  # Perhaps this machine was busy for a moment: look twice.
        with contextlib.suppress(CallFailed):
            watched = client.watch("/admin/mirror", sent)
    yield _streams(watched, arrived)
    yield _large_body(client, key)


def _headers_in(arrived: Mapping[str, Any], names: set[str], request_id: str) -> Iterator[Finding]:
    lost = [name for name in NEEDED if name not in names]
    if "x-request-id" in names and arrived["x_request_id"] != request_id:
        lost.append("x-request-id")
    for name in lost:
        state: Literal["warning", "fault"] = "fault" if name == "authorization" else "warning"
        yield Finding(f"header {name}", state, f"something in between takes it away or changes it: {NEEDED[name]}")
    if not lost:
        yield Finding("headers", "ok", "those of clients arrive as they were sent")


def _who_asks(arrived: Mapping[str, Any], names: set[str], address: GatewayAddress) -> Iterator[Finding]:
    proxied, trusted = arrived["forwarded_for"] > 0, arrived["trusts_proxy"]
    if proxied and not trusted:
        text = "a proxy names the client, and the gateway does not believe it: all clients share one limit"
        yield Finding("client address", "warning", f"{text}; set TRUST_PROXY_HEADERS=true")
    elif trusted and not proxied:
        text = "TRUST_PROXY_HEADERS is set, but nobody adds X-Forwarded-For: any client can claim any address"
        yield Finding("client address", "fault", f"{text}; let the proxy append it, or unset the variable")
    else:
        yield Finding("client address", "ok", f"to the gateway this is {arrived['client_address']}")
    if address.scheme == "https" and "https" not in arrived["forwarded_proto"].lower():
        text = "the proxy takes https and does not say so: cookies are sent without `Secure`"
        yield Finding("https", "warning", f"{text}; let it send X-Forwarded-Proto")
    if arrived["host"].lower() not in _hosts(address):
        text = f"the gateway is told another name ({arrived['host']}): its pages cannot change anything"
        yield Finding("host", "warning", f"{text}; let the proxy pass `Host` on as it is")


def _hosts(address: GatewayAddress) -> set[str]:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return {host.lower(), f"{host.lower()}:{address.port}"}


def _headers_out(headers: Mapping[str, str], request_id: str) -> Finding:
    if headers.get("x-request-id") != request_id:
        return Finding(
            "answers", "warning", "`X-Request-ID` is taken out of answers: who reports a fault cannot name it"
        )
    if headers.get("content-encoding", "identity") != "identity":
        return Finding(
            "answers", "warning", "something compresses streams, and holds events back: exclude text/event-stream"
        )
    return Finding("answers", "ok", "they arrive as they were sent")


def _bunched(watched: Watched, arrived: Mapping[str, Any]) -> bool:
    """Whether the pauses between events are gone."""
    moments = [moment for _event, moment in watched.arrivals]
    pauses_seconds = float(arrived["pause_seconds"] * (arrived["events"] - 1))
    return moments[-1] - moments[0] < pauses_seconds * LEAST_SHARE_OF_PAUSES


def _streams(watched: Watched, arrived: Mapping[str, Any]) -> Finding:
    came = len(watched.arrivals)
    if came != arrived["events"]:
        return Finding("streams", "fault", f"only {came} of {arrived['events']} events came: something cuts them")
    if _bunched(watched, arrived):
        text = "something holds them back and lets all go at once: no words as they come, no keep-alive in time"
        return Finding("streams", "fault", f"{text}. nginx: `proxy_buffering off;`, Caddy: `flush_interval -1`")
    return Finding("streams", "ok", "events come one by one, as they are sent")


def _large_body(client: GatewayClient, key: str) -> Finding:
    try:
        body = {"padding": "x" * LARGE_BODY_BYTES}
        arrived = client.call("POST", "/admin/mirror", body=body, headers={"X-API-Key": key})
    except CallFailed as error:
        text = f"a request of {LARGE_BODY_BYTES // 1024 // 1024} MB does not get through"
        advice = "nginx: `client_max_body_size 0;`, since the gateway has a limit of its own"
        return Finding("large requests", "warning", f"{text}: {error} {advice}")
    whole = isinstance(arrived, dict) and arrived.get("bytes", 0) > LARGE_BODY_BYTES
    return Finding(
        "large requests", "ok" if whole else "warning", "they get through" if whole else "they are cut short"
    )
