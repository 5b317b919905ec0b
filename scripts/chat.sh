#!/bin/sh
# Ask a model and print its answer as it comes.
#
# Usage: chat.sh [OPTION…] MODEL PROMPT      (PROMPT - reads it from standard input)
#
#   --system TEXT         what the model is told before the prompt
#   --temperature NUMBER  0 answers the same each time, more varies more
#   --max-tokens COUNT    length of the answer at most
#
# Environment (also from .env in the current directory):
#   MULTIVERSE_URL      address of the gateway, http://127.0.0.1:8000 if unset
#   MULTIVERSE_API_KEY  your key, where the gateway wants one for this; without it ADMIN_API_KEY
#
# Example: chat.sh llama-2-7b "Hello! How are you?"
# Exit codes: 0 done, 1 the gateway answered with an error or the answer broke off, 2 wrong usage, 3 the gateway cannot
# be reached.
set -eu
. "$(dirname -- "$0")/lib.sh"

fields='' messages='' model='' prompt='' positional=0
take_positional() {
    positional=$((positional + 1))
    case $positional in
        1) model=$1 ;;
        2) prompt=$1 ;;
        *) usage_error "MODEL and PROMPT are all it takes: put the prompt in quotes" ;;
    esac
}
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) show_help; exit 0 ;;
        --) shift; break ;;
        --system | --temperature | --max-tokens) [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
        -?*) usage_error "unknown option $1" ;;
        *) take_positional "$1"; shift; continue ;;
    esac
    case $1 in
        --system) messages="{\"role\":\"system\",\"content\":$(json_string "$2")}," ;;
        --max-tokens) add_number max_tokens "$2" ;;
        --temperature)
            printf '%s\n' "$2" | LC_ALL=C awk '!/^([0-9]|[1-9][0-9]+)(\.[0-9]+)?$/ { bad = 1 } END { exit bad }' ||
                usage_error "--temperature must be a number such as 0.7"
            add_field temperature "$2"
            ;;
    esac
    shift 2
done
while [ $# -gt 0 ]; do take_positional "$1"; shift; done
if [ "$positional" -ne 2 ] || [ -z "$model" ]; then usage_error "MODEL and PROMPT are needed"; fi
[ "$prompt" != - ] || prompt=$(cat)

read_settings
open_workspace
add_text model "$model"
add_field stream true
add_field messages "[$messages{\"role\":\"user\",\"content\":$(json_string "$prompt")}]"
printf '%s' "{$fields}" >"$workspace/body"

# mawk waits for a full buffer unless it is told not to; the others do not know the option.
case $(awk -W version 2>&1 </dev/null || :) in mawk*) set -- -W interactive ;; *) set -- ;; esac

printf 0 >"$workspace/curl_status"
outcome=0
{
    curl_request_json POST /v1/chat/completions data-binary "@$workspace/body" |
        run_curl --no-buffer --include --suppress-connect-headers --speed-limit 1 --speed-time 600 --config - \
            2>"$workspace/curl_error" || printf %s "$?" >"$workspace/curl_status"
} |
    LC_ALL=C awk "$@" -f "$scripts/json.awk" -f "$scripts/chat_stream.awk" || outcome=$?

[ "$outcome" -eq 4 ] || exit "$outcome"
cat "$workspace/curl_error" >&2
unreachable "$(cat "$workspace/curl_status")" "$gateway" "Is the gateway running, and is MULTIVERSE_URL right?"
