"""The table of settings: every variable with its default, its meaning, and the reader of its text.

`load_config`, `.env.example` and the documentation are held to SETTINGS. A reader is a plain function from text to
value; its errors never repeat the text, since that may be a secret. Where values come from is config.py's affair.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote

ADMIN_API_KEY_MIN_LENGTH = 16
GUESSABLE_LENGTH = 8
EXAMPLE_ADMIN_API_KEYS = frozenset({"your-secure-api-key-here-minimum-16-chars", "your-admin-api-key"})
MAKE_A_KEY = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
COUNT_MAX = 1_000_000
TOKENS_MAX = 2_000_000_000
ROLES_WITH_LIMITS = ("admin", "student", "reader", "anonymous")
SIZE_MAX_BYTES = 1_000_000_000_000
DURATION_MAX = 1_000_000_000  # event loops overflow on timers that lie thousands of years ahead


Reader = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable: its `default` as written in `.env` (None = required, "" = none), and how its text is read.

    `read` raises ValueError with what the variable needs, worded to follow the variable's name. The value may not be
    below that of the variable `at_least`; whichever of the two is the default follows the other.
    """

    variable: str
    default: str | None
    meaning: str
    read: Reader = field(repr=False)
    at_least: str | None = None

    @property
    def field_name(self) -> str:
        """The field of Config that holds the value."""
        return "database_path" if self.variable == "DATABASE_URL" else self.variable.lower()


def _flag(text: str) -> bool:
    """`true` or `false`, in the spellings people use."""
    if text.lower() in {"true", "yes", "on", "1"}:
        return True
    if text.lower() in {"false", "no", "off", "0"}:
        return False
    raise ValueError("must be true or false")


def _whole(minimum: int, maximum: int = COUNT_MAX, *, advice: str | None = None) -> Reader:
    """A reader of whole numbers in plain digits; `advice` replaces the description of the range."""
    needs = advice or f"must be a whole number from {minimum} to {maximum}"

    def read(text: str) -> int:
        # int() alone would take "1_000" and digits of other scripts, and refuse very long ones with another exception.
        if not re.fullmatch(r"[0-9]{1,18}", text) or not minimum <= int(text) <= maximum:
            raise ValueError(needs)
        return int(text)

    return read


def _duration(unit: str = "seconds", *, zero: str | None = None) -> Reader:
    """A reader of durations, fractions included; `zero` says what 0 means where it is allowed."""
    limit = f"at most {DURATION_MAX}"
    needs = f"must be a number of {unit} above 0, {limit}" + (f", or 0 = {zero}" if zero else "")

    def read(text: str) -> float:
        # float() alone would take "nan", "inf", "1_0" and digits of other scripts.
        try:
            value = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not (0 < value <= DURATION_MAX or (zero and value == 0)):
            raise ValueError(needs)
        return value

    return read


def _choice(*options: str) -> Reader:
    """A reader of one word out of `options`, in any case; the value is spelled as in `options`."""
    spelled = {option.lower(): option for option in options}

    def read(text: str) -> str:
        if text.lower() not in spelled:
            raise ValueError(f"must be one of {', '.join(options)}")
        return spelled[text.lower()]

    return read


def _matching(pattern: str, needs: str) -> Reader:
    """A reader of text that has to match `pattern` as a whole."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(needs)
        return text

    return read


def _is_header_safe(text: str) -> bool:
    """Whether `text` survives the way through an HTTP header (RFC 9110 §5.5: visible ASCII and inner spaces)."""
    return all(" " <= character <= "~" for character in text)


def _admin_api_key(text: str) -> str:
    if not text:
        raise ValueError(f"must be set, to at least {ADMIN_API_KEY_MIN_LENGTH} characters; {MAKE_A_KEY}")
    # `docker --env-file` keeps the quotes that the example shows.
    if text.strip("\"'").lower() in EXAMPLE_ADMIN_API_KEYS:
        raise ValueError(f"is still the example's; {MAKE_A_KEY}")
    if len(text) < ADMIN_API_KEY_MIN_LENGTH:
        raise ValueError(f"must be at least {ADMIN_API_KEY_MIN_LENGTH} characters")
    if not _is_header_safe(text):
        raise ValueError("must be printable ASCII characters only (it travels in a header)")
    return text


def _client_api_keys(text: str) -> tuple[str, ...]:
    keys = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not all(map(_is_header_safe, keys)):
        raise ValueError("must be keys of printable ASCII characters, separated by commas (they travel in a header)")
    return keys


def _limits_by_role(text: str) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    limits: dict[str, tuple[int, int, int]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        role, _sign, figures = part.partition("=")
        numbers = [figure.strip() for figure in figures.split("/")]
        whole = all(re.fullmatch("[0-9]{1,10}", number) and int(number) <= TOKENS_MAX for number in numbers)
        if role.strip() not in ROLES_WITH_LIMITS or len(numbers) != 3 or not whole:
            raise ValueError(
                "must be like reader=30/50000/2,anonymous=10/0/1: requests per minute, tokens per day and requests at "
                f"once (0 = no limit) for any of {', '.join(ROLES_WITH_LIMITS)}"
            )
        limits[role.strip()] = (int(numbers[0]), int(numbers[1]), int(numbers[2]))
    return tuple(limits.items())


def _metrics_token(text: str) -> str | None:
    if not _is_header_safe(text):
        raise ValueError("must be printable ASCII characters only (it travels in a header)")
    return text or None


def _collector(text: str) -> str | None:
    if not re.fullmatch(r"(?:https?://[^\s/@?#]+(?:/[^\s?#]*)?)?", text, re.ASCII):
        raise ValueError("must be an address such as http://localhost:4318, without user name, query or fragment")
    return text or None


def _collector_headers(text: str) -> tuple[tuple[str, str], ...]:
    """`name=value` with commas between, percent-encoded (OpenTelemetry's specification of OTLP exporters)."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    headers = tuple((name.strip().lower(), unquote(value.strip())) for name, _equals, value in pairs)
    if not all(re.fullmatch(r"[a-z0-9_-]+", name) and value and _is_header_safe(value) for name, value in headers):
        raise ValueError("must be name=value, with commas between several, in printable ASCII characters")
    return headers


def _servers_file(text: str) -> str | None:
    if not text.isprintable():
        raise ValueError("must be a file, such as servers.json")
    return text or None


def _web_address(text: str) -> str | None:
    # RFC 3986's characters; a webhook's path and query are its secret, so nothing of the text is repeated.
    if text and not re.fullmatch(r"https?://[^\s/?#@\\]+(?:[/?][!-~]*)?", text, re.ASCII):
        raise ValueError("must be an address such as https://discord.com/api/webhooks/…")
    return text or None


def _mail_addresses(text: str) -> tuple[str, ...]:
    addresses = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not all(re.fullmatch(r"[!-?A-~]+@[A-Za-z0-9.-]+", address, re.ASCII) for address in addresses):
        raise ValueError("must be e-mail addresses, separated by commas")
    return addresses


def _mail_address(text: str) -> str | None:
    if len(_mail_addresses(text)) > 1:
        raise ValueError("must be one e-mail address")
    return text or None


def _optional(pattern: str, needs: str) -> Reader:
    """A reader of text that may be empty, and else has to match `pattern` as a whole; None when it is empty."""

    def read(text: str) -> str | None:
        if text and not re.fullmatch(pattern, text):
            raise ValueError(needs)
        return text or None

    return read


def _cors_allow_origins(text: str) -> tuple[str, ...]:
    if text.lower() == "none":
        return ()
    # A browser's `Origin` has neither a trailing slash nor capitals (RFC 6454 §6.2).
    origins = tuple(dict.fromkeys(part.strip().rstrip("/").lower() for part in text.split(",") if part.strip()))
    if origins != ("*",) and not all(re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@*]+", origin) for origin in origins):
        raise ValueError("must be *, none, or origins such as https://class.example, separated by commas")
    return origins


def _database_path(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() not in {"sqlite", "sqlite+aiosqlite"}:
        raise ValueError("must be a SQLite address such as sqlite:///./gateway.db")
    if rest.strip("/") in {"", ":memory:"} or "mode=memory" in rest:
        raise ValueError("must name a file such as sqlite:///./gateway.db; registrations have to outlive a restart")
    if not rest.startswith("/"):
        raise ValueError("must have three slashes before a relative path and four before an absolute one")
    if not rest.isprintable() or "?" in rest or rest.endswith("/"):
        raise ValueError("must end in the name of a file, such as sqlite:///./gateway.db, without options")
    return rest[1:]


_ORIGINS_MEANING = "web pages that may call /v1: *, none, or origins separated by commas"

SETTINGS: tuple[Setting, ...] = (
    Setting("ADMIN_API_KEY", None, "the admin's key, at least 16 characters; required", _admin_api_key),
    Setting(
        "HOST", "0.0.0.0", "address to listen on", _matching(r"[A-Za-z0-9_.:%-]+", "must be an address or a host name")
    ),
    Setting(
        "PORT",
        "8000",
        "port to listen on; 0 = any free one",
        _whole(0, 65535, advice="must be a whole number from 1 to 65535, or 0 = any free port"),
    ),
    Setting(
        "HTTP_SERVER", "multiverse", "what speaks to clients: multiverse or tornado", _choice("multiverse", "tornado")
    ),
    Setting("DATABASE_URL", "sqlite:///./gateway.db", "the SQLite file; absolute: sqlite:////path", _database_path),
    Setting("SERVERS_FILE", "", "servers to register when none is, as `servers export` writes them", _servers_file),
    Setting(
        "LOG_LEVEL",
        "INFO",
        "least severe level logged: DEBUG, INFO, WARNING, ERROR or CRITICAL",
        _choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    ),
    Setting("LOG_FORMAT", "text", "text or json", _choice("text", "json")),
    Setting("LOG_DIR", "logs", "directory of the log file", _matching(r"[^\x00-\x1f\x7f]+", "must be a directory")),
    Setting(
        "LOG_FILE",
        "gateway.log",
        "name of the log file",
        _matching(r"(?!\.{1,2}$)[^\x00-\x1f\x7f/\\]+", "must be a file name; its directory is LOG_DIR"),
    ),
    Setting("LOG_MAX_BYTES", "10485760", "size at which the log file is rotated, bytes", _whole(1, SIZE_MAX_BYTES)),
    Setting("LOG_BACKUP_COUNT", "5", "rotated log files kept; 0 = the one file starts afresh", _whole(0, 10_000)),
    Setting("ENABLE_CONSOLE_LOGGING", "true", "log to the console (stderr)", _flag),
    Setting("ENABLE_FILE_LOGGING", "true", "log to the file", _flag),
    Setting("HEALTH_CHECK_INTERVAL_SECONDS", "60", "time between two sweeps", _duration()),
    Setting("HEALTH_CHECK_TIMEOUT_SECONDS", "10", "time a probe may take", _duration()),
    Setting("HEALTH_CHECK_CONCURRENCY", "32", "probes side by side", _whole(1, 10_000)),
    Setting("MAX_CONSECUTIVE_FAILURES", "3", "failures in a row that make unhealthy, or eject", _whole(1)),
    Setting("SUCCESSES_TO_RECOVER", "1", "good probes in a row that make healthy again", _whole(1)),
    Setting("EJECT_SECONDS", "10", "first time out after failing requests; it doubles", _duration()),
    Setting("EJECT_MAX_SECONDS", "120", "longest time out", _duration(), at_least="EJECT_SECONDS"),
    Setting(
        "AUTO_DEREGISTER_AFTER_HOURS",
        "0",
        "unhealthy that long = forgotten; 0 = never",
        _duration("hours", zero="never"),
    ),
    Setting("LOAD_BALANCING", "round_robin", "round_robin or least_busy", _choice("round_robin", "least_busy")),
    Setting("MAX_RETRY_ATTEMPTS", "2", "other servers tried after the first", _whole(0, 1000)),
    Setting("CONNECT_TIMEOUT_SECONDS", "5", "time to connect to a server", _duration()),
    Setting(
        "TCP_USER_TIMEOUT_SECONDS",
        "20",
        "time a machine may acknowledge nothing before it counts as gone; 0 = minutes, as the system has it",
        _duration(zero="as the system has it"),
    ),
    Setting("REQUEST_TIMEOUT_SECONDS", "300", "time to a stream's first event, or a plain answer's end", _duration()),
    Setting("STREAM_IDLE_TIMEOUT_SECONDS", "60", "silence of a server that ends a stream", _duration()),
    Setting("STREAM_MAX_SECONDS", "3600", "longest life of a stream", _duration()),
    Setting("PLAIN_MAX_SECONDS", "0", "longest life of a plain request; 0 = no limit", _duration(zero="no limit")),
    Setting("STREAM_KEEPALIVE_SECONDS", "10", "silence before a keep-alive; 0 = none", _duration(zero="none")),
    Setting("CLIENT_WRITE_TIMEOUT_SECONDS", "30", "time a client may stop reading", _duration()),
    Setting("HEADER_TIMEOUT_SECONDS", "10", "time to read a request's headers", _duration()),
    Setting("BODY_TIMEOUT_SECONDS", "30", "time to read a request's body", _duration()),
    Setting("MAX_REQUEST_BODY_SIZE", "20971520", "largest request body, bytes", _whole(1, SIZE_MAX_BYTES)),
    Setting("MAX_RESPONSE_BODY_SIZE", "67108864", "largest plain answer, bytes", _whole(1, SIZE_MAX_BYTES)),
    Setting("MAX_EVENT_SIZE", "1048576", "largest event of a stream, bytes", _whole(1, SIZE_MAX_BYTES)),
    Setting("DEFAULT_MAX_CONCURRENCY", "0", "slots of a server that tells none; 0 = no limit", _whole(0)),
    Setting("QUEUE_SIZE", "64", "requests that wait for a slot, per model; 0 = refuse at once", _whole(0)),
    Setting("QUEUE_TIMEOUT_SECONDS", "60", "time a request may wait for a slot, in all", _duration(zero="do not wait")),
    Setting("REQUIRE_CLIENT_API_KEY", "false", "whether /v1 asks for a known key", _flag),
    Setting("CLIENT_API_KEYS", "", "clients' keys, separated by commas", _client_api_keys),
    Setting("RATE_LIMIT_ENABLED", "false", "whether each client is limited", _flag),
    Setting("RATE_LIMIT_REQUESTS_PER_MINUTE", "60", "POST requests to /v1 per client and minute", _whole(1)),
    Setting("RATE_LIMIT_TOKENS_PER_DAY", "0", "tokens per client and day; 0 = no limit", _whole(0, TOKENS_MAX)),
    Setting("RATE_LIMIT_REQUESTS_AT_ONCE", "0", "requests under way per client; 0 = no limit", _whole(0)),
    Setting(
        "RATE_LIMITS_BY_ROLE", "", "others for a role, as role=PER_MINUTE/TOKENS_PER_DAY/AT_ONCE,…", _limits_by_role
    ),
    Setting(
        "USAGE_RETENTION_DAYS", "90", "rows of single requests are kept; 0 = always", _duration("days", zero="always")
    ),
    Setting("ALLOW_PRIVATE_ADDRESSES", "true", "whether servers may be on private networks", _flag),
    Setting("TRUST_PROXY_HEADERS", "false", "take the client from X-Forwarded-For; only behind a proxy", _flag),
    Setting("CORS_ALLOW_ORIGINS", "*", _ORIGINS_MEANING, _cors_allow_origins),
    Setting("INCLUDE_GATEWAY_SERVER_ID_HEADER", "true", "name the server in X-Gateway-Server-ID", _flag),
    Setting("METRICS_TOKEN", "", "token that /metrics asks for; empty = open to all", _metrics_token),
    Setting("NOTIFY_WEBHOOK_URL", "", "where people hear of servers that fall silent or come back", _web_address),
    Setting("NOTIFY_EMAIL", "", "the admin's e-mail addresses, told the same; needs SMTP_HOST", _mail_addresses),
    Setting("NOTIFY_AFTER_SECONDS", "300", "how long a server is unhealthy before anybody is told", _duration()),
    Setting("NOTIFY_GAP_SECONDS", "600", "least time between two messages about one server", _duration()),
    Setting(
        "SMTP_HOST",
        "",
        "mail server; empty = no e-mail",
        _optional(r"[A-Za-z0-9_.:-]+", "must be a host name or an address"),
    ),
    Setting("SMTP_PORT", "587", "its port", _whole(1, 65535)),
    Setting("SMTP_SECURITY", "starttls", "starttls, tls or none", _choice("starttls", "tls", "none")),
    Setting("SMTP_USERNAME", "", "who signs in there; empty = nobody", _optional(r"[!-~ ]+", "must be ASCII text")),
    Setting("SMTP_PASSWORD", "", "the password for it", _optional(r"[!-~ ]+", "must be printable ASCII characters")),
    Setting("SMTP_FROM", "", "the sender's e-mail address; needed with SMTP_HOST", _mail_address),
    Setting("OTEL_EXPORTER_OTLP_ENDPOINT", "", "collector that spans are sent to; empty = none", _collector),
    Setting("OTEL_EXPORTER_OTLP_HEADERS", "", "headers it asks for, as name=value,…", _collector_headers),
    Setting(
        "OTEL_SERVICE_NAME", "multiverse", "what this gateway is called there", _matching(r"[!-~]+", "must be a name")
    ),
    Setting("OTEL_SDK_DISABLED", "false", "send no spans, whatever else is set", _flag),
    Setting("DRAIN_SECONDS", "25", "time streams have to finish at shutdown", _duration(zero="do not wait")),
    Setting("CLASSROOM_SERVERS", "0", "pretend servers for a class to play with; 0 = none", _whole(0, 24)),
    Setting("RELOAD", "false", "restart when the code changes, for development", _flag),
)
