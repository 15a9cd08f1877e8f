#!/bin/sh
# tests/run.sh BUILD TEST...: runs each test, which is a program BUILD/TEST, or tests/TEST.sh with BUILD's programs
# (test_cli, test_demo). The last line is the sum of what they say. Exit code 1 if a test failed; a test that ends badly
# without a word counts as one.
# Run from the repository's root, as make test does. RUN: what starts a foreign machine's programs (qemu-s390x-static).
build=$1
shift
# The tests take more threads than there may be cores: whoever waits must not keep a core busy with it.
export OMP_WAIT_POLICY=passive
passed=0 failed=0 skipped=0

# run NAME COMMAND...: prints its output and adds up its line "Pass: N, fail: N, skip: N."
run() {
    name=$1
    shift
    echo "== $name"
    log=$build/$name.log
    { "$@" 2>&1; echo "exit $?"; } | tee "$log" | sed '$d'
    code=$(sed -n '$s/^.*exit //p' "$log")
    counts=$(sed -n 's/^Pass: \([0-9]*\), fail: \([0-9]*\), skip: \([0-9]*\)\.$/\1 \2 \3/p' "$log" | tail -n 1)
    # shellcheck disable=SC2086  # three numbers, or none from a program that crashed
    set -- $counts
    passed=$((passed + ${1:-0})) failed=$((failed + ${2:-0})) skipped=$((skipped + ${3:-0}))
    if [ "$code" != 0 ] && [ "${2:-0}" -eq 0 ] || [ $# -ne 3 ]; then
        echo "FAIL $name: ended with exit code $code"
        failed=$((failed + 1))
    fi
}

for test in "$@"; do
    # shellcheck disable=SC2086  # a command and its options, or nothing
    case $test in
    test_cli) run "$test" tests/test_cli.sh "$build/smolvlm" ;;
    test_demo) run "$test" tests/test_demo.sh "$build" ;;
    *) run "$test" $RUN "$build/$test" ;;
    esac
done

echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
