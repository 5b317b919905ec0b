#!/bin/sh
# Whether everything in requirements.txt is there as a wheel, so that a slug or an image needs no compiler. With
# arguments, for another Python or another machine: check_wheels.sh --python-version 3.13 --platform manylinux2014_aarch64
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

# The last line is the gateway itself: pure Python, built from this tree.
grep -v '^\.$' requirements.txt >"$directory/requirements.txt"
"$python" -m pip download --quiet --disable-pip-version-check --only-binary :all: --no-deps \
    --dest "$directory/wheels" --requirement "$directory/requirements.txt" "$@"
set -- "$directory"/wheels/*.whl
printf '%s wheels, and nothing to compile.\n' "$#"
