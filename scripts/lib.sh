# Sourced by the scripts beside it; POSIX sh, curl and awk are all it needs.
#
# The key and a request's body reach curl through its standard input, never through its arguments, which every user of
# the machine can see. Exit codes: 0 done, 1 an error was answered, 2 wrong usage, 3 nobody answered.
# shellcheck shell=sh

scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
umask 077

fail() { # CODE MESSAGE
    printf '%s: %s\n' "${0##*/}" "$2" >&2
    exit "$1"
}

usage_error() { # MESSAGE
    fail 2 "$1 (see ${0##*/} --help)"
}

# The comment at the top of the script is its help.
show_help() {
    awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
}

# --- settings ---------------------------------------------------------------------------------------------------------

# The value of NAME in .env in the current directory, as written: quotes taken off, nothing executed or expanded.
dotenv_value() { # NAME
    [ -f .env ] || return 0
    LC_ALL=C awk -v name="$1" '
        { sub(/\r$/, ""); sub(/^[ \t]*(export[ \t]+)?/, "") }
        match($0, /^[A-Za-z_][A-Za-z_0-9]*[ \t]*=[ \t]*/) {
            key = substr($0, 1, RLENGTH); value = substr($0, RLENGTH + 1); sub(/[ \t]*=.*/, "", key)
            if (key != name) next
            quote = substr(value, 1, 1)
            if (quote == "\"" || quote == "\047") {
                value = substr(value, 2)
                if (end = index(value, quote)) value = substr(value, 1, end - 1)
            } else {
                sub(/[ \t]+#.*$/, "", value); sub(/^#.*$/, "", value); sub(/[ \t]+$/, "", value)
            }
            found = value
        }
        END { print found }' .env
}

# One line of printable ASCII, as a key or an address must be; the value is never repeated.
check_plain() { # NAME VALUE
    printf '%sx' "$2" | LC_ALL=C awk '
        NR > 1 || /[^ -~]/ { bad = 1 }
        END { exit bad }' || usage_error "$1 must be one line of plain characters"
}

# Sets gateway and key, from the environment, else .env, else the default.
read_settings() {
    gateway=${MULTIVERSE_URL:-$(dotenv_value MULTIVERSE_URL)}
    gateway=${gateway:-http://127.0.0.1:8000}
    check_plain MULTIVERSE_URL "$gateway"
    case $gateway in
        *[[:space:]]*) usage_error "MULTIVERSE_URL must not contain spaces" ;;
        http://?* | https://?*) ;;
        *) usage_error "MULTIVERSE_URL must look like http://127.0.0.1:8000 or https://gateway.example.org" ;;
    esac
    while [ "${gateway%/}" != "$gateway" ]; do gateway=${gateway%/}; done
    gateway=${gateway%/v1}
    read_key
}

# Sets key: one's own first; what is in the environment goes before what is in .env.
read_key() {
    key_variable=MULTIVERSE_API_KEY key=${MULTIVERSE_API_KEY:-}
    [ -n "$key" ] || { key_variable=ADMIN_API_KEY && key=${ADMIN_API_KEY:-}; }
    [ -n "$key" ] || { key_variable=MULTIVERSE_API_KEY && key=$(dotenv_value MULTIVERSE_API_KEY); }
    [ -n "$key" ] || { key_variable=ADMIN_API_KEY && key=$(dotenv_value ADMIN_API_KEY); }
    check_plain "$key_variable" "$key"
}

need_key() {
    [ -n "$key" ] || usage_error "MULTIVERSE_API_KEY (or ADMIN_API_KEY) must be set, in the environment or in .env"
}

# --- values -----------------------------------------------------------------------------------------------------------

# VALUE as a JSON string (RFC 8259 §7), whatever it contains.
json_string() { # VALUE
    printf '%s\n' "$1" | LC_ALL=C awk '
        BEGIN { for (code = 1; code < 32; code++) escape[sprintf("%c", code)] = sprintf("\\u%04x", code)
                escape["\""] = "\\\""; escape["\\"] = "\\\\"; printf "\"" }
        {
            if (NR > 1) printf "\\n"
            for (at = 1; at <= length($0); at++) {
                character = substr($0, at, 1)
                printf "%s", (character in escape) ? escape[character] : character
            }
        }
        END { printf "\"" }'
}

# VALUE as one segment of a path or one value of a query (RFC 3986 §2.1).
percent_encode() { # VALUE
    printf '%s\n' "$1" | LC_ALL=C awk '
        BEGIN { for (code = 1; code < 256; code++) byte[sprintf("%c", code)] = sprintf("%%%02X", code) }
        {
            if (NR > 1) printf "%%0A"
            for (at = 1; at <= length($0); at++) {
                character = substr($0, at, 1)
                printf "%s", (character ~ /[A-Za-z0-9_~-]/) ? character : byte[character]
            }
        }'
}

# Appends a field to the JSON object that is being built in `fields`.
add_field() { # NAME JSON
    fields="${fields:-}${fields:+,}$(json_string "$1"):$2"
}

add_text() { # NAME VALUE
    add_field "$1" "$(json_string "$2")"
}

add_number() { # NAME VALUE
    case $2 in
        '' | *[!0-9]*) usage_error "$1 must be a whole number" ;;
        *) add_field "$1" "$2" ;;
    esac
}

# Appends a parameter to the query that is being built in `query`.
add_query() { # NAME VALUE
    query="${query:-}${query:+&}$1=$(percent_encode "$2")"
}

# --- calls ------------------------------------------------------------------------------------------------------------

# Sets workspace to a private directory that goes away with the script.
open_workspace() {
    workspace=$(mktemp -d "${TMPDIR:-/tmp}/multiverse.XXXXXX") || fail 1 "no temporary directory can be made"
    trap 'rm -rf "$workspace"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# One line of a curl configuration: its quoted strings take \" and \\.
curl_setting() { # NAME VALUE
    printf '%s\n' "$2" | LC_ALL=C awk -v name="$1" '{ gsub(/[\\"]/, "\\\\&"); print name " = \"" $0 "\"" }'
}

# The configuration of a call, to be piped into `curl --config -`; options that never differ are in run_curl.
curl_request() { # METHOD PATH
    curl_setting url "$gateway$2"
    curl_setting request "$1"
    curl_setting header "Authorization: Bearer ${key:-not-needed}"
    curl_setting header "Accept: application/json, text/event-stream"
    curl_setting header "ngrok-skip-browser-warning: 1"
}

# The same, with a body: `data-raw JSON`, or `data-binary @FILE` for one that may be long (curl takes lines of 100 kB).
curl_request_json() { # METHOD PATH SETTING VALUE
    curl_request "$1" "$2"
    curl_setting header "Content-Type: application/json"
    curl_setting header "Expect:"
    curl_setting "$3" "$4"
}

curl_call() { # METHOD PATH [BODY]
    if [ $# -eq 3 ]; then curl_request_json "$1" "$2" data-raw "$3"; else curl_request "$1" "$2"; fi
}

# -q: no ~/.curlrc, which could print more, or follow redirects. --globoff, --path-as-is: the address is taken as it is.
run_curl() { # [OPTION…]
    curl -q --silent --show-error --globoff --path-as-is --proto '=http,https' --connect-timeout 10 "$@"
}

# Tells why curl failed, and ends.
unreachable() { # CURL_EXIT_CODE ADDRESS ADVICE
    [ "$1" -ne 3 ] || usage_error "$2 is not an address"
    fail 3 "$2 cannot be reached. $3"
}

# One call of the API: the JSON of a 2xx answer is in $workspace/answer afterwards; everything else ends the script.
call() { # METHOD PATH [BODY]
    curl_status=0
    status=$(curl_call "$@" | run_curl --max-time 120 --output "$workspace/answer" --write-out '%{http_code}' \
        --config -) || curl_status=$?
    [ "$curl_status" -eq 0 ] ||
        unreachable "$curl_status" "$gateway" "Is the gateway running, and is MULTIVERSE_URL right?"
    case $status in
        2??) ;;
        *) refused "$status" ;;
    esac
    is_json "$workspace/answer" || fail 1 "$gateway answered, but not with JSON. Is this the gateway's address?"
}

# Tells what came instead of a result: an error of the API in full, of a tunnel's page only that it is one.
refused() { # STATUS
    if is_json "$workspace/answer"; then
        printable <"$workspace/answer" >&2
        fail 1 "the gateway answered with an error (status $1)"
    fi
    fail 1 "$gateway answered with status $1, but not as a gateway does. Is the address right, and a tunnel online?"
}

is_json() { # FILE
    [ -s "$1" ] && LC_ALL=C awk 'NF { good = (substr($1, 1, 1) == "{"); exit } END { exit !good }' "$1"
}

# Without what a terminal would act on: C0 but tabs and line ends, DEL, and C1 (in UTF-8: C2 80 … C2 9F).
printable() {
    LC_ALL=C awk '{ gsub(/[\001-\010\013-\037\177]/, ""); gsub(/\302[\200-\237]/, ""); print }'
}

# --- reading JSON -----------------------------------------------------------------------------------------------------

# Every string, number and word of the JSON on standard input as PATH<tab>VALUE: `servers.0.model_name<tab>llama`.
json_leaves() {
    LC_ALL=C awk -f "$scripts/json.awk" -f "$scripts/json_leaves.awk"
}

# What the gateway said about one registration.
show_record() { # FILE
    json_leaves <"$1" | awk -F '\t' '
        $1 == "message" { print $2 }
        $1 ~ /^(registration_id|model_name|endpoint_url|health_status|reason)$/ && $2 != "null" {
            lines = lines sprintf("  %-15s  %s\n", $1, $2)
        }
        END { printf "%s", lines }'
}

# The JSON as it came.
show_json() { # FILE
    printable <"$1"
}

# The rows of a list in $workspace/answer as a table, or what to say when there are none.
show_table() { # LIST COLUMNS NOTHING
    json_leaves <"$workspace/answer" >"$workspace/leaves"
    LC_ALL=C awk -v list="$1" -v columns="$2" -f "$scripts/json_table.awk" "$workspace/leaves" >"$workspace/table"
    if [ -s "$workspace/table" ]; then cat "$workspace/table"; else printf '%s\n' "$3" >&2; fi
}
