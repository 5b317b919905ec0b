# Prints each leaf of the JSON on standard input as PATH<tab>VALUE, one a line; needs json.awk before it.
# Tabs and line ends in a value become spaces. Exit code 1 when the input is not JSON.

{ document = document $0 "\n" }

END {
    if (!json_read(document)) exit 1
    for (number = 1; number <= json_count; number++) {
        path = PATHS[number]
        print one_line(path) "\t" one_line(VALUE[path])
    }
}

function one_line(text) {
    text = printable(text)
    gsub(/[\t\n]/, " ", text)
    return text
}
