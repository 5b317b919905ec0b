"""The pages, and the static files they load. A page holds no data but who is signed in: the JSON API has the rest.

Everything a page may load comes from the gateway itself; scripts and styles are files, never part of a page (CSP).
"""

from __future__ import annotations

from urllib.parse import quote

from multiverse import __version__
from multiverse.errors import NotFound
from multiverse.web.handlers.base import GatewayHandler
from multiverse.web.look import Look

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
    """One page; `template` names it, `title` stands in the browser's tab, `for_admin` sends others to sign in first."""

    template = ""
    title = ""
    for_admin = False

    @property
    def look(self) -> Look:
        """Templates and static files."""
        look: Look = self.application.settings["look"]
        return look

    def get(self, *args: str) -> None:
        """The page, or the way to it."""
        if self.for_admin and not self.caller.is_admin:
            self.redirect(f"/sign-in?next={quote(self.request.path)}", status=303)
            return
        self.show_page()

    def head(self, *args: str) -> None:
        """As GET, without the body."""
        self.get(*args)

    def show_page(self) -> None:
        """Answer with the page."""
        signed_in = self.caller.role != "anonymous"
        body = self.look.page(
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

    template, title, for_admin = "register", "Register a server", True


class ServerPage(PageHandler):
    """`GET /servers/{registration_id}`."""

    template, title, for_admin = "server", "Server", True


class ModelsPage(PageHandler):
    """`GET /models`."""

    template, title = "models", "Models"


class PlaygroundPage(PageHandler):
    """`GET /playground`."""

    template, title = "playground", "Playground"


class LogsPage(PageHandler):
    """`GET /logs`."""

    template, title, for_admin = "logs", "Logs", True


class SettingsPage(PageHandler):
    """`GET /settings`."""

    template, title, for_admin = "settings", "Settings", True


class SignInPage(PageHandler):
    """`GET /sign-in`."""

    template, title = "sign_in", "Sign in"


class StaticHandler(GatewayHandler):
    """`GET /static/{version}/{name}`."""

    def get(self, version: str, name: str) -> None:
        """A static file, kept by the browser for as long as its address has the current version."""
        look: Look = self.application.settings["look"]
        file = look.files.get(name)
        if file is None:
            raise NotFound("There is no such file.")
        current = version == look.version
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

    def head(self, version: str, name: str) -> None:
        """As GET, without the body."""
        self.get(version, name)
