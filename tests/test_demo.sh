#!/bin/sh
# tests/test_demo.sh BUILD: demo/eval.c, on questions written here; then, if demo/demo.bin is there, what the demo must
# keep: the sealed bits, the answers of `make demo`, small print that only the tiles show, a few of demo/eval.
# Run from the repository's root; works in a folder of its own in BUILD. SV_SLOW=1 in the environment: a slow machine,
# an emulated one for instance, is asked fewer questions.
smolvlm=$1/smolvlm
eval=$1/eval
golden=tests/golden/model
vlm=$golden/vlm_q8.bin
demo=demo/demo.bin
pictures=demo/pictures
tmp=$1/demo.tmp
. tests/check.sh

rm -rf "$tmp"
mkdir -p "$tmp/set" || exit 1
trap 'rm -rf "$tmp"' EXIT

# run PROGRAM ARGUMENT...: with its output in $tmp/out and $tmp/err and its exit code in $code
run() {
    $RUN "$@" > "$tmp/out" 2> "$tmp/err"
    code=$?
}

# sentence CODE WORDS: this exit code, nothing on stdout, and on stderr one line, "eval: " with these words in it
sentence() {
    [ "$code" -eq "$1" ] && [ ! -s "$tmp/out" ] && [ "$(wc -l < "$tmp/err")" -eq 1 ] &&
        grep '^eval: ' "$tmp/err" | grep -qF -- "$2"
}

# ---------------------------------------------------------------------------------------------------------- eval: usage

run "$eval" --help
check 'eval --help' test $code -eq 0 -a ! -s "$tmp/err" -a "$(grep -c '^  eval ' "$tmp/out")" -eq 1
check 'eval --help fits 120 columns' test "$(awk 'length > 120' "$tmp/out" | wc -l)" -eq 0
run "$eval" $vlm
check 'eval without a folder' sentence 2 'which model, and which questions?'
run "$eval" $vlm a b
check 'eval with two folders' sentence 2 'b: a model and a folder'
run "$eval" --wrong $vlm a
check 'eval with an unknown option' sentence 2 '--wrong: no such option'
for option in --answers --every -j --threads; do
    run "$eval" $vlm a $option
    check "eval $option without a value" sentence 2 "$option: needs a value"
done
for option in '--every 0' '--every 1x' '-j 0' '--threads 2000'; do
    # shellcheck disable=SC2086  # an option and its value
    run "$eval" $option $vlm a
    check "eval $option" sentence 2 'not a number it takes'
done
run "$eval" $vlm "$tmp/nowhere"
check 'eval of no folder' sentence 1 "$tmp/nowhere/eval.jsonl: No such file"

# ------------------------------------------------------------------------------------------------------ eval: questions

set=$tmp/set/eval.jsonl
cp $golden/a.png $golden/b.ppm "$tmp/set"

# says PICTURES...: what smolvlm answers, as a JSON string without its quotes
says() {
    $RUN "$smolvlm" $vlm -q --json -p 'What is this?' -n 160 "$@" | sed 's/^{"text": "\(.*\)", "ids": .*/\1/'
}

# line ID SKILL PICTURES SPLIT ANSWER: a question
line() {
    printf '{"id": %s, "skill": "%s", "pictures": [%s], "split": %s, "question": "What is this?", "answer": "%s"}\n' \
        "$1" "$2" "$3" "$4" "$5"
}

a=$(says -i $golden/a.png)
whole=$(says -i $golden/a.png --no-split)
both=$(says -i $golden/a.png -i $golden/b.ppm)
swapped=$(says -i $golden/b.ppm -i $golden/a.png)
check 'the answers tell the questions apart' test -n "$a" -a "$a" != "$whole" -a "$both" != "$swapped"
{
    line 3 seen '"a.png"' true "$a"
    line 4 seen '"a.png"' false "$whole"
    line 5 both '"a.png", "b.ppm"' true "$both"
    line 6 both '"b.ppm","a.png"' true "$swapped"
    line 7 spaces '"a.png"' true " \\n $(printf '%s' "$a" | sed 's/ /\\t  /g')... \\u000a"
    printf '%s\n' '	{ "answer":"'"$a"'" ,"question" : "Wh\u0061t is \u0074his?", "split":true, "pictures":[ '\
'"\u0061.png" ],"skill":"es\u0063apes" , "id":12 } '
} > "$set"
run "$eval" $vlm "$tmp/set" --answers "$tmp/answers"
cp "$tmp/out" "$tmp/table"
check 'eval: all right' test $code -eq 0
cat > "$tmp/expected" << 'END'
both            2 of    2   100.0 %
escapes         1 of    1   100.0 %
seen            2 of    2   100.0 %
spaces          1 of    1   100.0 %
total           6 of    6   100.0 %
END
check 'eval: the table' cmp -s "$tmp/table" "$tmp/expected"
check 'eval: the time it took' grep -q '^6 questions in [0-9.]* s$' "$tmp/err"
check 'eval --answers: a line a question' test "$(grep -c '^{"id": [0-9]*, "right": true, "answer": ".*"}$' \
    "$tmp/answers")" -eq 6
for threads in 1 2; do
    run "$eval" -j $threads $vlm "$tmp/set" --answers "$tmp/again"
    check "eval -j $threads: the same table" cmp -s "$tmp/out" "$tmp/table"
    check "eval -j $threads: the same answers" cmp -s "$tmp/again" "$tmp/answers"
done
run "$eval" --every 4 $vlm "$tmp/set"
check 'eval --every 4' test $code -eq 0 -a "$(tail -n 1 "$tmp/out")" = 'total           2 of    2   100.0 %'

# A set whose answers are those of the others: which does not count as right?
{
    line 0 a '"a.png"' true "$whole"
    line 1 a '"a.png"' false "$a"
    line 2 a '"b.ppm", "a.png"' true "$both"
    line 3 b '"a.png"' true "$a ."
    line 4 b '"a.png"' true "$(printf '%s' "$a" | tr a-z A-Z | sed 's/\\N/\\n/g; s/\\R/\\r/g; s/\\T/\\t/g; s/\\U/\\u/g')"
    line 5 b '"a.png"' true "$a"
} > "$set"
run "$eval" $vlm "$tmp/set"
check 'eval: wrong answers' test $code -eq 1 -a "$(tr -s ' ' < "$tmp/out" | tr '\n' ';')" = \
    'a 0 of 3 0.0 %;b 1 of 3 33.3 %;total 1 of 6 16.7 %;'
check 'eval: says that these are too few' grep -q '^eval: in all fewer than 95 % are right$' "$tmp/err"
i=0
while [ $i -lt 51 ]; do
    case $i in
    9 | 10) line $i few '"a.png"' false no ;;
    ?) line $i few '"a.png"' false "$whole" ;;
    *) line $i rest '"a.png"' false "$whole" ;;
    esac
    i=$((i + 1))
done > "$set"
run "$eval" $vlm "$tmp/set"
check 'eval: 49 of 51 are enough in all' test $code -eq 1 -a "$(tail -n 1 "$tmp/out" | tr -s ' ')" = \
    'total 49 of 51 96.1 %'
check 'eval: but 9 of 11 not in a skill' test "$(grep -c '^eval: ' "$tmp/err")" -eq 1
check 'eval: which it names' grep -q '^eval: few: fewer than 90 % are right$' "$tmp/err"

# 57 of 60 are exactly enough in all, 9 of 10 in a skill; 8 of 10 are not; 1 of 2 is too few to judge.
i=0
while [ $i -lt 60 ]; do
    case $i in
    0) line $i nine '"a.png"' false no ;;
    ?) line $i nine '"a.png"' false "$whole" ;;
    10) line $i one '"a.png"' false no ;;
    11) line $i one '"a.png"' false "$whole" ;;
    12) line $i rest '"a.png"' false no ;;
    *) line $i rest '"a.png"' false "$whole" ;;
    esac
    i=$((i + 1))
done > "$set"
run "$eval" $vlm "$tmp/set"
check 'eval: 57 of 60 are enough, 9 of 10 in a skill, 1 of 2 in a rare one' test $code -eq 0 -a \
    "$(tail -n 1 "$tmp/out" | tr -s ' ')" = 'total 57 of 60 95.0 %'
line 60 nine '"a.png"' false no >> "$set"                     # 9 of 11
run "$eval" $vlm "$tmp/set"
check 'eval: 57 of 61 are not enough, nor 9 of 11' test $code -eq 1 -a "$(grep -c '^eval: ' "$tmp/err")" -eq 2

# ------------------------------------------------------------------------------------- eval: lines that are no question

# refused WHAT WORDS: with this as the file's second line, eval names the line and says these words
refused() {
    { line 0 a '"a.png"' true x; printf '%s\n' "$1"; } > "$set"
    run "$eval" $vlm "$tmp/set"
    check "eval refuses $1" sentence 1 "$set, line 2, column"
    check "eval on $1: $2" grep -qF "$2" "$tmp/err"
}
good=$(line 1 a '"a.png"' true x)
refused '' 'a question, {...}, was expected'
refused '[]' 'a question, {...}, was expected'
refused '{}' 'a string was expected'
refused "$good $good" 'something behind the question'
refused "${good%\}}" 'a comma or the question'
refused "${good%\}}, }" 'a string was expected'
refused "${good%x*}x" 'a string without an end'
refused "$(printf '%s' "$good" | sed 's/"id": 1, //')" 'without "id"'
refused "$(printf '%s' "$good" | sed 's/, "answer": "x"//')" 'without "answer"'
refused "$(printf '%s' "$good" | sed 's/"split"/"spilt"/')" 'a field that questions do not have'
refused "$(printf '%s' "$good" | sed 's/"skill": "a"/"id": 2/')" 'the same field a second time'
refused "$(printf '%s' "$good" | sed 's/"id":/"id"/')" 'a colon was expected'
for id in 01 -1 1.5 1e2 '"1"' 1234567890 null; do
    refused "$(line $id a '"a.png"' true x)" 'expected'
done
refused "$(line 0 a '"a.png"' true x)" 'its id is not above'
for split in True 1 '"true"' tru ''; do
    refused "$(line 1 a '"a.png"' "$split" x)" 'true or false was expected'
done
refused "$(line 1 '' '"a.png"' true x)" 'an empty text'
refused "$(line 1 a '' true x)" 'a string was expected'
refused "$(line 1 a '"a.png",' true x)" 'a string was expected'
refused "$(line 1 a '"a.png" "a.png"' true x)" "the list's end was expected"
refused "$(line 1 a '"1","2","3","4","5","6","7","8","9"' true x)" 'too many pictures'
refused "$(line 1 a '"../a.png"' true x)" 'a picture outside the folder'
refused "$(line 1 a '"a.png"' true ' ')" 'an empty text'
refused "$(line 1 a '"a.png"' true '\x')" 'an escape that JSON does not have'
refused "$(line 1 a '"a.png"' true '\u12g4')" 'four hexadecimal digits'
refused "$(line 1 a '"a.png"' true '\u12')" 'four hexadecimal digits'
refused "$(line 1 a '"a.png"' true '\u0000')" 'a zero character'
for half in '\ud83d' '\ud83d\n' '\ud83d\u0041' '\ude42' '\ude42\ud83d'; do
    refused "$(line 1 a '"a.png"' true "$half")" 'half a surrogate pair'
done
refused "$(line 1 a '"a.png"' true "$(printf 'a\tb')")" 'a control character'
{ line 0 a '"a.png"' true x; printf '{"id\000": 1}\n'; } > "$set"
run "$eval" $vlm "$tmp/set"
check 'eval refuses a zero byte' sentence 1 'line 2, column 5: a zero byte'
: > "$set"
run "$eval" $vlm "$tmp/set"
check 'eval of an empty file' sentence 1 'no questions'
line 7 a '"missing.png"' true x > "$set"
run "$eval" $vlm "$tmp/set"
check 'eval without the picture' sentence 1 "question 7: $tmp/set/missing.png: cannot be opened"
line 7 a '"a.png"' true x > "$set"
run "$eval" "$tmp/missing.bin" "$tmp/set"
check 'eval without the model' sentence 1 "$tmp/missing.bin: No such file"
run "$eval" $golden/text_q8.bin "$tmp/set"
check 'eval of a text-only model' sentence 1 'question 7: '
run "$eval" $vlm "$tmp/set" --answers "$tmp/no/such/file"
check 'eval --answers into a missing folder' sentence 1 "$tmp/no/such/file: "

# \ud83d\ude42 is one character, which a tokenizer without it reads as the four bytes f0 9f 99 82.
# asked N QUESTION: writes the answer to it to $tmp/asked.N
asked() {
    line 0 a '"a.png"' true x | sed "s/What is this?/$2/" > "$set"
    rm -f "$tmp/asked.$1"
    run "$eval" $vlm "$tmp/set" --answers "$tmp/asked.$1"
}
asked 1 '\\ud83d\\ude42 \\u20ac\\u00e9'
asked 2 "$(printf '\360\237\231\202 \342\202\254\303\251')"
asked 3 '\\ud83d\\ude43 \\u20ac\\u00e9'
check 'eval: escapes are UTF-8' cmp -s "$tmp/asked.1" "$tmp/asked.2"
check 'eval: and no other' test -s "$tmp/asked.3" -a "$(cat "$tmp/asked.1")" != "$(cat "$tmp/asked.3")"

# ------------------------------------------------------------------------------------------------------- the demo model

# answers WORDS OPTION...: the demo model says exactly this
answers() {
    words=$1
    shift
    run "$smolvlm" $demo -q "$@"
    check "the demo, $*: $words" test $code -eq 0 -a "$(cat "$tmp/out")" = "$words"
}

if [ ! -e $demo ]; then
    skip "the demo model: there is no $demo"
else
    check 'demo.bin is at most 12 MB' test "$(wc -c < $demo)" -le 12000000
    run "$smolvlm" $demo --selftest
    check 'the demo gives the sealed bits' test $code -eq 0 -a "$(tail -n 1 "$tmp/out")" = \
        'and the ones that the file says they must be: this machine agrees'
    set=$(awk 'NR > 1 && NF > 4 && $2 ~ /^[0-9]+$/ { set = $1 } END { print set }' "$tmp/out")
    run "$smolvlm" $demo --selftest --kernels "$set" -j 1
    check "--selftest --kernels $set" test $code -eq 0 -a \
        "$(awk '$2 ~ /^[0-9]+$/ { print $1, $2 }' "$tmp/out" | sort -u)" = "$set 1"

    SMOLVLM=$smolvlm demo/demo.sh > "$tmp/out" 2> "$tmp/err"
    code=$?
    check 'make demo' test $code -eq 0 -a ! -s "$tmp/err"
    sed -n '/^\$ /{n;p;}' "$tmp/out" > "$tmp/answers"
    cat > "$tmp/expected" << 'END'
A small blue ring, a big brown heart and a small yellow diamond on a pink background.
At the top right.
There is no circle in the picture.
27.07
3.18
Salad
57
PARROT
A big black hexagon and a small brown rectangle on an orange background.
A red star moves to the right.
A red star moves to the right.
END
    # What --no-split makes of the small print is its ninth answer, and may be anything but the text.
    check 'make demo: twelve commands, and one to try' test "$(grep -c '^\$ ' "$tmp/out")" -eq 13
    check 'make demo: the answers are right' test "$(sed -n '1,8p;10,12p' "$tmp/answers")" = "$(cat "$tmp/expected")"
    check 'make demo: --no-split is the ninth' test "$(grep '^\$ ' "$tmp/out" | sed -n '9s/.*small_print.* //p')" = \
        --no-split
    check 'make demo: without the tiles the small print is not read' test -n "$(sed -n 9p "$tmp/answers")" -a \
        "$(sed -n 9p "$tmp/answers")" != "$(sed -n 8p "$tmp/answers")"

    answers 35 -i $pictures/table.png -p 'What is the score of Kate?'
    answers dance -i $pictures/table.png -p 'Which sport does Kate have?'
    answers PUSH -i $pictures/sign.jpg -p 'What does the sign say?'
    answers Five. -i $pictures/count.png -p 'How many rectangles are there?'
    answers Miami -i $pictures/label.jpg -p 'What is the city?'
    answers Orange. -i $pictures/small_print.png -p 'What color is the diamond?' --no-split

    word=tests/golden/images/case_word_rgba.png     # black on transparent black
    answers LEMON -i $word -p 'What does the text say?' --background white
    check 'the demo: of a painted picture there is nothing to say' test ! -s "$tmp/err"
    run "$smolvlm" $demo -q -i $word -p 'What does the text say?'
    check 'the demo, as transformers: black on black is not read' test $code -eq 0 -a "$(cat "$tmp/out")" = \
        'There is no text.'
    check 'the demo: which the program says' grep -q "^smolvlm: $word: .*transparent.*--background white" "$tmp/err"

    every=25
    [ -z "$SV_SLOW" ] || every=100
    questions=$(wc -l < demo/eval/eval.jsonl)
    run "$eval" $demo demo/eval --every $every --answers "$tmp/answers"
    asked=$(grep -c . "$tmp/answers")
    check "demo/eval: every ${every}th question is asked" test "$asked" -eq $(((questions + every - 1) / every))
    check 'demo/eval: nine in ten are right' test "$(($(grep -c '"right": true' "$tmp/answers") * 10))" -ge \
        $((asked * 9))
    check 'demo/eval: all skills' test "$(grep -o '"skill": "[a-z_]*"' demo/eval/eval.jsonl | sort -u | wc -l)" -ge 20
    check 'demo/eval: 500 questions' test "$questions" -ge 500
    check 'demo/eval: 150 pictures' test "$(grep -o '"pictures": \[[^]]*\]' demo/eval/eval.jsonl | sort -u | wc -l)" \
        -ge 150
fi

echo
echo "Pass: $passed, fail: $failed, skip: $skipped."
[ $failed -eq 0 ]
