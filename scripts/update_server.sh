#!/bin/sh
# Change fields of a registration; only those given change.
#
# Usage: update_server.sh [--json] ID FIELD=VALUE…
#
#   FIELD    model_name, endpoint_url, served_model_name, owner_name, owner_email, description, tags (A,B),
#            context_length, max_concurrency, require_healthy (true or false)
#   FIELD=   takes the field's value away
#   api_key  without `=` takes the server's own key from SERVER_API_KEY; `api_key=` takes the key away
#
# Environment (all but SERVER_API_KEY also from .env in the current directory):
#   MULTIVERSE_URL      address of the gateway, http://127.0.0.1:8000 if unset
#   MULTIVERSE_API_KEY  your key, for servers of your own, or the admin's, for all; without it ADMIN_API_KEY
#
# Example: update_server.sh 0b9d4c52-… endpoint_url=https://new.ngrok.app max_concurrency=2 description=
# Exit codes: 0 done, 1 the gateway answered with an error, 2 wrong usage, 3 the gateway cannot be reached.
set -eu
. "$(dirname -- "$0")/lib.sh"

fields='' json='' id=''
add_changed_field() { # NAME VALUE
    case $1=$2 in
        "$1=") add_field "$1" null ;;
        api_key=*) usage_error "keys do not belong on a command line: set SERVER_API_KEY and give api_key alone" ;;
        context_length=* | max_concurrency=*) add_number "$1" "$2" ;;
        require_healthy=true | require_healthy=false) add_field "$1" "$2" ;;
        require_healthy=*) usage_error "require_healthy is true or false" ;;
        *) add_text "$1" "$2" ;;
    esac
}
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) show_help; exit 0 ;;
        --json) json=yes; shift; continue ;;
        -*) usage_error "unknown option $1" ;;
    esac
    if [ -z "$id" ]; then
        id=$1
        shift
        continue
    fi
    case $1 in
        api_key)
            [ -n "${SERVER_API_KEY:-}" ] || usage_error "SERVER_API_KEY is not set"
            add_text api_key "$SERVER_API_KEY"
            ;;
        ?*=*) add_changed_field "${1%%=*}" "${1#*=}" ;;
        *) usage_error "fields are given as FIELD=VALUE" ;;
    esac
    shift
done
if [ -z "$id" ] || [ -z "$fields" ]; then usage_error "ID and at least one FIELD=VALUE are needed"; fi

read_settings
need_key
open_workspace
call PUT "/admin/register/$(percent_encode "$id")" "{$fields}"
if [ -n "$json" ]; then show_json "$workspace/answer"; else show_record "$workspace/answer"; fi
