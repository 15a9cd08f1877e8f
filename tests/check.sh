# tests/check.sh: what the tests written for sh share; they read it with ". tests/check.sh". Such a test keeps the
# output of the program that it tests in $tmp/out and $tmp/err, and its exit code in $code.
passed=0 failed=0 skipped=0

# check WHAT COMMAND...: a test that passes if the command succeeds
check() {
    what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $what"
        echo "  exit code $code, stdout: $(head -c 300 "$tmp/out"), stderr: $(head -c 300 "$tmp/err")"
    fi
}

# skip WHAT: a test that cannot run here, and why
skip() {
    skipped=$((skipped + 1))
    echo "SKIP $1"
}
