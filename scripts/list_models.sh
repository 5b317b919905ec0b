#!/bin/sh
# Show the models that can be asked now.
#
# Usage: list_models.sh [--json]
#
# Environment (also from .env in the current directory):
#   MULTIVERSE_URL      address of the gateway, http://127.0.0.1:8000 if unset
#   MULTIVERSE_API_KEY  your key, where the gateway wants one for this; without it ADMIN_API_KEY
#
# Exit codes: 0 done, 1 the gateway answered with an error, 2 wrong usage, 3 the gateway cannot be reached.
set -eu
. "$(dirname -- "$0")/lib.sh"

json=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) show_help; exit 0 ;;
        --json) json=yes ;;
        *) usage_error "unknown argument $1" ;;
    esac
    shift
done

read_settings
open_workspace
call GET /v1/models
if [ -n "$json" ]; then
    show_json "$workspace/answer"
else
    show_table data "id healthy_servers servers owned_by" "No model can be asked now: no healthy server is registered."
fi
