#!/bin/sh
# Deregister a server: no new request goes there, those under way finish.
#
# Usage: deregister_server.sh [--json] ID
#
# Environment (also from .env in the current directory):
#   MULTIVERSE_URL      address of the gateway, http://127.0.0.1:8000 if unset
#   MULTIVERSE_API_KEY  your key, for servers of your own, or the admin's, for all; without it ADMIN_API_KEY
#
# list_servers.sh shows the ids.
# Exit codes: 0 done, 1 the gateway answered with an error, 2 wrong usage, 3 the gateway cannot be reached.
set -eu
. "$(dirname -- "$0")/lib.sh"

json='' id=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) show_help; exit 0 ;;
        --json) json=yes ;;
        -*) usage_error "unknown option $1" ;;
        *)
            [ -z "$id" ] || usage_error "one ID at a time"
            id=$1
            ;;
    esac
    shift
done
[ -n "$id" ] || usage_error "ID is needed"

read_settings
need_key
open_workspace
call DELETE "/admin/register/$(percent_encode "$id")"
if [ -n "$json" ]; then show_json "$workspace/answer"; else show_record "$workspace/answer"; fi
