#!/bin/sh
# docs/manpage.sh < HELP > smolvlm.1: the man page, made of what `smolvlm --help` says, so that there is one text.
awk '
function roff(s) {                          # a line of text as roff takes it
    gsub(/\\/, "\\e", s)
    gsub(/-/, "\\-", s)
    if (s ~ /^[.\x27]/) s = "\\&" s
    return s
}
NR == 1 {
    what = $0; sub(/^smolvlm: /, "", what); sub(/\.$/, "", what)
    print ".TH SMOLVLM 1"
    print ".SH NAME"
    print "smolvlm \\- " roff(what)
    print ".SH SYNOPSIS"
    print ".nf"
    part = "synopsis"
    next
}
part == "synopsis" && /^[^ ]/ { print ".fi"; print ".SH DESCRIPTION"; part = "description" }
/^  (-.,|   ) ?--/ {                        # "  -i, --image FILE       a picture", or the option alone
    if (part != "options") print ".SH OPTIONS"
    part = "options"
    line = $0; sub(/^ +/, "", line)
    gap = match(line, /   *[^ ]/)
    print ".TP"
    print ".B " roff(gap ? substr(line, 1, RSTART - 1) : line)
    if (gap) print roff(substr(line, RSTART + RLENGTH - 1))
    next
}
part == "options" && /^[^ ]/ { print ".SH NOTES"; part = "notes" }
/^$/ { next }
{ line = $0; sub(/^ +/, "", line); print roff(line) }
END {
    print ".SH SEE ALSO"
    print roff("README.md and MODEL.md, which come with the source: how the model works, and how its file is made.")
}'
