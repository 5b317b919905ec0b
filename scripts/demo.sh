#!/bin/sh
# The whole system on this machine, with nothing prepared but Python 3.11 or newer: gateway, a real llama.cpp server,
# a registration, a streamed answer. Stays up until Ctrl-C. Options (--once, --port, --prompt): scripts/demo.sh --help
set -eu
cd "$(dirname "$0")/.."
scripts/make_venv.sh demo
exec .venv/bin/python scripts/demo.py "$@"
