"""Pages that a tunnel shows instead of the server behind it, told apart from the server's own answers.

A laptop that sleeps behind ngrok or Cloudflare still answers: with the tunnel's HTML. The owner reads the tunnel's own
code in the `reason`, since that is what the tunnel's documentation explains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NGROK_CODE = re.compile(r"ERR_NGROK_\d{1,6}")
NGROK_HINTS = {
    "ERR_NGROK_3200": "the tunnel is offline; start it again on the server's machine",
    "ERR_NGROK_8012": "the tunnel is up, but the model server behind it is not running",
    "ERR_NGROK_734": "the tunnel's request limit is reached",
}
CLOUDFLARE_HINTS = {
    520: "the server behind the tunnel answered something Cloudflare did not understand",
    521: "the server behind the tunnel is down",
    522: "the connection to the server behind the tunnel timed out",
    523: "the server behind the tunnel is unreachable",
    524: "the server behind the tunnel took longer than Cloudflare allows",
    525: "the TLS handshake behind the tunnel failed",
    526: "the certificate behind the tunnel is not valid",
    530: "the tunnel is offline; start cloudflared again on the server's machine",
}


def is_html(headers: Mapping[str, str], body: bytes = b"") -> bool:
    """Whether an answer is a page for people rather than data."""
    if "html" in headers.get("content-type", "").lower():
        return True
    if not body:
        return False
    start = body[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return start.startswith((b"<!doctype", b"<html"))


def tunnel_reason(status: int, headers: Mapping[str, str], body: bytes = b"") -> str | None:
    """A sentence for the owner when a tunnel answered in the server's place, else None."""
    announced = headers.get("ngrok-error-code", "")
    page = body[:65536].decode("utf-8", "replace") if body and is_html(headers, body) else ""
    code = NGROK_CODE.search(announced) or NGROK_CODE.search(page) if announced or page else None
    if code is not None or announced:
        name = code.group() if code else "an ngrok error"
        hint = NGROK_HINTS.get(name, "see ngrok's list of error codes")
        return f"ngrok answered in the server's place: {name} ({hint})"
    if 520 <= status <= 530:
        hint = CLOUDFLARE_HINTS.get(status, "see Cloudflare's list of 5xx errors")
        return f"Cloudflare answered in the server's place: error {status} ({hint})"
    return None
