#!/bin/sh
# Everything that must pass before a change goes in: ruff, mypy, the suite with its real llama.cpp server and its real
# browser. Sets itself up on a machine with nothing but Python 3.11 or newer. With arguments only pytest runs, with
# them: test.sh -k stream
set -eu
cd "$(dirname "$0")/.."
command -v curl >/dev/null 2>&1 || scripts/install_packages.sh curl
has_browser() {
    for name in chromium chromium-browser google-chrome-stable google-chrome; do
        if command -v "$name" >/dev/null 2>&1; then return 0; fi
    done
    return 1
}
# Chromium without windows is the same engine, and takes half of the time.
command -v chromium-headless-shell >/dev/null 2>&1 || scripts/install_packages.sh chromium-headless-shell ||
    has_browser || scripts/install_packages.sh chromium
scripts/make_venv.sh dev

first_failure=0
summary=''
unsteady=''

# Runs one step and goes on after a failure, so that one run shows all there is to mend.
step() {
    step_name=$1
    shift
    printf '\n== %s\n' "$step_name"
    started_at=$(date +%s)
    status=0
    "$@" || status=$?
    if [ "$status" -eq 0 ]; then verdict=ok; else verdict="failed ($status)"; fi
    if [ "$first_failure" -eq 0 ]; then first_failure=$status; fi
    summary="$summary$(printf '%-12s %4d s  %s' "$step_name" $(($(date +%s) - started_at)) "$verdict")
"
}

# Runs pytest; what failed is tried once more, by itself and until the first that fails again. A test that fails only
# beside others has a race of its own, which is told in full above and to be mended, but says nothing of this change.
suite() {
    suite_status=0
    .venv/bin/python -m pytest "$@" || suite_status=$?
    if [ "$suite_status" -ne 1 ]; then return "$suite_status"; fi
    printf '\n== what failed, by itself\n'
    .venv/bin/python -m pytest "$@" --last-failed --last-failed-no-failures=none --numprocesses=0 --maxfail=1 ||
        return 1
    unsteady="$unsteady$(printf '%s: a test failed, and passed by itself; see above' "$step_name")
"
}

if [ "$#" -eq 0 ]; then
    step 'ruff check' .venv/bin/python -m ruff check
    step 'ruff format' .venv/bin/python -m ruff format --check
    step 'mypy' .venv/bin/python -m mypy
    # Three processes, because tests mostly wait; by file, because the tests of one share what is costly to start.
    step 'pytest' suite --numprocesses=3 --dist=loadfile --no-loadscope-reorder \
        --durations=10 --durations-min=1
    # What depends on the server towards clients, once more on Tornado's.
    step 'on tornado' suite --numprocesses=2 --dist=loadfile --http-server=tornado \
        tests/test_errors.py tests/test_request_bodies.py tests/test_client_leaves.py tests/test_streaming.py \
        tests/test_security.py tests/test_sessions.py
else
    step 'pytest' .venv/bin/python -m pytest "$@"
fi

printf '\n%s%s' "$summary" "$unsteady"
exit "$first_failure"
