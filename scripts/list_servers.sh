#!/bin/sh
# Show the registered servers.
#
# Usage: list_servers.sh [OPTION…]
#
#   --model NAME      only servers of this model
#   --status VERDICT  only healthy, unhealthy or unknown ones
#   --owner NAME      only servers of this owner
#   --tag TAG         only servers with this tag
#   --sort FIELD      sort by a field of the record; -FIELD turns the order round
#   --limit COUNT     how many at most
#   --offset COUNT    how many to leave out first
#   --json            print the gateway's JSON
#
# Environment (also from .env in the current directory):
#   MULTIVERSE_URL      address of the gateway, http://127.0.0.1:8000 if unset
#   MULTIVERSE_API_KEY  your key, for servers of your own, or the admin's, for all; without it ADMIN_API_KEY
#
# Exit codes: 0 done, 1 the gateway answered with an error, 2 wrong usage, 3 the gateway cannot be reached.
set -eu
. "$(dirname -- "$0")/lib.sh"

query='' json=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) show_help; exit 0 ;;
        --json) json=yes; shift; continue ;;
        --model | --status | --owner | --tag | --sort | --limit | --offset)
            [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
        *) usage_error "unknown argument $1" ;;
    esac
    case $1 in
        --model) add_query model_name "$2" ;;
        --status) add_query health_status "$2" ;;
        --owner) add_query owner_name "$2" ;;
        *) add_query "${1#--}" "$2" ;;
    esac
    shift 2
done

read_settings
need_key
open_workspace
call GET "/admin/servers${query:+?$query}"
if [ -n "$json" ]; then
    show_json "$workspace/answer"
else
    show_table servers "registration_id model_name availability endpoint_url owner_name reason" \
        "No server is registered here, or none matches."
fi
