"""What every handler shares: access, reading a JSON body within its limit, errors in OpenAI's shape.

A request is judged before its body is read: route, method, key, size. What HTTP itself asks for (malformed requests,
bodies that nobody wants any more, timers) is the HTTP server's: web/front/, or web/http_server.py.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import tornado.web
from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError

from multiverse.errors import (
    GatewayError,
    InternalError,
    InvalidAPIKey,
    InvalidRequest,
    MethodNotAllowed,
    PermissionDenied,
    RateLimitExceeded,
    RequestTooLarge,
    ShuttingDown,
    UnsupportedMediaType,
    envelope,
)
from multiverse.people.keys import NOBODY, Caller
from multiverse.people.limits import counted_address
from multiverse.web.handlers.staged import FIRST_FIELDS, StagedHandler
from multiverse.web.wrong_paths import no_such_route

if TYPE_CHECKING:
    from multiverse.gateway import Gateway
    from multiverse.web.route import Route

LOG = logging.getLogger(__name__)

SESSION_COOKIE = "multiverse_session"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
TAKES_FILES_ELSEWHERE = ("/v1/audio/", "/v1/images/", "/v1/files")
JSON_TYPE = re.compile(r"application/(?:json|[a-z0-9.+-]+\+json)", re.IGNORECASE)
EXPOSED_HEADERS = ", ".join(
    (
        *("X-Request-ID", "X-Gateway-Server-ID", "X-Gateway-Attempts", "X-Gateway-Model"),
        *("Retry-After", "X-Should-Retry"),
        *(f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")),
        *(f"x-ratelimit-{what}-tokens" for what in ("limit", "remaining", "reset")),
    )
)
TO_LISTED_ORIGIN = {**FIRST_FIELDS, "Access-Control-Expose-Headers": EXPOSED_HEADERS, "Vary": "Origin"}
TO_ANY_ORIGIN = {**FIRST_FIELDS, "Access-Control-Expose-Headers": EXPOSED_HEADERS, "Access-Control-Allow-Origin": "*"}


class GatewayHandler(StagedHandler):
    """Base of all handlers. Subclasses write `get` (`head` is it too), `post` … and call `read_json()` or `body()`."""

    gateway: Gateway
    route: Route
    caller: Caller = NOBODY
    methods: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        """Give a class that has a GET its HEAD, the same without the body (RFC 9110 §9.3.2), and note its methods."""
        super().__init_subclass__()
        if "get" in vars(cls) and "head" not in vars(cls):
            cls.head = cls.get
        cls.methods = methods_of(cls)

    def initialize(self, gateway: Gateway, route: Route) -> None:
        """From the route table."""
        self.gateway = gateway
        self.route = route
        self._chunks: list[bytes] = []
        self._received = 0

    def first_fields(self) -> Mapping[str, str]:
        """With what other origins may do."""
        origins = self.application.settings["cors_allow_origins"]
        if not origins or not self.request.path.startswith("/v1/"):
            return FIRST_FIELDS
        if "*" in origins:
            return TO_ANY_ORIGIN
        origin = self.request.fields.get("Origin", "")
        return {**TO_LISTED_ORIGIN, "Access-Control-Allow-Origin": origin} if origin in origins else TO_LISTED_ORIGIN

    def check_trusted_origin(self, origin: str) -> bool:
        """`/v1` may be called by other sites' pages, but never in a session; all else by our own pages alone.

        Called by Tornado (`cross_origin_protection`) for methods that change something.
        """
        return self.request.path.startswith("/v1/")

    # -- before the body -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Judge the request by its head; a refusal is sent at once."""
        try:
            self._admit()
        except GatewayError as error:
            self._refuse(error)

    def _admit(self) -> None:
        method = self.request.method or ""
        if method == "OPTIONS":
            return
        if method not in self.methods:
            raise self.wrong_method()
        if self.gateway.draining and not self.route.answers_while_draining:
            raise ShuttingDown()
        self.caller = self._identify()
        self._check_body_head()
        self.admit()

    def admit(self) -> None:
        """For subclasses: more to judge before the body is read."""

    def wrong_method(self) -> GatewayError:
        """The error for a method that this route does not have."""
        allowed = (*self.methods, "OPTIONS")
        return MethodNotAllowed(f"This route takes {', '.join(allowed)}.", allow=allowed)

    def _check_body_head(self) -> None:
        fields = self.request.fields
        limit = self.gateway.config.max_request_body_size
        length = fields.get("Content-Length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > limit:
            raise _too_large(limit)
        if self.route.request_schema is not None and self.request.method in ("POST", "PUT", "PATCH"):
            if fields.get("Content-Encoding", "identity").strip().lower() != "identity":
                raise UnsupportedMediaType("The body must not be compressed. Send it without 'Content-Encoding'.")
            content_type = fields.get("Content-Type", "")
            if content_type != "application/json":
                _check_json_type(content_type, self.request.path)

    # -- who asks ------------------------------------------------------------------------------------------------------

    @property
    def client_address(self) -> str:
        """The caller's address: the peer's, or behind a trusted proxy what that proxy saw."""
        if self.gateway.config.trust_proxy_headers:
            forwarded = self.request.fields.get("X-Forwarded-For", "").rpartition(",")[2].strip()
            if forwarded:
                return _printable(forwarded)[:100]
        return str(self.request.remote_ip)

    @property
    def counted_address(self) -> str:
        """Under which name the caller's address is counted."""
        return counted_address(self.client_address)

    @property
    def asker(self) -> str:
        """Under which name shares and limits are counted: the key's, or without a known one the address."""
        return self.caller.key_id if self.caller is not NOBODY else f"address:{self.counted_address}"

    def _identify(self) -> Caller:
        access = self.route.access
        caller = self.known_caller()
        if access in ("admin", "owner"):
            if caller is None:
                raise self.wrong_key()
            if not (caller.is_admin or (access == "owner" and caller.may_own_servers)):
                raise PermissionDenied("This key may not do this. Use the admin's key.")
        elif access == "client" and self.gateway.config.require_client_api_key and caller is None:
            raise self.wrong_key()
        return caller or NOBODY

    def known_caller(self) -> Caller | None:
        """Whose key or session the request comes with, as of now; None for neither, and for those that are not good."""
        key = self._presented_key()
        return self.gateway.keys.identify(key) if key else self._signed_in()

    def session_id(self) -> str:
        """The session that the browser claims to be in; empty for none, and for requests of other sites' pages."""
        cookie = "Cookie" in self.request.fields and self.request.cookies.get(SESSION_COOKIE)
        if not cookie or self._check_cross_origin(lambda origin: False) is not None:
            return ""
        return cookie.value

    def _signed_in(self) -> Caller | None:
        session_id = self.session_id()
        return self.gateway.sessions.caller(session_id) if session_id else None

    def _presented_key(self) -> str:
        fields = self.request.fields
        own_header = fields.get("X-Api-Key")
        if own_header:
            return own_header.strip()
        scheme, _, key = fields.get("Authorization", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""

    def wrong_key(self) -> GatewayError:
        """The error for whoever lacks a key that is good here. Wrong ones are counted by address."""
        wait_seconds = self.gateway.wrong_key_limit.allow(self.counted_address) if self._presented_key() else None
        if wait_seconds is not None:
            return RateLimitExceeded(
                "Too many wrong API keys from this address. Wait, and check the key.", retry_after_seconds=wait_seconds
            )
        return InvalidAPIKey()

    # -- the body ------------------------------------------------------------------------------------------------------

    def data_received(self, chunk: bytes) -> None:
        """A piece of the body; one that is too long is refused as soon as that shows."""
        self._received += len(chunk)
        limit = self.gateway.config.max_request_body_size
        if self._received > limit:
            self._chunks.clear()
            self._refuse(_too_large(limit))
        else:
            self._chunks.append(chunk)

    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self._chunks)

    def read_json(self) -> Any:
        """The body as JSON. Raises InvalidRequest."""
        try:
            return msgspec.json.decode(self.body())
        except RecursionError as error:
            raise InvalidRequest("The body is nested too deeply to be read.") from error
        except (msgspec.DecodeError, ValueError) as error:
            raise InvalidRequest(f"The body is not valid JSON: {_printable(str(error))}.") from error

    def _refuse(self, error: GatewayError) -> None:
        """Answer `error` now; what is still being sent is the HTTP server's to drop."""
        self.render_error(error)
        self.finish()

    # -- what Tornado calls --------------------------------------------------------------------------------------------

    def options(self, *args: str, **kwargs: str) -> None:
        """What this route takes; for browsers, the answer to a preflight."""
        allowed = ", ".join((*self.methods, "OPTIONS"))
        self.set_status(204)
        self.set_header("Allow", allowed)
        if self.request.path.startswith("/v1/") and self.application.settings["cors_allow_origins"]:
            self.set_header("Access-Control-Allow-Methods", allowed)
            self.set_header("Access-Control-Max-Age", "600")
            requested = self.request.headers.get("Access-Control-Request-Headers", "")
            if re.fullmatch(r"[A-Za-z0-9, _-]{1,2000}", requested):
                self.set_header("Access-Control-Allow-Headers", requested)

    def reply_json(self, document: Any, status: int = 200) -> None:
        """Answer with `document`."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(document))

    def reply_csv(self, file_name: str, text: str) -> None:
        """Answer with a CSV file (RFC 4180)."""
        self.set_header("Content-Type", "text/csv; charset=utf-8")
        self.set_header("Content-Disposition", f'attachment; filename="{file_name}"')
        self.finish(text)

    def render_error(self, error: GatewayError) -> None:
        """Write `error` as the answer, without ending it."""
        body = msgspec.json.encode(envelope(error))
        self.set_status(error.status)
        self.set_header("Content-Type", "application/json")
        self.set_header("Content-Length", str(len(body)))
        for name, value in error.headers().items():
            self.set_header(name, value)
        self.write(body)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """The renderer before the commit: total over any exception."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        self.render_error(error if isinstance(error, GatewayError) else self._translated(status_code, error))
        self.finish()

    def _translated(self, status_code: int, error: BaseException | None) -> GatewayError:
        if status_code == 403:
            return PermissionDenied("This request comes from a page of another site, which may not do this.")
        if status_code == 404:
            return no_such_route(self.request.path)
        if status_code == 405:
            return self.wrong_method()
        if 400 <= status_code < 500:
            return InvalidRequest("The request is malformed: its URL, arguments or headers cannot be read.")
        return InternalError(
            f"The gateway failed while handling this request. Tell the admin the request id {self.request_id}."
        )

    def log_exception(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Errors raised on purpose are answers, not events; all others are ours to mend."""
        if isinstance(error, (GatewayError, tornado.web.HTTPError, StreamClosedError)):
            return
        LOG.error(
            "request failed inside the gateway",
            exc_info=error,
            extra={"fields": {"request_id": self.request_id, "route": self.request.path}},
        )


def methods_of(handler_class: type[tornado.web.RequestHandler]) -> tuple[str, ...]:
    """The methods that a class of handlers has."""
    stock = tornado.web.RequestHandler
    return tuple(
        method for method in METHODS if getattr(handler_class, method.lower()) is not getattr(stock, method.lower())
    )


class NotFoundHandler(GatewayHandler):
    """Every path that no route has."""

    def check_trusted_origin(self, origin: str) -> bool:
        """Nothing is here to be protected: other sites' pages hear that the path is wrong, too."""
        return True

    def _admit(self) -> None:
        raise no_such_route(self.request.path)

    def wrong_method(self) -> GatewayError:
        """Whatever the method, there is nothing here."""
        return no_such_route(self.request.path)


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than {limit} bytes. Send less; the admin sets MAX_REQUEST_BODY_SIZE.")


def _check_json_type(content_type: str, path: str) -> None:
    bare = content_type.partition(";")[0].strip()
    if not bare or JSON_TYPE.fullmatch(bare):
        return
    if bare.lower() == "multipart/form-data" and path.startswith(TAKES_FILES_ELSEWHERE):
        raise UnsupportedMediaType("Files cannot be sent through here: the body must be JSON that names a `model`.")
    raise UnsupportedMediaType(
        f"The body must be JSON, not '{_printable(bare)[:100]}'. Send the header "
        "'Content-Type: application/json' (with curl: -H 'Content-Type: application/json')."
    )


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def first_values(request: HTTPServerRequest) -> dict[str, str]:
    """The query of `request`, each name with its last value. Raises InvalidRequest for bytes that are not UTF-8."""
    try:
        return {name: values[-1].decode("utf-8") for name, values in request.query_arguments.items()}
    except UnicodeDecodeError as error:
        raise InvalidRequest("The query is not valid UTF-8.") from error
