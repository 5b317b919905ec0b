"""What `multiverse doctor` looks at. Each look yields findings, in words that say what to do; nothing is changed.

Everything here blocks, with a limit of some seconds for each look at something that may not answer.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from multiverse.cli_client import CallFailed, GatewayAddress, GatewayClient, GatewayRefused, GatewayUnreachable
from multiverse.config import Config, ConfigError, idle_settings, load_config
from multiverse.doctor_outside import Finding, look_from_outside
from multiverse.errors import StoreFailed
from multiverse.settings import GUESSABLE_LENGTH
from multiverse.storage.backup import registered_servers, why_no_backup

SIDE_BY_SIDE = 16
DISK_LOW_BYTES, DISK_FULL_BYTES = 500_000_000, 50_000_000
RELEASED_UNIX = 1_790_000_000  # September 2026: no clock is right that shows less


def examine(address: str | None) -> list[Finding]:
    """All findings; `address` is where clients reach the gateway, None = do not look from there."""
    try:
        config = load_config()
    except ConfigError as error:
        settings = Finding("settings", "fault", f"{error}. `multiverse serve` stops at this.")
        return [settings, *look_from_outside(address, None)]
    return [
        _settings(config),
        *_port(config),
        *_database(config),
        *_disk(config),
        *_clock(),
        *_servers(config),
        *_ways_to_people(config),
        *look_from_outside(address, config.admin_api_key),
    ]


def _settings(config: Config) -> Finding:
    told = list(idle_settings(config))
    if any(len(key) < GUESSABLE_LENGTH for key in config.client_api_keys):
        short = f"CLIENT_API_KEYS has a key of fewer than {GUESSABLE_LENGTH} characters, which can be guessed"
        told.append(f"{short}: take longer ones")
    if config.client_api_keys and not config.require_client_api_key:
        told.append("CLIENT_API_KEYS keeps nobody out without REQUIRE_CLIENT_API_KEY=true")
    return Finding("settings", "warning", "; ".join(told)) if told else Finding("settings", "ok", "they can be read")


def _port(config: Config) -> Iterator[Finding]:
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    if config.port == 0:
        yield Finding("port", "ok", "any free one")
        return
    try:
        with socket.create_connection((host, config.port), timeout=2):
            pass
    except OSError:
        yield Finding("port", "ok", f"{config.port} is free: no gateway runs here now")
        return
    try:
        told = GatewayClient(GatewayAddress("http", host, config.port, "")).call("GET", "/health")
    except GatewayRefused as error:
        yield Finding("port", "fault", f"a gateway runs on {config.port} and is not well: {error}")
    except CallFailed:
        yield Finding("port", "fault", f"something that is no gateway uses {config.port}: stop it, or set PORT")
    else:
        yield Finding("port", "ok", f"a gateway {told.get('version')} runs on {config.port}")


def _database(config: Config) -> Iterator[Finding]:
    path = Path(config.database_path).absolute()
    if not path.exists():
        yield Finding("database", "ok", f"{path} is made at the start")
    elif why := why_no_backup(path):
        yield Finding("database", "fault", f"{path} {why}: restore a backup, or change DATABASE_URL")
    else:
        yield Finding("database", "ok", f"{path} is whole")


def _disk(config: Config) -> Iterator[Finding]:
    directory = Path(config.database_path).absolute().parent
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    state: Literal["ok", "warning", "fault"] = "ok"
    if free < DISK_LOW_BYTES:
        state = "fault" if free < DISK_FULL_BYTES else "warning"
    advice = "" if state == "ok" else ": make room, or usage and registrations can soon not be written"
    yield Finding("disk", state, f"{free // 1_000_000} MB free at {directory}{advice}")


def _clock() -> Iterator[Finding]:
    if time.time() < RELEASED_UNIX:
        yield Finding("clock", "fault", "it is years behind: TLS will refuse every certificate; set it (timedatectl)")
    else:
        yield Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))


# -- servers


def _servers(config: Config) -> Iterator[Finding]:
    path = Path(config.database_path)
    if not path.is_file():
        return
    try:
        servers = registered_servers(path)
    except StoreFailed as error:
        yield Finding("servers", "fault", str(error))
        return
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        yield from threads.map(_server, servers)
    if not servers:
        yield Finding("servers", "warning", "none is registered: `multiverse servers add --help`")


def _server(row: dict[str, Any]) -> Finding:
    about = f"server {row['model_name']} at {row['endpoint_url']}"
    try:
        address = GatewayAddress.parse(row["endpoint_url"])
        socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (ValueError, OSError):
        return Finding(about, "warning", "its name cannot be resolved here: is it right, and is there DNS?")
    try:
        with socket.create_connection((address.host, address.port), timeout=5):
            pass
        GatewayClient(address, row["api_key"]).call("GET", "/v1/models")
    except (OSError, GatewayUnreachable):
        return Finding(about, "warning", "nobody answers: is it running, on 0.0.0.0, and does its firewall let us in?")
    except GatewayRefused:
        return Finding(about, "warning", "it answers with an error: is its key right, and does it offer /v1/models?")
    except CallFailed:
        return Finding(about, "warning", "something answers that speaks no OpenAI API: a tunnel's page, a redirect?")
    return Finding(about, "ok", "it answers")


# -- people


def _ways_to_people(config: Config) -> Iterator[Finding]:
    """Whether webhook and mail server, where they are set, can be reached at all; nothing is sent."""
    if config.notify_webhook_url is not None:
        yield _reachable("webhook", "NOTIFY_WEBHOOK_URL", config.notify_webhook_url)
    if config.smtp_host is not None:
        host = f"[{config.smtp_host}]" if ":" in config.smtp_host else config.smtp_host
        yield _reachable("mail server", "SMTP_HOST and SMTP_PORT", f"smtp://{host}:{config.smtp_port}")


def _reachable(about: str, variables: str, url: str) -> Finding:
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=5):
            pass
    except (OSError, ValueError):  # The second for a port that there is not.
        return Finding(about, "warning", f"it cannot be reached: is {variables} right, and may this machine go there?")
    return Finding(about, "ok", "it can be reached")
