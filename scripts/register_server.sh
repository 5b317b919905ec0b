#!/bin/sh
# Register a model server at the gateway; if it is registered already, update it.
#
# Usage: register_server.sh [OPTION…] MODEL URL
#
#   --owner NAME            who hosts the server
#   --email ADDRESS         how to reach the owner
#   --description TEXT      anything worth knowing
#   --served-name NAME      what the server itself calls the model
#   --tags A,B              tags, separated by commas
#   --context TOKENS        length of its context
#   --max-concurrency COUNT requests that it takes at a time
#   --require-healthy       register it only if it passes its probe
#   --json                  print the gateway's JSON
#
# Environment (all but SERVER_API_KEY also from .env in the current directory):
#   MULTIVERSE_URL      address of the gateway, http://127.0.0.1:8000 if unset
#   MULTIVERSE_API_KEY  your key, for servers of your own, or the admin's, for all; without it ADMIN_API_KEY
#   SERVER_API_KEY      the server's own key, if it wants one
#
# Example: register_server.sh llama-2-7b http://192.168.1.20:8080 --owner Ada
# Exit codes: 0 done, 1 the gateway answered with an error, 2 wrong usage, 3 the gateway cannot be reached.
set -eu
. "$(dirname -- "$0")/lib.sh"

fields='' json='' model='' url='' positional=0
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) show_help; exit 0 ;;
        --require-healthy) add_field require_healthy true; shift; continue ;;
        --json) json=yes; shift; continue ;;
        --) shift; break ;;
        --owner | --email | --description | --served-name | --tags | --context | --max-concurrency)
            [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
        -*) usage_error "unknown option $1" ;;
        *)
            positional=$((positional + 1))
            case $positional in
                1) model=$1 ;;
                2) url=$1 ;;
                *) usage_error "MODEL and URL are all it takes" ;;
            esac
            shift
            continue
            ;;
    esac
    case $1 in
        --owner) add_text owner_name "$2" ;;
        --email) add_text owner_email "$2" ;;
        --description) add_text description "$2" ;;
        --served-name) add_text served_model_name "$2" ;;
        --tags) add_text tags "$2" ;;
        --context) add_number context_length "$2" ;;
        --max-concurrency) add_number max_concurrency "$2" ;;
    esac
    shift 2
done
if [ $# -gt 0 ]; then # after `--`
    if [ "$positional" -ne 0 ] || [ $# -ne 2 ]; then usage_error "MODEL and URL come together after --"; fi
    model=$1 url=$2
fi
if [ -z "$model" ] || [ -z "$url" ]; then usage_error "MODEL and URL are needed"; fi

read_settings
need_key
add_text model_name "$model"
add_text endpoint_url "$url"
[ -z "${SERVER_API_KEY:-}" ] || add_text api_key "$SERVER_API_KEY"
open_workspace
call POST /admin/register "{$fields}"
if [ -n "$json" ]; then show_json "$workspace/answer"; else show_record "$workspace/answer"; fi
