"""The pages, and the static files they load. A page holds no data but who is signed in: the JSON API has the rest.

Everything a page may load comes from the gateway itself; scripts and styles are files, never part of a page (CSP).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from multiverse import __version__
from multiverse.errors import NotFound
from multiverse.people.keys import NOBODY
from multiverse.web.assets import Assets
from multiverse.web.handlers.base import GatewayHandler
from multiverse.web.wrong_paths import no_such_route

if TYPE_CHECKING:
    from multiverse.web.route import Access

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
ONE_YEAR_SECONDS = 31_536_000


class PageHandler(GatewayHandler):
    """One page; `template` names it, `title` stands in the browser's tab, `audience` says whom it is for.

    A "client" is whoever is signed in here, an "owner" who may register servers; others are sent to sign in. Which data
    somebody sees is decided by the routes that have it.
    """

    template = ""
    title = ""
    audience: Access = "anyone"

    @property
    def assets(self) -> Assets:
        """Templates and static files."""
        assets: Assets = self.application.settings["assets"]
        return assets

    def get(self, *args: str) -> None:
        """The page, or the way to it."""
        if not self._is_welcome():
            wanted = self.request.path + (f"?{self.request.query}" if self.request.query else "")
            self.redirect(f"/sign-in?next={quote(wanted)}", status=303)
            return
        self.show_page()

    def _is_welcome(self) -> bool:
        caller = self.caller
        return {
            "anyone": True,
            "client": caller is not NOBODY,
            "owner": caller.may_own_servers,
            "admin": caller.is_admin,
        }[self.audience]

    def show_page(self) -> None:
        """Answer with the page."""
        signed_in = self.caller is not NOBODY
        body = self.assets.page(
            self.template,
            page=self.template,
            title=self.title,
            caller=self.caller,
            signed_in=signed_in,
            may_ask=signed_in or not self.gateway.config.require_client_api_key,
            version=__version__,
        )
        self.set_page_headers()
        self.finish(body)

    def set_page_headers(self) -> None:
        """What every page tells the browser; a page depends on who is signed in, and is kept nowhere."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Vary", "Accept, Cookie")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")


class RegisterPage(PageHandler):
    """`GET /register`."""

    template, title, audience = "register", "Register a server", "owner"


class ServerPage(PageHandler):
    """`GET /servers/{registration_id}`."""

    template, title, audience = "server", "Server", "owner"


class ModelsPage(PageHandler):
    """`GET /models`, for browsers: a client whose base URL lacks `/v1` must not take a page for a list of models."""

    template, title = "models", "Models"

    def get(self, *args: str) -> None:
        """The page, unless somebody wants JSON."""
        accept = self.request.fields.get("Accept", "")
        if "json" in accept and "text/html" not in accept:
            raise no_such_route(self.request.path)
        super().get()


class PlaygroundPage(PageHandler):
    """`GET /playground`."""

    template, title = "playground", "Playground"


class AccountPage(PageHandler):
    """`GET /account`."""

    template, title, audience = "account", "My account", "client"


class UsagePage(PageHandler):
    """`GET /usage`."""

    template, title, audience = "usage", "Usage", "client"


class ThanksPage(PageHandler):
    """`GET /thanks`."""

    template, title = "thanks", "Thanks"


class KeysPage(PageHandler):
    """`GET /keys`."""

    template, title, audience = "keys", "Keys", "admin"


class RequestsPage(PageHandler):
    """`GET /requests`."""

    template, title = "requests", "Requests"


class StoryPage(PageHandler):
    """`GET /requests/{id}`; whether there is such a request, and whose, is the JSON API's to judge."""

    template, title = "story", "Request"


class LogsPage(PageHandler):
    """`GET /logs`."""

    template, title, audience = "logs", "Logs", "admin"


class SettingsPage(PageHandler):
    """`GET /settings`."""

    template, title, audience = "settings", "Settings", "admin"


class SignInPage(PageHandler):
    """`GET /sign-in`."""

    template, title = "sign_in", "Sign in"


class StaticHandler(GatewayHandler):
    """`GET /static/{version}/{name}`."""

    def get(self, version: str, name: str) -> None:
        """A static file, kept by the browser for as long as its address has the current version."""
        assets: Assets = self.application.settings["assets"]
        file = assets.files.get(name)
        if file is None:
            raise NotFound("There is no such file.")
        current = version == assets.version
        self.set_header("Cache-Control", f"public, max-age={ONE_YEAR_SECONDS}, immutable" if current else "no-cache")
        self.set_header("ETag", file.etag)
        self.set_header("Vary", "Accept-Encoding")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        if self.request.headers.get("If-None-Match") == file.etag:
            self.set_status(304)
            self.finish()
            return
        self.set_header("Content-Type", file.content_type)
        if file.compressed is not None and "gzip" in self.request.headers.get("Accept-Encoding", ""):
            self.set_header("Content-Encoding", "gzip")
            self.finish(file.compressed)
        else:
            self.finish(file.content)
