#!/bin/sh
# Register every model of the Ollama on this machine at the gateway.
#
# Usage: register_ollama.sh [OPTION…]
#
#   --ollama URL      where Ollama listens, http://127.0.0.1:11434 if not given
#   --public-url URL  where the gateway reaches Ollama, if that is another address (a tunnel's, or this machine's in the
#                     class network)
#   --owner NAME      who hosts the models, your user name if not given
#   --email ADDRESS   how to reach the owner
#   --tags A,B        tags, separated by commas
#
# Environment (also from .env in the current directory):
#   MULTIVERSE_URL      address of the gateway, http://127.0.0.1:8000 if unset
#   MULTIVERSE_API_KEY  your key, for servers of your own, or the admin's, for all; without it ADMIN_API_KEY
#
# Example: register_ollama.sh --public-url https://ada.ngrok.app
# Exit codes: 0 all are registered, 1 some are not, 2 wrong usage, 3 Ollama or the gateway cannot be reached.
set -eu
. "$(dirname -- "$0")/lib.sh"

ollama=http://127.0.0.1:11434 public_url='' owner=${USER:-$(id -un)} email='' tags=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) show_help; exit 0 ;;
        --ollama | --public-url | --owner | --email | --tags) [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
        *) usage_error "unknown argument $1" ;;
    esac
    case $1 in
        --ollama) ollama=$2 ;;
        --public-url) public_url=$2 ;;
        --owner) owner=$2 ;;
        --email) email=$2 ;;
        --tags) tags=$2 ;;
    esac
    shift 2
done

read_settings
need_key
check_plain --ollama "$ollama"
case $ollama in http://?* | https://?*) ;; *) usage_error "--ollama must look like http://127.0.0.1:11434" ;; esac
while [ "${ollama%/}" != "$ollama" ]; do ollama=${ollama%/}; done
ollama=${ollama%/v1}
open_workspace

# Ollama API, "List Local Models".
curl_status=0
status=$(curl_setting url "$ollama/api/tags" | run_curl --max-time 30 --output "$workspace/tags" \
    --write-out '%{http_code}' --config -) || curl_status=$?
[ "$curl_status" -eq 0 ] || unreachable "$curl_status" "Ollama at $ollama" \
    'Start it with "ollama serve" (or open the Ollama app), or say with --ollama where it listens.'
if [ "$status" != 200 ] || ! json_leaves <"$workspace/tags" >"$workspace/leaves"; then
    fail 1 "$ollama answered with status $status, but not as Ollama does. Is that its address?"
fi
awk -F '\t' '$1 ~ /^models\.[0-9]+\.name$/ { print $2 }' "$workspace/leaves" >"$workspace/names"
[ -s "$workspace/names" ] || fail 1 'Ollama has no model yet. Get one with "ollama pull llama3.2", then run this again.'

endpoint=${public_url:-$ollama}
case $gateway in
    http://127.* | http://localhost* | http://\[::1\]*) ;;
    *)
        case $endpoint in
            http://127.* | http://localhost* | http://\[::1\]*)
                printf '%s\n' "Note: for the gateway at $gateway, $endpoint is its own machine. Say with" \
                    "--public-url how it reaches this one, and let Ollama listen there (OLLAMA_HOST=0.0.0.0)." >&2
                ;;
        esac
        ;;
esac

set -- --owner "$owner"
[ -z "$email" ] || set -- "$@" --email "$email"
[ -z "$tags" ] || set -- "$@" --tags "$tags"
unset SERVER_API_KEY # Ollama has no key; another server's must not end up with it
total=0 registered=0
while IFS= read -r name; do
    total=$((total + 1))
    result=0
    sh "$scripts/register_server.sh" "$@" -- "$name" "$endpoint" </dev/null || result=$?
    case $result in
        0) registered=$((registered + 1)) ;;
        3) exit 3 ;;
        *) printf '%s\n' "$name is not registered (see above)." >&2 ;;
    esac
done <"$workspace/names"

printf '%s\n' "$registered of $total models of $ollama are registered at $gateway."
[ "$registered" -eq "$total" ]
