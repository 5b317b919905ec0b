"""Found instead of uvloop where this directory comes first, so that a gateway runs on Python's own event loop.

Only that one times every callback in debug mode; uvloop leaves out those of sockets.
"""

from __future__ import annotations

raise ImportError("hidden on purpose: see the option --debug-loop in tests/conftest.py")
