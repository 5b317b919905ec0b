#!/bin/sh
# Makes .venv in the root of the repository and installs this project in it with one extra. Needs nothing but
# Python 3.11 or newer; takes no time when it has been done for this setup.py. A .venv that somebody has made by hand is
# added to. Usage: scripts/make_venv.sh demo|dev
set -eu
cd "$(dirname "$0")/.."
extra=$1

say() { printf '%s\n' "$*" >&2; }

# Prints the first Python that is new enough and runs the given statement. A name may exist and not run (pyenv's shims).
find_python() {
    for name in python3.13 python3.12 python3.11 python3.14 python3 python; do
        if "$name" -c "import sys; assert sys.version_info >= (3, 11); $1" >/dev/null 2>&1; then
            printf '%s\n' "$name"
            return 0
        fi
    done
    return 1
}

# Debian and Ubuntu ship Python without the modules that make a virtual environment.
find_python_with_venv() {
    find_python 'import ensurepip, venv' && return 0
    if bare_python=$(find_python 'pass'); then
        packages=$("$bare_python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    else
        packages='python3 python3-venv'
    fi
    # shellcheck disable=SC2086  # two package names are two words
    scripts/install_packages.sh $packages || return 1
    find_python 'import ensurepip, venv' && return 0
    say 'Python 3.11 or newer with its venv module is needed, and what this system offers is older.'
    return 1
}

make_venv() {
    if .venv/bin/python -c 'import sys; assert sys.version_info >= (3, 11)' >/dev/null 2>&1; then
        .venv/bin/python -m pip --version >/dev/null 2>&1 && return 0
        .venv/bin/python -m ensurepip >/dev/null 2>&1 && return 0
        say 'There is a .venv without pip: the command that made it has failed.' # Debian's does without python3-venv
    fi
    python=$(find_python_with_venv) || exit 1
    say "Making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
}

# What the installation depends on; the path, because an editable installation points to it.
fingerprint() {
    { cat setup.py multiverse/__init__.py; pwd; .venv/bin/python --version; } | cksum
}

# Whether Python in .venv runs this tree. `pip install -r requirements.txt` puts a copy there in its place, which grows old.
runs_this_tree() {
    .venv/bin/python -I -c '
import os, sys, multiverse
sys.exit(not os.path.samefile(multiverse.__path__[0], sys.argv[1]))' multiverse 2>/dev/null
}

install_project() {
    started_at=$(date +%s)
    if [ "$extra" = dev ]; then megabytes=410; else megabytes=350; fi
    say "Installing the project with its \"$extra\" packages into .venv (the first time: some $megabytes MB to fetch) ..."
    # Quiet pip shows no progress bar, and without a terminal nobody would see one.
    if [ -t 1 ]; then verbosity=--progress-bar=on; else verbosity=-qq; fi
    if ! .venv/bin/python -m pip install --disable-pip-version-check "$verbosity" --editable ".[$extra]"; then
        say 'The installation failed: see the message above. Is there a network, and space on the disk?'
        exit 1
    fi
    say "Installed in $(($(date +%s) - started_at)) s"
}

make_venv
wanted=$(fingerprint)
stamp=.venv/installed-$extra
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || ! runs_this_tree; then
    install_project
    printf '%s\n' "$wanted" >"$stamp"
    # The dev extra holds everything of the demo extra.
    if [ "$extra" = dev ]; then printf '%s\n' "$wanted" >.venv/installed-demo; fi
fi
