"""What a `.env` file holds. The gateway's settings and the commands read it by the same rules.

Values are as written: quotes taken off, nothing executed or expanded, an empty one counts as unset. No text repeats a
value, since it may be a secret.
"""

from __future__ import annotations

from pathlib import Path

from dotenv.parser import parse_stream


class DotenvFailed(Exception):
    """A `.env` that cannot be read; the text is one line that names it."""


def read_dotenv(path: Path) -> dict[str, str]:
    """The values of a `.env` file that are not empty, by variable; no file, no values. Raises DotenvFailed."""
    try:
        if not path.exists() or path.is_dir():  # a directory `.env` is somebody's virtual environment
            return {}
        with path.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except UnicodeDecodeError:
        raise DotenvFailed(f"{path.name} must be UTF-8 text") from None
    except OSError as error:
        raise DotenvFailed(f"{path.name} must be readable ({error.strerror})") from None
    wrong_lines = [str(binding.original.line) for binding in bindings if binding.error]
    if wrong_lines:
        raise DotenvFailed(f"{path.name} line {', '.join(wrong_lines)} must be NAME=value (is a quote left open?)")
    return {
        binding.key: binding.value.strip()
        for binding in bindings
        if binding.key and binding.value and binding.value.strip()
    }
