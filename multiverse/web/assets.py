"""`Assets`: the pages' templates and static files, read once when the gateway starts: no request waits for a disk.

Static files have addresses that change with their content; a browser may keep them for ever. They are compressed once.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tornado.template import Loader

HERE = Path(__file__).resolve().parent
CONTENT_TYPES = MappingProxyType(
    {
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
        ".txt": "text/plain; charset=utf-8",
        ".html": "text/html; charset=utf-8",
        ".json": "application/json",
        ".png": "image/png",
    }
)
COMPRESSED_TYPES = (".css", ".js", ".svg", ".txt", ".html", ".json")
VERSION_LENGTH = 12


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file as it goes out; `compressed` (gzip) where that is smaller."""

    content: bytes
    compressed: bytes | None
    content_type: str
    etag: str


class Assets:
    """Templates and static files below `directory`. Raises OSError, or Tornado's ParseError for a broken template."""

    def __init__(self, directory: Path = HERE) -> None:
        self.files: Mapping[str, StaticFile] = MappingProxyType(
            {name: _static_file(path) for name, path in _files_below(directory / "static")}
        )
        everything = hashlib.sha256("".join(file.etag for file in self.files.values()).encode())
        self.version = everything.hexdigest()[:VERSION_LENGTH]
        self._loader = Loader(str(directory / "templates"))
        self._names = [name for name, _path in _files_below(directory / "templates")]
        for name in self._names:
            self._loader.load(name)

    def static_url(self, name: str) -> str:
        """The address of a static file; it changes whenever any of them does, since modules import each other."""
        if name not in self.files:
            raise LookupError(f"there is no static file {name}")
        return f"/static/{self.version}/{name}"

    def page(self, name: str, **values: Any) -> bytes:
        """The page `name`, rendered; values are escaped by the template."""
        return self._loader.load(f"{name}.html").generate(static_url=self.static_url, **values)


def _files_below(directory: Path) -> list[tuple[str, Path]]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [(path.relative_to(directory).as_posix(), path) for path in paths]


def _static_file(path: Path) -> StaticFile:
    content = path.read_bytes()
    packed = gzip.compress(content, 9, mtime=0) if path.suffix in COMPRESSED_TYPES else content
    return StaticFile(
        content=content,
        compressed=packed if len(packed) < len(content) else None,
        content_type=CONTENT_TYPES.get(path.suffix, "application/octet-stream"),
        etag=f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    )
