"""Certificates for the transport's tests, made with the `openssl` command: an authority, and servers' of all kinds."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

LOCAL_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """A certificate authority in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.certificate = directory / "authority.pem"
        self._key = directory / "authority.key"
        self._openssl("req", "-x509", *KEY, *self._out("authority"), "-subj", "/CN=Test authority", "-days", "2")

    def server_context(self, name: str, *, alt_names: str = LOCAL_NAMES, days: int = 2) -> ssl.SSLContext:
        """What a server uses that has a certificate from here; negative `days`: it has expired."""
        request = self._directory / f"{name}.csr"
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(alt_names)
        key = str(self._directory / f"{name}.key")
        self._openssl("req", *KEY, "-keyout", key, "-out", str(request), "-subj", f"/CN={name}")
        certificate = str(self._directory / f"{name}.pem")
        signed_by = ("-CA", str(self.certificate), "-CAkey", str(self._key), "-CAcreateserial")
        self._openssl(
            "x509", "-req", "-in", str(request), *signed_by, "-out", certificate, "-days", str(days), "-extfile",
            str(extensions),
        )  # fmt: skip
        return self._context(certificate, key)

    def self_signed_context(self) -> ssl.SSLContext:
        """What a server uses whose certificate nobody vouches for."""
        self._openssl("req", "-x509", *KEY, *self._out("lonely"), "-subj", "/CN=lonely", "-addext", LOCAL_NAMES)
        return self._context(str(self._directory / "lonely.pem"), str(self._directory / "lonely.key"))

    def client_context(self) -> ssl.SSLContext:
        """What a client uses that trusts this authority, and nobody else."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def _out(self, name: str) -> tuple[str, ...]:
        return ("-keyout", str(self._directory / f"{name}.key"), "-out", str(self._directory / f"{name}.pem"))

    def _context(self, certificate: str, key: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
