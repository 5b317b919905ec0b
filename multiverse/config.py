"""Settings: read once from the environment and `.env`, checked, frozen. The only reader of `os.environ`.

The table of variables and defaults is SETTINGS, in settings.py. Every fault is reported at once, in one line; no text
repeats a value, since it may be a secret. Where the environment and `.env` differ, the environment wins.
Nothing here opens, creates or logs anything but the reading of `.env`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environs import Env, EnvValidationError, ValidationError

from multiverse.dotenv_file import DotenvFailed, read_dotenv
from multiverse.settings import SETTINGS, Reader, Setting

__all__ = ["SETTINGS", "Config", "ConfigError", "Setting", "idle_settings", "load_config", "notify_socket"]

# Variables that mean nothing while the first one is off or empty.
IN_FORCE_WITH = (
    (
        "RATE_LIMIT_ENABLED",
        (
            "RATE_LIMIT_REQUESTS_PER_MINUTE",
            "RATE_LIMIT_TOKENS_PER_DAY",
            "RATE_LIMIT_REQUESTS_AT_ONCE",
            "RATE_LIMITS_BY_ROLE",
        ),
    ),
    ("SMTP_HOST", ("SMTP_PORT", "SMTP_SECURITY", "SMTP_USERNAME", "SMTP_PASSWORD", "SMTP_FROM")),
)


class ConfigError(Exception):
    """A setting is missing or wrong; the text is one line that names each variable and what it needs."""


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, one field per variable of SETTINGS; durations in seconds (or hours) as named, sizes in bytes."""

    admin_api_key: str = field(repr=False)
    host: str
    port: int
    http_server: str
    database_path: str
    servers_file: str | None
    log_level: str
    log_format: str
    log_dir: str
    log_file: str
    log_max_bytes: int
    log_backup_count: int
    enable_console_logging: bool
    enable_file_logging: bool
    health_check_interval_seconds: float
    health_check_timeout_seconds: float
    health_check_concurrency: int
    max_consecutive_failures: int
    successes_to_recover: int
    eject_seconds: float
    eject_max_seconds: float
    auto_deregister_after_hours: float
    load_balancing: str
    max_retry_attempts: int
    connect_timeout_seconds: float
    tcp_user_timeout_seconds: float
    request_timeout_seconds: float
    stream_idle_timeout_seconds: float
    stream_max_seconds: float
    plain_max_seconds: float
    stream_keepalive_seconds: float
    client_write_timeout_seconds: float
    header_timeout_seconds: float
    body_timeout_seconds: float
    max_request_body_size: int
    max_response_body_size: int
    max_event_size: int
    default_max_concurrency: int
    queue_size: int
    queue_timeout_seconds: float
    require_client_api_key: bool
    client_api_keys: tuple[str, ...] = field(repr=False)
    rate_limit_enabled: bool
    rate_limit_requests_per_minute: int
    rate_limit_tokens_per_day: int
    rate_limit_requests_at_once: int
    rate_limits_by_role: tuple[tuple[str, tuple[int, int, int]], ...]
    usage_retention_days: float
    allow_private_addresses: bool
    trust_proxy_headers: bool
    cors_allow_origins: tuple[str, ...]
    include_gateway_server_id_header: bool
    metrics_token: str | None = field(repr=False)
    notify_webhook_url: str | None = field(repr=False)
    notify_email: tuple[str, ...]
    notify_after_seconds: float
    notify_gap_seconds: float
    smtp_host: str | None
    smtp_port: int
    smtp_security: str
    smtp_username: str | None
    smtp_password: str | None = field(repr=False)
    smtp_from: str | None
    otel_exporter_otlp_endpoint: str | None
    otel_exporter_otlp_headers: tuple[tuple[str, str], ...] = field(repr=False)
    otel_service_name: str
    otel_sdk_disabled: bool
    drain_seconds: float
    classroom_servers: int
    reload: bool


class _MappingEnv(Env):
    """environs over a mapping we give it: Env itself looks into `os.environ` first, whatever it was handed."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(eager=False)
        self._environ = dict(values)

    def _get_value(self, env_key: str, default: Any) -> Any:
        return self._environ.get(env_key, default)


def load_config(
    environ: Mapping[str, str] | None = None,
    dotenv_path: str | Path | None = ".env",
    overriding: Mapping[str, str] | None = None,
) -> Config:
    """Settings from `environ` (default: the process's), then from `dotenv_path` (None = no file), then the defaults.

    Variables in `overriding` win over all of them. Empty and blank values count as unset. `os.environ` is left as it
    was. Raises ConfigError, which names every fault.
    """
    given = os.environ if environ is None else environ
    values = {} if dotenv_path is None else _in_dotenv(Path(dotenv_path))
    values.update((variable, value.strip()) for variable, value in given.items() if value.strip())
    values.update(overriding or {})
    env = _MappingEnv(values)

    @env.parser_for("setting")
    def read_setting(text: str, *, read: Reader) -> object:
        try:
            return read(text)
        except ValueError as error:
            raise ValidationError(str(error)) from None

    parsed = {
        setting.field_name: env.setting(setting.variable, setting.default or "", read=setting.read)
        for setting in SETTINGS
    }
    problems = [*_sealed_problems(env), *_settle(parsed), *_conflicts(parsed)]
    if problems:
        raise ConfigError("; ".join(problems))
    return Config(**parsed)


def idle_settings(config: Config) -> Iterator[str]:
    """What is set and does nothing because another variable is off or empty, in one sentence for each such variable."""
    values = {setting.variable: getattr(config, setting.field_name) for setting in SETTINGS}
    defaults = {setting.variable: setting.read(setting.default) for setting in SETTINGS if setting.default is not None}
    for needed, dependent in IN_FORCE_WITH:
        idle = [variable for variable in dependent if values[variable] != defaults[variable]]
        if idle and not values[needed]:
            shown = f"{needed}=true" if values[needed] is False else needed
            yield f"{' and '.join(idle)}: set, but not in force without {shown}"


def notify_socket() -> str | None:
    """Where systemd waits for word of a unit with `Type=notify` (sd_notify(3)); None where it did not start us.

    No setting: nobody writes it, and a `.env` with an empty one would hide it.
    """
    return os.environ.get("NOTIFY_SOCKET") or None


def _in_dotenv(path: Path) -> dict[str, str]:
    try:
        return read_dotenv(path)
    except DotenvFailed as error:
        raise ConfigError(str(error)) from None


def _sealed_problems(env: Env) -> list[str]:
    """What environs found wrong, as `VARIABLE needs`; it reports all of it at once when it is sealed."""
    try:
        env.seal()
    except EnvValidationError as error:
        found = error.error_messages
        return (
            [f"{variable} {needs[0]}" for variable, needs in found.items()] if isinstance(found, Mapping) else [*found]
        )
    return []


def _settle(parsed: dict[str, Any]) -> Iterator[str]:
    """Of two settings that limit each other the default follows what was set, in place; else that is a problem.

    A default yields however it came: whoever copies .env.example has written all of them out.
    """
    rows = {setting.variable: setting for setting in SETTINGS}
    for larger in SETTINGS:
        if larger.at_least is None:
            continue
        smaller = rows[larger.at_least]
        most, least = parsed[larger.field_name], parsed[smaller.field_name]
        if most is None or least is None or most >= least:
            continue
        if most == larger.read(larger.default or ""):
            parsed[larger.field_name] = least
        elif least == smaller.read(smaller.default or ""):
            parsed[smaller.field_name] = most
        else:
            yield f"{larger.variable} must be at least {smaller.variable}"


def _conflicts(parsed: Mapping[str, Any]) -> Iterator[str]:
    """Settings that are fine alone and wrong together; one that is wrong alone is None here."""
    if parsed["admin_api_key"] is not None and parsed["admin_api_key"] in (parsed["client_api_keys"] or ()):
        yield "CLIENT_API_KEYS must not contain ADMIN_API_KEY (every client would be an admin)"
    if parsed["smtp_host"] and not parsed["smtp_from"]:
        yield "SMTP_FROM must be set where SMTP_HOST is"
    if parsed["notify_email"] and not parsed["smtp_host"]:
        yield "NOTIFY_EMAIL needs SMTP_HOST (without a mail server nothing can be sent)"
    if parsed["smtp_username"] and not parsed["smtp_password"]:
        yield "SMTP_PASSWORD must be set where SMTP_USERNAME is"
    if parsed["classroom_servers"] and parsed["allow_private_addresses"] is False:
        yield "CLASSROOM_SERVERS needs ALLOW_PRIVATE_ADDRESSES=true (they are on this machine)"
