"""`/openapi.json`, `/docs` and `/redoc`: the API described for programs and for people, without a CDN.

The files are read once, when the application is made: no request waits for a disk. The pages have a policy (CSP) of
their own: both libraries style what they draw from their scripts, so styles may be inline here; scripts may not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from multiverse.errors import NotFound
from multiverse.web.handlers.base import GatewayHandler

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = Path(__file__).resolve().parent.parent / "api_docs"
CONTENT_TYPES = MappingProxyType(
    {
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".txt": "text/plain; charset=utf-8",
        ".html": "text/html; charset=utf-8",
    }
)
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
KEPT_SECONDS = 3600


class ApiDocs:
    """The document, made when it is first asked for, and the files of the two pages."""

    def __init__(self, make_document: Callable[[], bytes], directory: Path = FILES) -> None:
        self._make_document = make_document
        self.files: Mapping[str, bytes] = MappingProxyType(
            {path.name: path.read_bytes() for path in sorted(directory.rglob("*")) if path.suffix in CONTENT_TYPES}
        )

    @cached_property
    def document(self) -> bytes:
        """The OpenAPI document as JSON."""
        return self._make_document()


class ApiDocsHandler(GatewayHandler):
    """What the three kinds of routes share."""

    @property
    def api_docs(self) -> ApiDocs:
        """What make_app made."""
        made: ApiDocs = self.application.settings["api_docs"]
        return made

    def send(self, content: bytes, content_type: str) -> None:
        """Answer with `content`, or 304 to who has it already."""
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self.set_header("ETag", etag)
        if self.request.headers.get("If-None-Match") == etag:
            self.set_status(304)
            self.finish()
            return
        self.set_header("Content-Type", content_type)
        self.finish(content)


class DocumentHandler(ApiDocsHandler):
    """`GET /openapi.json`; anybody's page may read it, it holds no secret."""

    def get(self) -> None:
        """The document."""
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Access-Control-Allow-Origin", "*")
        self.send(self.api_docs.document, "application/json")


class DocsPageHandler(ApiDocsHandler):
    """`GET /docs`: Swagger UI."""

    file = "docs.html"

    def get(self) -> None:
        """The page."""
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Cache-Control", "no-cache")
        self.send(self.api_docs.files[self.file], CONTENT_TYPES[".html"])


class RedocPageHandler(DocsPageHandler):
    """`GET /redoc`: ReDoc."""

    file = "redoc.html"


class DocsFileHandler(ApiDocsHandler):
    """`GET /docs/{name}`: what the pages load."""

    def get(self, name: str) -> None:
        """The file."""
        content = self.api_docs.files.get(name)
        if content is None or name.endswith(".html"):
            raise NotFound("There is no such file.")
        self.set_header("Cache-Control", f"public, max-age={KEPT_SECONDS}")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send(content, CONTENT_TYPES[Path(name).suffix])
