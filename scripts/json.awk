# A reader of JSON (RFC 8259) in awk: functions only, for mawk, gawk, busybox and the BSDs' awk.
#
# Works on bytes: run it with LC_ALL=C. json_read(text) fills VALUE[path] and TYPE[path] for each leaf, paths like
# `choices.0.delta.content`, and PATHS[1…json_count] in order; it returns 1, or 0 when text is not JSON.

function json_read(text) {
    JSON = text; AT = 1; json_count = 0; JSON_BAD = 0; DEPTH = 0; HIGH = 0
    split("", VALUE); split("", TYPE); split("", PATHS)
    json_value("")
    json_space()
    return !JSON_BAD && AT > length(JSON)
}

function json_space() {
    while (substr(JSON, AT, 1) ~ /[ \t\r\n]/) AT++
}

function json_value(path,    first) {
    json_space()
    first = substr(JSON, AT, 1)
    if (first == "{" || first == "[") {
        if (++DEPTH > 200) JSON_BAD = 1
        else if (first == "{") json_object(path)
        else json_array(path)
        DEPTH--
    }
    else if (first == "\"") json_leaf(path, "string", json_text())
    else if (match(substr(JSON, AT, 400), /^(true|false|null|-?[0-9][-+.0-9eE]*)/)) {
        first = substr(JSON, AT, RLENGTH); AT += RLENGTH
        json_leaf(path, first ~ /^[a-z]/ ? first : "number", first)
    }
    else JSON_BAD = 1
}

function json_leaf(path, type, value) {
    VALUE[path] = value; TYPE[path] = type; PATHS[++json_count] = path
}

function json_object(path,    name) {
    AT++; json_space()
    if (json_skip("}")) return
    while (!JSON_BAD) {
        json_space()
        if (substr(JSON, AT, 1) != "\"") { JSON_BAD = 1; return }
        name = json_text(); json_space()
        if (!json_skip(":")) { JSON_BAD = 1; return }
        json_value(path == "" ? name : path "." name); json_space()
        if (json_skip("}")) return
        if (!json_skip(",")) JSON_BAD = 1
    }
}

function json_array(path,    number) {
    AT++; json_space()
    if (json_skip("]")) return
    for (number = 0; !JSON_BAD; number++) {
        json_value(path == "" ? number : path "." number); json_space()
        if (json_skip("]")) return
        if (!json_skip(",")) JSON_BAD = 1
    }
}

function json_skip(character) {
    if (substr(JSON, AT, 1) != character) return 0
    AT++
    return 1
}

# The string that begins at AT, decoded to UTF-8.
function json_text(    text, rest, character) {
    for (AT++; ; ) {
        rest = substr(JSON, AT, 1024)
        # Whole runs without an escape at once: strings of kilobytes are common.
        if (match(rest, /^[^"\\]+/)) { text = text json_bytes(substr(rest, 1, RLENGTH)); AT += RLENGTH; continue }
        character = substr(JSON, AT, 1); AT++
        if (character == "\"") return text json_pending()
        if (character == "") { JSON_BAD = 1; return text }
        text = text json_escape()
    }
}

# A plain run ends a surrogate that waits for its other half.
function json_bytes(run) { return json_pending() run }

function json_escape(    character, code) {
    character = substr(JSON, AT, 1); AT++
    if (character == "u") {
        code = json_hex(substr(JSON, AT, 4)); AT += 4
        if (code >= 0) return json_code_unit(code)
    }
    else if (character != "" && index("\"\\/", character)) return json_pending() character
    else if (character == "n") return json_pending() "\n"
    else if (character == "t") return json_pending() "\t"
    else if (character == "r") return json_pending() "\r"
    else if (character == "b") return json_pending() "\b"
    else if (character == "f") return json_pending() "\f"
    JSON_BAD = 1
    return ""
}

function json_hex(digits,    number, at, digit) {
    if (length(digits) != 4) return -1
    for (at = 1; at <= 4; at++) {
        digit = index("0123456789abcdef", tolower(substr(digits, at, 1)))
        if (!digit) return -1
        number = number * 16 + digit - 1
    }
    return number
}

# One UTF-16 code unit: the first half of a surrogate pair waits in HIGH for the second (RFC 8259 §7). One that never
# gets it becomes U+FFFD.
function json_code_unit(code,    high) {
    if (code >= 56320 && code <= 57343) {
        if (!HIGH) return json_utf8(65533)
        high = HIGH; HIGH = 0
        return json_utf8(65536 + (high - 55296) * 1024 + code - 56320)
    }
    high = json_pending()
    if (code >= 55296 && code <= 56319) { HIGH = code; return high }
    return high json_utf8(code)
}

function json_pending() {
    if (!HIGH) return ""
    HIGH = 0
    return json_utf8(65533)
}

# U+0000 has no place in awk's strings, nor on a terminal.
function json_utf8(code) {
    if (code == 0) return ""
    if (code < 128) return sprintf("%c", code)
    if (code < 2048) return sprintf("%c%c", 192 + int(code / 64), 128 + code % 64)
    if (code < 65536) return sprintf("%c%c%c", 224 + int(code / 4096), 128 + int(code / 64) % 64, 128 + code % 64)
    return sprintf("%c%c%c%c", 240 + int(code / 262144), 128 + int(code / 4096) % 64, \
        128 + int(code / 64) % 64, 128 + code % 64)
}

# Without what a terminal would act on: C0 but tabs and line ends, DEL, and C1 (in UTF-8: C2 80 … C2 9F).
function printable(text) {
    gsub(/[\001-\010\013-\037\177]/, "", text)
    gsub(/\302[\200-\237]/, "", text)
    return text
}
