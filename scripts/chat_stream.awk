# Reads an HTTP answer with its headers (`curl --include`) and prints the text of a chat completion as it comes; needs
# json.awk before it. Exit codes: 0 whole answer, 1 an error or half an answer (told on stderr), 4 no answer at all.

BEGIN { in_head = 1; outcome = "" }

{ sub(/\r$/, "") }

in_head && /^HTTP\// { status = $2; streaming = 0; request_id = ""; next }
in_head && tolower($0) ~ /^content-type:[ \t]*text\/event-stream/ { streaming = 1; next }
in_head && tolower($0) ~ /^x-request-id:/ { request_id = $2; next }
# Interim answers (1xx) come before the real one.
in_head && $0 == "" { in_head = (status ~ /^1/); next }
in_head { next }

!streaming || status != 200 { document = document $0 "\n"; next }

/^data:/ { sub(/^data: ?/, ""); data = data (has_data ? "\n" : "") $0; has_data = 1; next }
$0 == "" && has_data { take_event(data); data = ""; has_data = 0 }

END {
    if (outcome == "done") finish(0)
    if (outcome == "failed") finish(1)
    if (status == "" || in_head) exit 4
    if (streaming && status == 200) complain("the answer broke off before it was complete")
    else take_document()
    finish(outcome == "done" ? 0 : 1)
}

function take_event(event) {
    if (event == "[DONE]") { outcome = "done"; exit }
    if (!json_read(event)) return # one malformed event among good ones
    if (is_error()) { complain_of_error(); outcome = "failed"; exit }
    say(VALUE["choices.0.delta.content"], TYPE["choices.0.delta.content"])
}

# A plain answer, or an error.
function take_document() {
    if (!json_read(document)) {
        complain("the answer (status " status ") is not a gateway\047s; is MULTIVERSE_URL right, and a tunnel online?")
    } else if (status != 200 || is_error()) {
        complain_of_error()
    } else {
        say(VALUE["choices.0.message.content"], TYPE["choices.0.message.content"])
        outcome = "done"
    }
}

function is_error() { return ("error.message" in VALUE) || (("error" in VALUE) && TYPE["error"] == "string") }

function say(text, type) {
    if (type != "string" || text == "") return
    text = printable(text)
    printf "%s", text
    fflush()
    open_line = (text !~ /\n$/)
}

function complain_of_error(    text, code) {
    text = ("error.message" in VALUE) ? VALUE["error.message"] : VALUE["error"]
    code = ("error.code" in VALUE) && TYPE["error.code"] == "string" ? VALUE["error.code"] : "status " status
    complain((text == "" ? "the gateway answered with an error" : text) " (" code ")")
}

function complain(text) {
    if (open_line) { printf "\n"; open_line = 0 }
    fflush()
    text = text (request_id == "" ? "" : " [request id " request_id "]")
    text = printable(text)
    gsub(/[\t\n]/, " ", text)
    print "chat.sh: " text | "cat 1>&2"
    close("cat 1>&2")
}

# The prompt of the shell comes on a line of its own.
function finish(code) {
    if (open_line) { printf "\n"; open_line = 0 }
    exit code
}
