#!/bin/sh
# Installs Debian packages where that is possible without asking: as root, or with a sudo that needs no password.
# Otherwise says which are missing. Usage: scripts/install_packages.sh PACKAGE...
set -eu

say() { printf '%s\n' "$*" >&2; }

if ! command -v apt-get >/dev/null 2>&1; then
    say "Missing: $* (these are Debian's names). Install it with the package manager of this system."
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root='env'
elif sudo -n true 2>/dev/null; then
    as_root='sudo -n env'
else
    say "Missing: $*. Install with: sudo apt-get install $*"
    exit 1
fi

say "Installing Debian packages: $*"
# A list of packages that is old, or that could not be renewed, is often good enough: the install decides.
$as_root apt-get update -qq >&2 || true
if ! $as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2; then
    say "Could not install: $*. Try: apt-get install $*"
    exit 1
fi
