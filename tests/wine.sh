#!/bin/sh
# tests/wine.sh PROGRAM ARGUMENT...: runs PROGRAM.exe under wine, as make test does with RUN=tests/wine.sh; its messages
# get the line ends that the tests expect. What smolvlm writes to stdout passes as it is: it is the same everywhere.
export WINEDEBUG="${WINEDEBUG--all}" LC_ALL=C.UTF-8
program=$1.exe
shift
kept=$(mktemp -d)
wineserver -p60 2> "$kept/err"                  # stays between two runs, or each takes seconds to begin
case $program in
*smolvlm.exe) wine "$program" "$@" 2> "$kept/err" ;;
*) wine "$program" "$@" > "$kept/out" 2> "$kept/err" ;;
esac
code=$?
[ ! -f "$kept/out" ] || tr -d '\r' < "$kept/out"
tr -d '\r' < "$kept/err" >&2
rm -r "$kept"
exit $code
