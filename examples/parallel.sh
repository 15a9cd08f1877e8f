#!/bin/sh
# parallel.sh MODEL REQUESTS FOLDER [WORKERS]: answers a file of --jsonl requests with several processes of one core
# each (GNU parallel; its -S takes it to other machines). The requests are cut into parts, FOLDER/part.000000 ..., and
# each part's answers go to FOLDER/part.000000.answers. A part whose process died is done again, three times at most,
# and then when this is run once more with the same words: it goes on where it stopped. At the end FOLDER/answers has
# all of them.
#
#     SMOLVLM=./smolvlm examples/parallel.sh smolvlm2.bin requests.jsonl work 16
#
# PART: how many requests a part has (default 1000). A request without an id cannot be resumed, and is refused.
set -eu
[ $# -ge 3 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
model=$1 requests=$2 folder=$3 workers=${4:-$(nproc)}
smolvlm=${SMOLVLM:-./smolvlm}
mkdir -p "$folder"
[ -e "$folder/cut" ] || split -a 6 -d -l "${PART:-1000}" "$requests" "$folder/part."      # again, if that was killed
: > "$folder/cut"

# --joblog, --resume-failed: parts that are done are not begun again, parts that failed are. Each waits for no other, so
# one thread a process answers most in an hour.
code=0
find "$folder" -name 'part.*[0-9]' | sort |
    parallel --will-cite -j "$workers" --joblog "$folder/log" --resume-failed --retries 3 \
        "$smolvlm" "$model" --jsonl -q -j 1 --resume {}.answers '<' {} || code=$?
[ $code -eq 0 ] || { echo "parallel.sh: $code parts failed; run this again to go on" >&2; exit 1; }
find "$folder" -name 'part.*.answers' | sort | xargs cat > "$folder/answers.part"
mv "$folder/answers.part" "$folder/answers"
