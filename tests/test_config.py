"""Settings: defaults, every good and bad value, and the one line in which faults are told."""

from __future__ import annotations

import dataclasses

import pytest

from multiverse.config import SETTINGS, Config, ConfigError, idle_settings, load_config

ADMIN_KEY = "s3cure-admin-key-of-a-test"

# The contract's defaults, written out a second time on purpose: SETTINGS must not drift.
DEFAULTS = {
    "host": "0.0.0.0",
    "port": 8000,
    "http_server": "multiverse",
    "database_path": "./gateway.db",
    "servers_file": None,
    "log_level": "INFO",
    "log_format": "text",
    "log_dir": "logs",
    "log_file": "gateway.log",
    "log_max_bytes": 10485760,
    "log_backup_count": 5,
    "enable_console_logging": True,
    "enable_file_logging": True,
    "health_check_interval_seconds": 60.0,
    "health_check_timeout_seconds": 10.0,
    "health_check_concurrency": 32,
    "max_consecutive_failures": 3,
    "successes_to_recover": 1,
    "eject_seconds": 10.0,
    "eject_max_seconds": 120.0,
    "auto_deregister_after_hours": 0.0,
    "load_balancing": "round_robin",
    "max_retry_attempts": 2,
    "connect_timeout_seconds": 5.0,
    "tcp_user_timeout_seconds": 20.0,
    "request_timeout_seconds": 300.0,
    "stream_idle_timeout_seconds": 60.0,
    "stream_max_seconds": 3600.0,
    "plain_max_seconds": 0.0,
    "stream_keepalive_seconds": 10.0,
    "client_write_timeout_seconds": 30.0,
    "header_timeout_seconds": 10.0,
    "body_timeout_seconds": 30.0,
    "max_request_body_size": 20971520,
    "max_response_body_size": 67108864,
    "max_event_size": 1048576,
    "default_max_concurrency": 0,
    "queue_size": 64,
    "queue_timeout_seconds": 60.0,
    "require_client_api_key": False,
    "client_api_keys": (),
    "rate_limit_enabled": False,
    "rate_limit_requests_per_minute": 60,
    "rate_limit_tokens_per_day": 0,
    "rate_limit_requests_at_once": 0,
    "rate_limits_by_role": (),
    "usage_retention_days": 90.0,
    "allow_private_addresses": True,
    "trust_proxy_headers": False,
    "cors_allow_origins": ("*",),
    "include_gateway_server_id_header": True,
    "metrics_token": None,
    "notify_webhook_url": None,
    "notify_email": (),
    "notify_after_seconds": 300.0,
    "notify_gap_seconds": 600.0,
    "smtp_host": None,
    "smtp_port": 587,
    "smtp_security": "starttls",
    "smtp_username": None,
    "smtp_password": None,
    "smtp_from": None,
    "otel_exporter_otlp_endpoint": None,
    "otel_exporter_otlp_headers": (),
    "otel_service_name": "multiverse",
    "otel_sdk_disabled": False,
    "drain_seconds": 25.0,
    "classroom_servers": 0,
    "reload": False,
}
ABOVE_ZERO = [
    "HEALTH_CHECK_INTERVAL_SECONDS",
    "HEALTH_CHECK_TIMEOUT_SECONDS",
    "EJECT_SECONDS",
    "EJECT_MAX_SECONDS",
    "CONNECT_TIMEOUT_SECONDS",
    "REQUEST_TIMEOUT_SECONDS",
    "STREAM_IDLE_TIMEOUT_SECONDS",
    "STREAM_MAX_SECONDS",
    "CLIENT_WRITE_TIMEOUT_SECONDS",
    "HEADER_TIMEOUT_SECONDS",
    "BODY_TIMEOUT_SECONDS",
    "NOTIFY_AFTER_SECONDS",
    "NOTIFY_GAP_SECONDS",
]
ZERO_MEANS_OFF = [
    "TCP_USER_TIMEOUT_SECONDS",
    "AUTO_DEREGISTER_AFTER_HOURS",
    "PLAIN_MAX_SECONDS",
    "STREAM_KEEPALIVE_SECONDS",
    "QUEUE_TIMEOUT_SECONDS",
    "DRAIN_SECONDS",
]
FROM_ONE = [
    "LOG_MAX_BYTES",
    "HEALTH_CHECK_CONCURRENCY",
    "MAX_CONSECUTIVE_FAILURES",
    "SUCCESSES_TO_RECOVER",
    "MAX_REQUEST_BODY_SIZE",
    "MAX_RESPONSE_BODY_SIZE",
    "MAX_EVENT_SIZE",
    "RATE_LIMIT_REQUESTS_PER_MINUTE",
    "SMTP_PORT",
]
FROM_ZERO = ["LOG_BACKUP_COUNT", "MAX_RETRY_ATTEMPTS", "QUEUE_SIZE", "PORT"]
FROM_ZERO += ["DEFAULT_MAX_CONCURRENCY", "RATE_LIMIT_TOKENS_PER_DAY", "RATE_LIMIT_REQUESTS_AT_ONCE"]
FLAGS = [
    "ENABLE_CONSOLE_LOGGING",
    "ENABLE_FILE_LOGGING",
    "REQUIRE_CLIENT_API_KEY",
    "RATE_LIMIT_ENABLED",
    "ALLOW_PRIVATE_ADDRESSES",
    "TRUST_PROXY_HEADERS",
    "INCLUDE_GATEWAY_SERVER_ID_HEADER",
    "RELOAD",
]
NOT_WHOLE = ["-1", "1.5", "many", "1_000", "٣", "0x10", "1e3", "9" * 5000]
NOT_A_TIME = ["-1", "-0.001", "nan", "inf", "-inf", "1e400", "soon", "1_0", "5s", "٣", "1e10"]


def load(**variables: str) -> Config:
    """The configuration that these variables give, with an admin key, without a `.env`."""
    return load_config({"ADMIN_API_KEY": ADMIN_KEY, **variables}, dotenv_path=None)


def refusal(**variables: str) -> str:
    """The one line with which these variables are refused."""
    with pytest.raises(ConfigError) as caught:
        load(**variables)
    text = str(caught.value)
    assert "\n" not in text
    assert "\r" not in text
    return text


def test_defaults_are_the_contracts() -> None:
    values = dataclasses.asdict(load())
    assert values.pop("admin_api_key") == ADMIN_KEY
    assert values == DEFAULTS
    assert {name: type(value) for name, value in values.items()} == {
        name: type(value) for name, value in DEFAULTS.items()
    }


def test_settings_and_config_name_the_same_things_in_the_same_order() -> None:
    assert [setting.field_name for setting in SETTINGS] == [entry.name for entry in dataclasses.fields(Config)]
    assert len({setting.variable for setting in SETTINGS}) == len(SETTINGS) == 70
    assert [setting.variable for setting in SETTINGS if setting.default is None] == ["ADMIN_API_KEY"]
    assert all(setting.meaning and "\n" not in setting.meaning for setting in SETTINGS)


def test_config_is_frozen_and_has_no_dict() -> None:
    config = load()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = 1  # type: ignore[misc]
    assert not hasattr(config, "__dict__")


def test_secrets_are_not_in_the_repr() -> None:
    config = load(CLIENT_API_KEYS="client-key-one,client-key-two", METRICS_TOKEN="metrics-secret")
    for secret in (ADMIN_KEY, "client-key-one", "client-key-two", "metrics-secret"):
        assert secret not in repr(config)
        assert secret not in str(config)
    assert "port=8000" in repr(config)


@pytest.mark.parametrize("variable", ABOVE_ZERO + ZERO_MEANS_OFF)
def test_every_timer_takes_fractions_and_refuses_the_rest(variable: str) -> None:
    field_name = variable.lower()
    assert getattr(load(**{variable: "0.25", "EJECT_SECONDS": "0.25"}), field_name) == 0.25
    for value in NOT_A_TIME:
        assert refusal(**{variable: value}).startswith(f"{variable} must be a number of ")
    if variable in ZERO_MEANS_OFF:
        assert getattr(load(**{variable: "0"}), field_name) == 0.0
    else:
        assert refusal(**{variable: "0"}).startswith(f"{variable} must be a number of ")


def test_every_timer_is_tested() -> None:
    timers = {setting.variable for setting in SETTINGS if setting.variable.endswith(("_SECONDS", "_HOURS"))}
    assert timers == {*ABOVE_ZERO, *ZERO_MEANS_OFF}


@pytest.mark.parametrize("variable", FROM_ONE + FROM_ZERO)
def test_every_count_and_size_is_a_whole_number(variable: str) -> None:
    assert getattr(load(**{variable: "7"}), variable.lower()) == 7
    for value in NOT_WHOLE:
        assert refusal(**{variable: value}).startswith(f"{variable} must be a whole number from ")
    if variable in FROM_ZERO:
        assert getattr(load(**{variable: "0"}), variable.lower()) == 0
    else:
        assert refusal(**{variable: "0"}).startswith(f"{variable} must be a whole number from 1 ")


def test_port_ends_at_65535() -> None:
    assert load(PORT="65535").port == 65535
    assert refusal(PORT="65536").startswith("PORT must be a whole number from 1 to 65535")


@pytest.mark.parametrize("variable", FLAGS)
def test_every_flag(variable: str) -> None:
    for text in ("true", "TRUE", "True", "1", "yes", "on"):
        assert getattr(load(**{variable: text}), variable.lower()) is True
    for text in ("false", "FALSE", "0", "no", "off"):
        assert getattr(load(**{variable: text}), variable.lower()) is False
    for text in ("maybe", "2", "wahr"):
        assert refusal(**{variable: text}) == f"{variable} must be true or false"


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("LOG_LEVEL", "Critical", "CRITICAL"),
        ("LOG_FORMAT", "JSON", "json"),
        ("LOAD_BALANCING", "Least_Busy", "least_busy"),
    ],
)
def test_choices_in_any_case(variable: str, text: str, value: str) -> None:
    assert getattr(load(**{variable: text}), variable.lower()) == value
    assert refusal(**{variable: "other"}).startswith(f"{variable} must be one of ")


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("HOST", "http://0.0.0.0", "HOST must be an address"),
        ("HOST", "two words", "HOST must be an address"),
        ("LOG_FILE", "logs/gateway.log", "LOG_FILE must be a file name"),
        ("LOG_FILE", "..", "LOG_FILE must be a file name"),
        ("LOG_FILE", "line\nbreak", "LOG_FILE must be a file name"),
        ("LOG_DIR", "line\nbreak", "LOG_DIR must be a directory"),
        ("DATABASE_URL", "gateway.db", "DATABASE_URL must be a SQLite address"),
        ("DATABASE_URL", "postgresql://user:secret@host/db", "DATABASE_URL must be a SQLite address"),
        ("DATABASE_URL", "sqlite://", "DATABASE_URL must name a file"),
        ("DATABASE_URL", "sqlite:///", "DATABASE_URL must name a file"),
        ("DATABASE_URL", "sqlite:///:memory:", "DATABASE_URL must name a file"),
        ("DATABASE_URL", "sqlite://:memory:", "DATABASE_URL must name a file"),
        ("DATABASE_URL", "sqlite+aiosqlite:///:memory:", "DATABASE_URL must name a file"),
        ("DATABASE_URL", "sqlite:///file:x?mode=memory", "DATABASE_URL must name a file"),
        ("DATABASE_URL", "sqlite://gateway.db", "DATABASE_URL must have three slashes"),
        ("DATABASE_URL", "sqlite:///gateway.db?timeout=5", "DATABASE_URL must end in the name of a file"),
        ("DATABASE_URL", "sqlite:///data/", "DATABASE_URL must end in the name of a file"),
        ("DATABASE_URL", "sqlite:///a\nb.db", "DATABASE_URL must end in the name of a file"),
        ("CLIENT_API_KEYS", "schlüssel-eins", "CLIENT_API_KEYS must be keys of printable ASCII"),
        ("CLIENT_API_KEYS", "long-enough,a\tb", "CLIENT_API_KEYS must be keys of printable ASCII"),
        ("CLIENT_API_KEYS", f"client-key,{ADMIN_KEY}", "CLIENT_API_KEYS must not contain ADMIN_API_KEY"),
        ("METRICS_TOKEN", "tok\x00en", "METRICS_TOKEN must be printable ASCII"),
        ("NOTIFY_WEBHOOK_URL", "discord.com/api/webhooks/1/planted", "NOTIFY_WEBHOOK_URL must be an address"),
        ("NOTIFY_EMAIL", "teacher", "NOTIFY_EMAIL must be e-mail addresses"),
        ("NOTIFY_EMAIL", "teacher@class.example", "NOTIFY_EMAIL needs SMTP_HOST"),
        ("SMTP_HOST", "mail.class.example", "SMTP_FROM must be set where SMTP_HOST is"),
        ("SMTP_FROM", "one@class.example,two@class.example", "SMTP_FROM must be one e-mail address"),
        ("SMTP_USERNAME", "gateway", "SMTP_PASSWORD must be set"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318", "OTEL_EXPORTER_OTLP_ENDPOINT must be an address"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@host", "OTEL_EXPORTER_OTLP_ENDPOINT must be an address"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "OTEL_EXPORTER_OTLP_HEADERS must be name=value"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret%0Ab", "OTEL_EXPORTER_OTLP_HEADERS must be name=value"),
        ("CORS_ALLOW_ORIGINS", "class.example", "CORS_ALLOW_ORIGINS must be *"),
        ("CORS_ALLOW_ORIGINS", "https://class.example/path", "CORS_ALLOW_ORIGINS must be *"),
        ("CORS_ALLOW_ORIGINS", "https://*.example", "CORS_ALLOW_ORIGINS must be *"),
        ("CORS_ALLOW_ORIGINS", "https://class.example,*", "CORS_ALLOW_ORIGINS must be *"),
        ("CORS_ALLOW_ORIGINS", "null", "CORS_ALLOW_ORIGINS must be *"),
    ],
)
def test_bad_texts(variable: str, value: str, told: str) -> None:
    text = refusal(**{variable: value})
    assert text.startswith(told)
    assert "secret" not in text
    assert ADMIN_KEY not in text


def test_pretend_servers_are_on_this_machine() -> None:
    told = refusal(CLASSROOM_SERVERS="3", ALLOW_PRIVATE_ADDRESSES="false")
    assert told.startswith("CLASSROOM_SERVERS needs ALLOW_PRIVATE_ADDRESSES=true")
    assert load_config({"ADMIN_API_KEY": ADMIN_KEY}, None, {"CLASSROOM_SERVERS": "3"}).classroom_servers == 3


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///./gateway.db", "./gateway.db"),
        ("sqlite:///data/gateway.db", "data/gateway.db"),
        ("sqlite:////var/lib/absolute.db", "/var/lib/absolute.db"),
        ("sqlite+aiosqlite:///./gateway.db", "./gateway.db"),
        ("sqlite+aiosqlite:////absolute.db", "/absolute.db"),
        ("SQLite:///C:/class/gateway.db", "C:/class/gateway.db"),
        ("sqlite:///mit leerzeichen/größe.db", "mit leerzeichen/größe.db"),
    ],
)
def test_database_addresses(url: str, path: str) -> None:
    assert load(DATABASE_URL=url).database_path == path


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("CLIENT_API_KEYS", " key-number-one , key number two,,key-number-one ", ("key-number-one", "key number two")),
        ("CLIENT_API_KEYS", "ada1,k2,3", ("ada1", "k2", "3")),
        ("CORS_ALLOW_ORIGINS", "none", ()),
        ("CORS_ALLOW_ORIGINS", "https://A.example/, http://[::1]:3000", ("https://a.example", "http://[::1]:3000")),
        ("METRICS_TOKEN", " token with spaces ", "token with spaces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel.example/base", "https://otel.example/base"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "X-Key=a%20b,,other = c=d ", (("x-key", "a b"), ("other", "c=d"))),
        ("HOST", "::", "::"),
        ("HOST", "localhost", "localhost"),
    ],
)
def test_good_texts(variable: str, text: str, value: object) -> None:
    assert getattr(load(**{variable: text}), variable.lower()) == value


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("", "ADMIN_API_KEY must be set, to at least 16 characters; make one with: python3 -c "),
        ("   ", "ADMIN_API_KEY must be set, to at least 16 characters; make one with: python3 -c "),
        ("fifteen-letters", "ADMIN_API_KEY must be at least 16 characters"),
        ("schlüssel-der-verwaltung", "ADMIN_API_KEY must be printable ASCII characters only"),
        ("tab\tin-the-middle-of-it", "ADMIN_API_KEY must be printable ASCII characters only"),
        ("your-secure-api-key-here-minimum-16-chars", "ADMIN_API_KEY is still the example's; make one with: "),
        ('"your-secure-api-key-here-minimum-16-chars"', "ADMIN_API_KEY is still the example's; make one with: "),
        ("YOUR-secure-api-key-here-minimum-16-chars", "ADMIN_API_KEY is still the example's; make one with: "),
        ("your-admin-api-key", "ADMIN_API_KEY is still the example's; make one with: "),
    ],
)
def test_bad_admin_keys(key: str, told: str) -> None:
    text = refusal(ADMIN_API_KEY=key)
    assert text.startswith(told)
    assert not key.strip() or key not in text


def test_admin_key_missing_altogether_and_how_to_make_one() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({}, dotenv_path=None)
    assert str(caught.value).endswith("make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'")


def test_admin_key_may_have_spaces_inside_and_loses_those_around() -> None:
    assert load(ADMIN_API_KEY="  correct horse battery staple\n").admin_api_key == "correct horse battery staple"


def test_all_faults_at_once_in_one_line() -> None:
    text = refusal(
        ADMIN_API_KEY="short",
        PORT="http",
        DRAIN_SECONDS="nan",
        EJECT_SECONDS="500",
        EJECT_MAX_SECONDS="121",
        LOG_FORMAT="xml",
    )
    for told in ("ADMIN_API_KEY must", "PORT must", "DRAIN_SECONDS must", "LOG_FORMAT must", "EJECT_MAX_SECONDS must"):
        assert told in text
    assert "HOST" not in text
    assert text.startswith("ADMIN_API_KEY must be at least 16 characters; PORT must be a whole number from 1 to 65535")


def test_longest_ejection_is_not_shorter_than_the_first() -> None:
    assert load(EJECT_SECONDS="3", EJECT_MAX_SECONDS="3").eject_max_seconds == 3.0
    shorter = load(EJECT_MAX_SECONDS="2")
    assert (shorter.eject_seconds, shorter.eject_max_seconds) == (2.0, 2.0), "the default is not what was asked for"
    assert load(EJECT_SECONDS="10", EJECT_MAX_SECONDS="2").eject_seconds == 2.0
    assert load(EJECT_MAX_SECONDS="200").eject_seconds == 10.0
    assert load(EJECT_SECONDS="3").eject_max_seconds == 120.0
    assert load(EJECT_SECONDS="500").eject_max_seconds == 500.0, "one that nobody has set stands in nobody's way"
    written_out = load(EJECT_SECONDS="500", EJECT_MAX_SECONDS="120.0")
    assert written_out.eject_max_seconds == 500.0, "nor does the default in a copy of .env.example"
    assert refusal(EJECT_SECONDS="3", EJECT_MAX_SECONDS="2") == "EJECT_MAX_SECONDS must be at least EJECT_SECONDS"
    assert "at least EJECT_SECONDS" not in refusal(EJECT_SECONDS="500", EJECT_MAX_SECONDS="x")


def test_what_is_set_and_not_in_force_is_told() -> None:
    limits = {"RATE_LIMIT_TOKENS_PER_DAY": "50000", "RATE_LIMITS_BY_ROLE": "reader=30/0/0"}
    assert [*idle_settings(load(**limits))] == [
        "RATE_LIMIT_TOKENS_PER_DAY and RATE_LIMITS_BY_ROLE: set, but not in force without RATE_LIMIT_ENABLED=true"
    ]
    assert not [*idle_settings(load(**limits, RATE_LIMIT_ENABLED="true"))]
    written_out = {row.variable: row.default for row in SETTINGS if row.default}
    assert not [*idle_settings(load(**written_out))], "a copy of .env.example sets nothing"
    mail = {"SMTP_FROM": "gateway@class.example"}
    assert [*idle_settings(load(**mail))] == ["SMTP_FROM: set, but not in force without SMTP_HOST"]
    assert not [*idle_settings(load(**mail, SMTP_HOST="mail.class.example"))]


@pytest.mark.parametrize("blank", ["", "  ", "\t"])
def test_blank_counts_as_unset(blank: str) -> None:
    blanks = {setting.variable: blank for setting in SETTINGS if setting.default is not None}
    assert load(**blanks) == load()
