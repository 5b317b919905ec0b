# Prints a list out of json_leaves as an aligned table. Needs -v list=NAME (`servers`) and -v columns="FIELD FIELD …".

BEGIN {
    FS = "\t"
    count = split(columns, column, " ")
    for (number = 1; number <= count; number++) {
        cell[0, number] = toupper(column[number])
        gsub(/_/, " ", cell[0, number])
        width[number] = length(cell[0, number])
        place[column[number]] = number
    }
}

index($1, list ".") == 1 {
    path = substr($1, length(list) + 2)
    if (!match(path, /^[0-9]+/)) next
    row = substr(path, 1, RLENGTH) + 1
    path = substr(path, RLENGTH + 2)
    if (row > rows) rows = row
    if (!(path in place) || $2 == "null") next
    cell[row, place[path]] = $2
    if (columns_of($2) > width[place[path]]) width[place[path]] = columns_of($2)
}

END {
    for (row = 0; rows && row <= rows; row++) {
        line = ""
        for (number = 1; number <= count; number++)
            line = line cell[row, number] spaces(width[number] - columns_of(cell[row, number]) + 2)
        sub(/ +$/, "", line)
        print line
    }
}

# Characters, not bytes: in UTF-8 all bytes of a character but its first are 80 … BF.
function columns_of(text) {
    gsub(/[\200-\277]/, "", text)
    return length(text)
}

function spaces(number,    text) {
    while (number-- > 0) text = text " "
    return text
}
