"""`/session`: a key for a session, once; the browser keeps its opaque id in a cookie that no script can read."""

from __future__ import annotations

from multiverse.errors import InvalidAPIKey, RateLimitExceeded
from multiverse.people.keys import NOBODY
from multiverse.web.handlers.base import SESSION_COOKIE, GatewayHandler
from multiverse.web.schemas import SignInSchema, load

SIGN_IN_SCHEMA = SignInSchema()


class SessionHandler(GatewayHandler):
    """`GET`, `POST` and `DELETE /session`."""

    def get(self) -> None:
        """Who is signed in."""
        self._reply()

    def post(self) -> None:
        """Sign in; wrong keys are counted by address, and soon refused with 429. A right key always works."""
        key = load(SIGN_IN_SCHEMA, self.read_json())["key"]
        session_id = self.gateway.sessions.begin(key)
        if session_id is None:
            raise self._refusal()
        self.gateway.sessions.end(self.session_id())  # Whoever signs in again leaves no session behind.
        self.set_cookie(
            SESSION_COOKIE,
            session_id,
            expires_days=None,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=self._over_https(),
        )
        caller = self.gateway.keys.identify(key)
        if caller is not None:
            self.caller = caller
        self._reply()

    def delete(self) -> None:
        """Sign out."""
        self.gateway.sessions.end(self.session_id())
        self.clear_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="Strict", secure=self._over_https())
        self.caller = NOBODY
        self._reply()

    def _reply(self) -> None:
        self.set_header("Cache-Control", "no-store")
        signed_in = self.caller is not NOBODY
        self.reply_json(
            {
                "signed_in": signed_in,
                "name": self.caller.name,
                "role": self.caller.role,
                "idle_seconds": self.gateway.sessions.idle_seconds,
            }
        )

    def _refusal(self) -> InvalidAPIKey | RateLimitExceeded:
        wait_seconds = self.gateway.sign_in_limit.allow(self.counted_address)
        if wait_seconds is None:
            return InvalidAPIKey()
        return RateLimitExceeded(
            "Too many attempts to sign in with a wrong key. Wait, and check the key.", retry_after_seconds=wait_seconds
        )

    def _over_https(self) -> bool:
        """Whether the browser's side of the connection is encrypted: ours, or that of a trusted proxy."""
        if self.gateway.config.trust_proxy_headers:
            forwarded = self.request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
            if forwarded:
                return forwarded == "https"
        return self.request.protocol == "https"
