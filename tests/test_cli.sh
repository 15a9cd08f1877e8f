#!/bin/sh
# tests/test_cli.sh BINARY: the command line as a script sees it: exit codes, what is on stdout and what on stderr,
# which files it writes. Run from the repository's root; works in a folder of its own beside the binary.
# SV_SANITIZE=1 in the environment: the binary is sanitized, its address space cannot be limited. SV_SLOW=1: a slow
# machine, an emulated one for instance, is given less to do.
smolvlm=$1
golden=tests/golden/model
vlm=$golden/vlm.bin
text=$golden/text.bin
question='What is in this picture?'
tmp=$smolvlm.cli.tmp
. tests/check.sh

rm -rf "$tmp"
mkdir -p "$tmp" || exit 1
trap 'rm -rf "$tmp"' EXIT

# run ARGUMENT...: the program, with nothing on stdin, its output in $tmp/out and $tmp/err and its exit code in $code
run() {
    $RUN "$smolvlm" "$@" < /dev/null > "$tmp/out" 2> "$tmp/err"
    code=$?
}

# run_with FILE ARGUMENT...: the same with the file as stdin
run_with() {
    input=$1
    shift
    $RUN "$smolvlm" "$@" < "$input" > "$tmp/out" 2> "$tmp/err"
    code=$?
}

# sentence CODE WORDS: this exit code, nothing on stdout, and on stderr one line, "smolvlm: " with these words in it
sentence() {
    [ "$code" -eq "$1" ] && [ ! -s "$tmp/out" ] && [ "$(wc -l < "$tmp/err")" -eq 1 ] &&
        grep '^smolvlm: ' "$tmp/err" | grep -qF -- "$2"
}

succeeded() { [ "$code" -eq 0 ]; }
differs() { ! cmp -s "$tmp/out" "$1"; }
quiet() { [ "$code" -eq 0 ] && [ ! -s "$tmp/err" ]; }

# ------------------------------------------------------------------------------------------------------- help and usage

run --help
check '--help' succeeded
for option in --image --prompt --system --max-tokens --temperature --top-p --min-p --top-k --repetition-penalty \
    --stop --seed --threads --no-split --longest-edge --background --video --video-fps --fps --frames --messages \
    --jsonl --resume --logprobs --choices --schema --fields --json-output --json --dump --tiles --tokenize \
    --detokenize --info --selftest --hessians --items --layers --kernels --quiet --help --version; do
    check "--help names $option" grep -qe " $option" "$tmp/out"
done
check '--help writes to stdout only' test ! -s "$tmp/err"
check '--help fits 120 columns' test "$(awk 'length > 120' "$tmp/out" | wc -l)" -eq 0
run -h
check '-h' grep -q -e '--longest-edge' "$tmp/out"

# The program may begin again, to set a variable; not where the dynamic linker, which would begin instead, has begun it.
linker=/lib64/ld-linux-x86-64.so.2
for begin in '' $linker; do
    if [ -n "$begin" ] && { [ -n "$RUN" ] || ! "$begin" --verify "$smolvlm"; } 2> /dev/null; then continue; fi
    # shellcheck disable=SC2086
    env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT $RUN $begin "$smolvlm" --version > "$tmp/out" 2> "$tmp/err"
    code=$?
    check "the program begins again $begin" test $code -eq 0 -a ! -s "$tmp/err" -a "$(wc -l < "$tmp/out")" -eq 1
done
run --version
check '--version' grep -q '^smolvlm [0-9]*\.[0-9]*\.[0-9]*$' "$tmp/out"
run
check 'no arguments' sentence 2 'which model?'
run -p hello
check 'no model' sentence 2 'which model?'
run $vlm
check 'no prompt' sentence 2 'what is the question?'
run $vlm -i $golden/a.png
check 'a picture but no prompt' sentence 2 'what is the question?'
run $vlm photo.jpg -p hello
check 'a second model' sentence 2 'photo.jpg'
for option in --nothing -x --prompts --imag --verbose; do
    run $vlm -p hello "$option"
    check "unknown option $option" sentence 2 "$option: no such option"
done
# near WORD WORDS: the sentence about this word names these options, or none
near() {
    run $vlm -p hello "$1"
    check "did you mean, $1" sentence 2 "$1: no such option${2:+; did you mean $2?} (see --help)"
}
near --imag --image
near --iamge --image
near --prompts --prompt
near --Quiet --quiet
near --no_split --no-split
near --nosplit --no-split
near --temp --temperature
near --max-new-tokens --max-tokens
near --to '--top-p or --top-k or --tokenize'
near --n --max-tokens
near --image-file
near -image --image
near -json --json
near -xq
run $vlm -p hello -qx
check 'an unknown letter among others' sentence 2 '-x: no such option, in -qx'
run $vlm -p hello -n20x
check 'a value in the same word' sentence 2 '-n 20x: not a whole number'
run $vlm -p hello -n=20
check 'a letter takes the rest of the word, = too' sentence 2 '-n =20: not a whole number'
run -p hello -q -- -none.bin
check 'no option after --' sentence 1 '-none.bin: No such file'
run $vlm -p hello -- -q
check 'a second model after --' sentence 2 '-q: a second model'
run $vlm -i $golden/a.png -q -p What do you see
check 'a prompt without quotes' sentence 2 'do: a second model; a text of several words needs quotes ("What do ...")'
run --prompt=What is this $vlm
check 'a prompt without quotes before the model' sentence 2 'needs quotes ("What is ...")'
run -p 'What is this?' $vlm $golden/a.png
check 'a second model after a prompt with quotes' sentence 2 'a.png: a second model; each picture needs a -i of its own'
for option in -i --image -p --prompt -s -n -t --top-p --min-p --repetition-penalty --stop --top-k --seed -j \
    --longest-edge --background --video --video-fps --fps --frames --dump --tiles --hessians --items --layers; do
    run $vlm "$option"
    check "$option without a value" sentence 2 "$option: needs a value"
done
for option in '-n -1' '-n 1x' '-n 99999999999999999999' '-n 1.5' '-t -0.5' '-t hot' '-t nan' '--top-p 1.5' \
    '--min-p -1' '--repetition-penalty 1001' '--top-k -2' '--seed -1' '-j 0' '-j 2000' '--longest-edge 0' \
    '--frames 0' '--frames 1.5' \
    '--longest-edge 65536'; do
    # shellcheck disable=SC2086  # an option and its value
    run $vlm -p hello $option
    check "$option" sentence 2 'number from'
done
for option in '--fps 0' '--fps x' '--fps 1/0' '--fps nan' '--fps 1e9' '--fps 5/' '--video-fps -1' '--video-fps 25/x'; do
    # shellcheck disable=SC2086
    run $vlm -p hello $option
    check "$option" sentence 2 'not a rate above 0'
done
run $vlm -p hello --fps 2
check '--fps without a video' sentence 2 'about a --video, and there is none'
run $vlm --video - -i - -p hello
check 'two inputs from stdin' sentence 2 'standard input can be read only once'
run $vlm --video missing.mp4 -p hello
check 'a video for a model that takes none' sentence 1 'takes no video'
for option in '-n' '-t' '-j'; do
    run $vlm -p hello "$option" ''
    check "$option with an empty value" sentence 2 'number from'
done
for prompt in '' ' ' '
'; do
    run $vlm -q -i $golden/a.png -p "$prompt"
    check "an empty prompt '$prompt'" sentence 2 'the prompt is empty'
done
for colour in blue White 12345 1234567 12345g '' ' 123456' 0x1234; do
    run $vlm -p hello --background "$colour"
    check "--background '$colour'" sentence 2 "--background $colour: neither white nor black nor a colour as RRGGBB"
done
printf 'RIFF\44\0\0\0WEBPVP8 ' > "$tmp/it's.webp"
run $vlm -p hello -i "$tmp/it's.webp"
check 'no command to paste for a name with a quote' sentence 1 \
    "it's.webp: WebP pictures are not read; convert it to PNG"
run $vlm --info --selftest
check 'two uses at once' sentence 2 'one at a time'
run $vlm --info -p hello
check 'a question beside --info' sentence 2 'go with none of'
run $vlm --tokenize -i $golden/a.png
check 'a picture beside --tokenize' sentence 2 'go with none of'
run $vlm --selftest --json
check 'JSON of --selftest' sentence 2 'go with none of'
run $vlm -p hello --kernels none
check 'kernels that there are not' sentence 2 '--kernels none: not a set'
run $vlm -p hello -n 1 --top-p 0.5
check 'sampling without a temperature' \
    grep -q '^smolvlm: --top-p, --min-p, --top-k and --seed change nothing' "$tmp/err"
run $vlm -p hello --json=yes
check '--json=yes' sentence 2 '--json: takes no value'

# ---------------------------------------------------------------------------------------------- inputs that are no good

head -c 1000 $golden/a.png > "$tmp/cut.png"
head -c 1000 $vlm > "$tmp/cut.bin"
: > "$tmp/empty"
run $vlm -q -p x -i "$tmp/missing.png"
check 'missing picture' sentence 1 "$tmp/missing.png: cannot be opened: No such file"
run $vlm -q -p x -i tests
check 'directory as picture' sentence 1 'tests: '
run $vlm -q -p x -i "$tmp/cut.png"
check 'truncated PNG' sentence 1 "$tmp/cut.png: "
run $vlm -q -p x -i tests/golden/images/bad_photo.webp
check 'WebP' sentence 1 'bad_photo.webp: WebP'
run $vlm -q -n 2 -p x -i tests/golden/jpeg/eoi_too_early.jpg
check 'a damaged JPEG is answered' test "$code" -eq 0 -a -s "$tmp/out"
check '  and one line tells of it, with -q too' grep -qx \
    'smolvlm: tests/golden/jpeg/eoi_too_early.jpg: the JPEG is damaged.* ends early, at marker FFD9' "$tmp/err"
check '  but no other' test "$(wc -l < "$tmp/err")" -eq 1
run $vlm -q -p x -i "$tmp/empty"
check 'empty picture' sentence 1 "$tmp/empty: "
run $vlm -q -p x -i $golden/a.png -i "$tmp/cut.png"
check 'second picture truncated' sentence 1 "$tmp/cut.png: "
run_with "$tmp/cut.png" $vlm -q -p x -i -
check 'truncated PNG on stdin' sentence 1 'smolvlm: '
run tests -q -p x
check 'directory as model' sentence 1 'tests: a directory'
run "$tmp/missing.bin" -q -p x
check 'missing model' sentence 1 "$tmp/missing.bin: No such file"
run "$tmp/cut.bin" -q -p x
check 'truncated model' sentence 1 "$tmp/cut.bin: "
run $golden/a.png -q -p x
check 'picture as model' sentence 1 "$golden/a.png: not a checkpoint"
run "$tmp/empty" -q -p x
check 'empty model' sentence 1 "$tmp/empty: "
run $text -q -p x -i $golden/a.png
check 'picture for a text-only model' sentence 1 "$text: a text-only model"
run_with "$tmp/empty" $vlm -q -p - -i $golden/a.png
check 'empty prompt on stdin' sentence 1 'standard input: the text is empty'
printf '\r\n\n' > "$tmp/blank"
run $vlm -q -p "@$tmp/blank"
check 'blank prompt in a file' sentence 1 "$tmp/blank: the text is empty"
printf 'a\0b' > "$tmp/zero"
run $vlm -q -p "@$tmp/zero"
check 'a zero byte in the prompt' sentence 1 "$tmp/zero: a zero byte"
run $vlm -q -p "@$tmp/missing"
check 'a prompt in a missing file' sentence 1 "$tmp/missing: No such file"
run $vlm -q -p @tests
check 'a directory as prompt' sentence 1 'tests: '
run $vlm -q -p 'What is <image> here?' -i $golden/a.png
check 'image token in the prompt' sentence 1 '<image>'
run $vlm -q --raw -p 'What is <image> here?'
check '--raw without the picture' sentence 1 'the prompt has <image> 1 time, but there are 0 pictures'
run $vlm -q --raw -p 'What is here?' -i $golden/a.png
check '--raw without its place' sentence 1 'the prompt has <image> 0 times, but there is 1 picture'
run $vlm -q --raw -p x -s y
check '--raw with -s' sentence 2 '--raw'
run $vlm --raw --tokenize
check '--raw with --tokenize' sentence 2 '--raw'
run $vlm -q -n 8 --json -s 'Be kind.' -p 'What is it?' -i $golden/a.png
grep -o '"prompt_ids": [^]]*' "$tmp/out" > "$tmp/with_template"
run $vlm -q -n 8 --json -i $golden/a.png --raw -p '<|im_start|>System: Be kind.<end_of_utterance>
User:<image>What is it?<end_of_utterance>
Assistant:'
grep -o '"prompt_ids": [^]]*' "$tmp/out" > "$tmp/raw"
check '--raw: the prompt as the template makes it' cmp "$tmp/with_template" "$tmp/raw"
check '  which is long' test "$(wc -c < "$tmp/raw")" -gt 100
run $vlm -q -p "$(printf '%2000s' | tr ' ' 7)"
check 'prompt over the context' sentence 1 'more than the context of 640'
run $vlm -q -p "$(printf '%2000s' | tr ' ' 7)" -i $golden/a.png
check 'prompt over the context, beside a picture' sentence 1 'more than the context of 640'
check 'no advice on pictures where they are not the reason' grep -q '640$' "$tmp/err"
run $vlm -q -p x -i $golden/a.png --longest-edge 640
check 'picture over the context' sentence 1 'context of 640 (--no-split or a smaller --longest-edge takes fewer)'
run $vlm -q -p x -i $golden/a.png --dump "$tmp/no/such/folder"
check '--dump into a missing folder' sentence 1 "$tmp/no/such/folder: "
run $vlm -q -p x -i $golden/a.png --tiles $vlm
check '--tiles into a file' sentence 1 "$vlm"
run $vlm -p x -i $golden/a.png --dump "$tmp/empty"
check '--dump into a file, said before anything is computed' sentence 1 "$tmp/empty: "
for input in '-p - -i -' '-s - -p -' '-i - -i - -p x'; do
    # shellcheck disable=SC2086  # options and their values
    run_with $golden/a.png $vlm -q -p x $input
    check "standard input twice, $input" sentence 2 'can be read only once'
done

# -------------------------------------------------------------------------------------------------------------- answers

run $vlm -i $golden/a.png -p "$question" -n 8
check 'an answer' succeeded
cp "$tmp/out" "$tmp/answer"
check 'the answer is one line' test "$(wc -l < "$tmp/answer")" -eq 1
check 'progress on stderr: before the first tile' test "$(head -n 1 "$tmp/err")" = 'tile 0/5'
check 'progress on stderr: tiles' grep -q '^tile 5/5$' "$tmp/err"
check 'progress on stderr: prefill' grep -q '^prefill 52/52$' "$tmp/err"
check 'timings on stderr' grep -q \
    '^load .* (5 tiles), prefill .* (52 tokens, .*), decode .* (8 tokens, .*), cut off there (-n)$' "$tmp/err"
check 'progress, timings and no more' test "$(grep -vc -e '^tile ' -e '^prefill ' -e '^load ' "$tmp/err")" -eq 0

run $vlm -i $golden/a.png -p "$question" -n 8 -q
check '-q leaves stderr empty' quiet
check '-q changes no answer' cmp -s "$tmp/out" "$tmp/answer"
run --max-tokens=8 --image=$golden/a.png --prompt="$question" --quiet $vlm
check 'long options with =' cmp -s "$tmp/out" "$tmp/answer"
run -qn8 -i$golden/a.png -p"$question" -- $vlm
check 'options together, and values in the same word' cmp -s "$tmp/out" "$tmp/answer"
run $vlm -n 8 -qi $golden/a.png -p "$question"
check 'options together, and a value in the next word' cmp -s "$tmp/out" "$tmp/answer"
for end in '' '\n' '\r\n'; do
    # shellcheck disable=SC2059  # the line end is to become one
    printf "%s$end" "$question" > "$tmp/question"
    run_with "$tmp/question" $vlm -q -n 8 -i $golden/a.png -p -
    check "prompt on stdin, line end '$end'" cmp -s "$tmp/out" "$tmp/answer"
    run $vlm -q -n 8 -i $golden/a.png -p "@$tmp/question"
    check "prompt in a file, line end '$end'" cmp -s "$tmp/out" "$tmp/answer"
done
run $vlm -q -n 0 -p "$question" --json
cp "$tmp/out" "$tmp/no_end"
printf '%s\n\n' "$question" > "$tmp/question"
echo "$question" > "$tmp/asked"
run_with "$tmp/asked" $vlm -q -n 8 -i $golden/a.png
check 'without -p the question is stdin' cmp -s "$tmp/out" "$tmp/answer"
run_with "$tmp/question" $vlm -q -n 8 -i $golden/a.png --json
check 'without -p the question is stdin, --json' grep -q '^{"text": ' "$tmp/out"
run_with "$tmp/question" $vlm -q -n 8 -s -
check 'without -p, and stdin is -s' sentence 2 'what is the question?'
run_with "$golden/a.png" $vlm -q -n 8 -i -
check 'without -p, and stdin is a picture' sentence 2 'what is the question?'
echo '  ' > "$tmp/blank"
run_with "$tmp/blank" $vlm -q
check 'without -p, white space on stdin' sentence 1 'standard input: the text is empty'
run_with / $vlm -q
check 'without -p, a directory on stdin' sentence 2 'what is the question?'
run_with "$tmp/question" $vlm -q -n 0 -p - --json
check 'only the last line end is left out' differs "$tmp/no_end"
$RUN "$smolvlm" $vlm -i $golden/a.png -p "$question" -n 8 > "$tmp/out" 2>&1
code=$?
check 'timings after the answer, where both go to one place' grep -q '^load ' "$tmp/out"
check 'timings on a line of their own' test "$(tail -n 1 "$tmp/out" | cut -c 1-5)" = 'load '
for threads in 1 2 3; do
    run $vlm -i $golden/a.png -p "$question" -n 8 -q -j $threads
    check "-j $threads changes no answer" cmp -s "$tmp/out" "$tmp/answer"
done
run_with $golden/a.png $vlm -i - -p "$question" -n 8 -q
check 'picture on stdin' cmp -s "$tmp/out" "$tmp/answer"
run $vlm -i $golden/b.ppm -p "$question" -n 8 -q
check 'another picture, another answer' differs "$tmp/answer"
run $vlm -i $golden/a.png -p "$question" -n 8 -q --no-split
check '--no-split, another answer' differs "$tmp/answer"
run $vlm -i $golden/a.png -p "$question" -n 8 -q -s 'Answer in one word.'
check '--system, another answer' differs "$tmp/answer"
cp "$tmp/out" "$tmp/system"
echo 'Answer in one word.' > "$tmp/question"
run $vlm -i $golden/a.png -p "$question" -n 8 -q -s "@$tmp/question"
check '--system from a file' cmp -s "$tmp/out" "$tmp/system"
run $vlm -i $golden/a.png -p "$question" -n 8 -q -t 1 --seed 3
check 'sampling' quiet
cp "$tmp/out" "$tmp/sampled"
check 'sampling, another answer' differs "$tmp/answer"
run $vlm -i $golden/a.png -p "$question" -n 8 -q -t 1 --seed 3
check 'sampling, the same seed' cmp -s "$tmp/out" "$tmp/sampled"
run $vlm -i $golden/a.png -p "$question" -n 8 -q -t 1 --seed 4
check 'sampling, another seed' differs "$tmp/sampled"
run $vlm -i $golden/a.png -p "$question" -n 8 -q -t 1 --seed 3 --top-k 1
check 'sampling, --top-k 1' cmp -s "$tmp/out" "$tmp/answer"
run $vlm -i $golden/a.png -p "$question" -n 8 -q -t 1 --seed 3 --top-p 0
check 'sampling, --top-p 0' cmp -s "$tmp/out" "$tmp/answer"
run $vlm -i $golden/a.png -p "$question" -n 8 -q -t 1 --seed 3 --min-p 1
check 'sampling, --min-p 1' cmp -s "$tmp/out" "$tmp/answer"
run $vlm -i $golden/a.png -p "$question" -n 8 -q --repetition-penalty 1
check '--repetition-penalty 1 is none' cmp -s "$tmp/out" "$tmp/answer"
run $vlm -i $golden/a.png -p "$question" -n 8 -q --repetition-penalty 3
check '--repetition-penalty, another answer' differs "$tmp/answer"
# The answer is "y<row_6_col_1><row_3_col_3>nt inrei..."; the stop text begins in the middle of a token.
run $vlm -i $golden/a.png -p "$question" -n 8 -q --stop never --stop 'l_3>nt i' --stop '>nt in'
check '--stop, the text before it' test "$(cat "$tmp/out")" = 'y<row_6_col_1><row_3_co'
run $vlm -i $golden/a.png -p "$question" -n 8 -q --json --stop 'l_3>nt i'
check '--stop, finish_reason' grep -q '"text": "y<row_6_col_1><row_3_co", .*"finish_reason": "stop"' "$tmp/out"
run $vlm -i $golden/a.png -p "$question" -n 8 -q --stop 'ctuntt' --stop "$(printf '\303\273-x')"
check '--stop, texts that only begin' cmp -s "$tmp/out" "$tmp/answer"
run $vlm -p hello --stop ''
check '--stop, empty' sentence 2 '--stop: an empty text stops nothing'
run $vlm -p hello -n 0
printf '<|im_start|>User: hello<end_of_utterance>\nAssistant:\n' > "$tmp/prompt"
check '-n 0 prints the prompt' cmp -s "$tmp/out" "$tmp/prompt"
run $vlm -i $golden/a.png -p "$question" -n 0 -q          # written out again, it has the ids that the model gets
awk '{
    while (match($0, /<image>\303\227[0-9]+/)) {
        count = substr($0, RSTART + 9, RLENGTH - 9); run = ""
        while (count-- > 0) run = run "<image>"
        $0 = substr($0, 1, RSTART - 1) run substr($0, RSTART + RLENGTH)
    }
    printf "%s%s", (NR > 1 ? "\n" : ""), $0 }' "$tmp/out" > "$tmp/prompt"
run_with "$tmp/prompt" $vlm --tokenize
sed 's/ /, /g' "$tmp/out" > "$tmp/prompt"
run $vlm -i $golden/a.png -p "$question" -n 0 -q --json
check '-n 0 prints all of the prompt' grep -qF "\"prompt_ids\": [$(cat "$tmp/prompt")]" "$tmp/out"
run $text -p hello -n 3 -q
check 'text-only model' quiet

# -------------------------------------------------------------------------------------------------------- transparency

# notes NUMBER: this many lines on stderr, and no error
notes() { [ "$code" -eq 0 ] && [ "$(wc -l < "$tmp/err")" -eq "$1" ]; }
# same_tiles FOLDER: those that the run before wrote, except for the picture as decoded
same_tiles() {
    for tile in "$1"/image0_*.ppm; do cmp -s "$tile" "$tmp/tiles_now/${tile##*/}" || return 1; done
}
images=tests/golden/images
run $vlm -i $images/case_word_white.png -p "$question" -n 0 -q --tiles "$tmp/tiles_white"
check 'an opaque picture: no note' notes 0
check 'an opaque picture: five tiles' test "$(ls "$tmp/tiles_white" | wc -l)" -eq 6
run $vlm -i $images/case_word_rgba.png -p "$question" -n 0 -q --tiles "$tmp/tiles_now"
check 'a transparent picture: one note, also with -q' notes 1
check 'a transparent picture: what the note says' grep -q "^smolvlm: $images/case_word_rgba.png: parts of the picture \
are transparent, .* (--background white paints them over)$" "$tmp/err"
check 'a transparent picture: other tiles than on white' test "$(same_tiles "$tmp/tiles_white"; echo $?)" -eq 1
cp "$tmp/tiles_now/image0.ppm" "$tmp/decoded"
for colour in white ffffff FFFFFF; do
    rm -rf "$tmp/tiles_now"
    run $vlm -i $images/case_word_rgba.png -p "$question" -n 0 -q --tiles "$tmp/tiles_now" --background $colour
    check "--background $colour: no note" notes 0
    check "--background $colour: the tiles of the picture on white" same_tiles "$tmp/tiles_white"
done
check '--background: the picture as decoded stays so' cmp -s "$tmp/tiles_now/image0.ppm" "$tmp/decoded"
mv "$tmp/tiles_now" "$tmp/tiles_white"
rm -rf "$tmp/tiles_now"
run $vlm -i $images/case_word_rgba.png -p "$question" -n 0 -q --tiles "$tmp/tiles_now" --background=000000
mv "$tmp/tiles_now" "$tmp/tiles_black"
check '--background 000000: other tiles than on white' test "$(cmp -s "$tmp/tiles_black/image0_global.ppm" \
    "$tmp/tiles_white/image0_global.ppm"; echo $?)" -eq 1
run $vlm -i $images/case_word_rgba.png -p "$question" -n 0 -q --tiles "$tmp/tiles_now" --background black
check '--background black is 000000' same_tiles "$tmp/tiles_black"
run $vlm -i $images/case_word_white.png -p "$question" -n 0 -q --tiles "$tmp/tiles_now" --background black
check '--background changes no opaque picture' same_tiles "$tmp/tiles_white"
run $vlm -i $images/case_pal_trns_one.png -i $images/case_la_alpha.png -i $images/case_pal_trns_many.png \
    -p "$question" -n 0 -q
check 'three transparent pictures: what is white already needs no note' notes 2
check 'three transparent pictures: the notes name the others' test "$(grep -c -e 'case_la_alpha.png: parts' \
    -e 'case_pal_trns_many.png: parts' "$tmp/err")" -eq 2

# Names and words beyond ASCII, also where arguments are not UTF-8 by nature (Windows): the same ids by every way.
odd="$tmp/é 你好 🙂"
mkdir -p "$odd" && cp $golden/a.png "$odd/ж.png" && cp $vlm "$odd/ü.bin"
words='Où est le café, 你好 🙂?'
echo "$words" > "$odd/q.txt"
ids() { sed 's/.*"prompt_ids": \(\[[^]]*\]\).*/\1/' "$tmp/out"; }
run_with "$odd/q.txt" $vlm -i $golden/a.png -p - -n 1 --json -q
ids > "$tmp/ids"
check 'a prompt beyond ASCII on stdin' quiet
run $vlm -i $golden/a.png -p "$words" -n 1 --json -q
check 'a prompt beyond ASCII as argument' test "$(ids)" = "$(cat "$tmp/ids")"
run "$odd/ü.bin" -i "$odd/ж.png" -p "@$odd/q.txt" -n 1 --json -q --dump "$odd/é" --tiles "$odd/ø"
check 'files whose names go beyond ASCII' test "$(ids)" = "$(cat "$tmp/ids")"
check 'folders whose names go beyond ASCII' test -s "$odd/é/lm_head.npy" -a -s "$odd/ø/image0.ppm"
run "$odd/ü.bin" -i "$odd/жж.png" -p x -q
check 'a missing file whose name goes beyond ASCII' sentence 1 "$odd/жж.png: cannot be opened: No such file"

# ----------------------------------------------------------------------------------------------------------------- JSON

run $vlm -i $golden/a.png -p "$question" -n 8 --json -q
check '--json' quiet
number='[0-9][0-9]*\.[0-9]*'
ids='\[[0-9, ]*\]'
timings="{\"load\": $number, \"image\": $number, \"vision\": $number, \"prefill\": $number, \"decode\": $number}"
rates="{\"prefill\": $number, \"decode\": $number}"
check '--json is one object with all its fields' grep -qx "{\"text\": \".*\", \"ids\": $ids, \"prompt_ids\": $ids, \
\"finish_reason\": \"length\", \"timings\": $timings, \"tokens_per_second\": $rates}" "$tmp/out"
check '--json is one line' test "$(wc -l < "$tmp/out")" -eq 1
sed 's/^{"text": "\(.*\)", "ids": .*/\1/' "$tmp/out" > "$tmp/json_text"
check '--json has the same text' cmp -s "$tmp/json_text" "$tmp/answer"
check '--json has 8 ids' test "$(sed 's/.*"ids": \[\([^]]*\)\], "prompt_ids.*/\1/' "$tmp/out" | wc -w)" -eq 8
check '--json has 52 prompt ids' test "$(sed 's/.*"prompt_ids": \[\([^]]*\)\].*/\1/' "$tmp/out" | wc -w)" -eq 52
sed 's/.*"ids": \(\[[^]]*\]\), "prompt_ids.*/\1/' "$tmp/out" > "$tmp/ids"
run_with "$tmp/ids" $vlm --detokenize
printf '\n' >> "$tmp/out"
check '--json: the ids are the text' cmp -s "$tmp/out" "$tmp/answer"

# Hot sampling brings control characters, quotes, newlines and broken UTF-8: strings stay within JSON's rules.
no_raw_controls() { [ "$(LC_ALL=C tr -d '\040-\176\200-\377' < "$tmp/out" | wc -c)" -eq 1 ]; }
known_escapes() { ! sed -e 's/\\["\\bfnrt]//g' -e 's/\\u[0-9a-f]\{4\}//g' "$tmp/out" | grep -qF '\'; }
: > "$tmp/all"
for seed in 1 2 3 4 5 6; do
    run $vlm -p hello -n 200 -t 50 --seed $seed --json -q
    check "--json, seed $seed: no raw control characters" no_raw_controls
    check "--json, seed $seed: only escapes that JSON has" known_escapes
    cat "$tmp/out" >> "$tmp/all"
done
for escape in '\"' '\n' '\u00'; do
    check "--json, $escape occurs" grep -qF "$escape" "$tmp/all"
done
run $vlm -p hello -n 0 --json -q
check '--json -n 0' grep -q '^{"text": "", "ids": \[\], "prompt_ids": \[[0-9]' "$tmp/out"

# -------------------------------------------------------------------------------------------------------- conversations

cp $golden/a.png $golden/b.ppm "$tmp"
cat > "$tmp/talk.json" <<EOF
[{"role": "system", "content": "Be kind."},
 {"role": "user", "content": [{"type": "image", "path": "a.png"}, {"type": "text", "text": "$question"}]}]
EOF
run $vlm -q -n 8 --json -i $golden/a.png -s 'Be kind.' -p "$question"
sed 's/, "finish_reason.*//' "$tmp/out" > "$tmp/expected"
# same_ids: text, ids and prompt ids are those of the run with -s, -i and -p
same_ids() { sed 's/, "finish_reason.*//' "$tmp/out" | cmp -s - "$tmp/expected"; }
run $vlm -q -n 8 --json --messages "$tmp/talk.json"
check '--messages: the same ids as -s, -i and -p' same_ids
sed "s/, \"path\": \"a.png\"//" "$tmp/talk.json" > "$tmp/bare.json"
run $vlm -q -n 8 --json --messages "$tmp/bare.json" -i $golden/a.png
check '--messages: a picture given by -i' same_ids
sed "s|a.png|$tmp/a.png|" "$tmp/talk.json" > "$tmp/there.json"
run_with "$tmp/there.json" $vlm -q -n 8 --json --messages -
check '--messages -: paths from the working directory' same_ids
run $vlm -q -n 8 --json -s 'Be kind.' -i $golden/a.png -p "{image}$question"
check '{image} before the question' same_ids
run $vlm -q --messages "$tmp/bare.json"
check '--messages: a picture without a path' sentence 1 "$tmp/bare.json: message 2, content 1: needs a \"path\""
run $vlm -q --messages "$tmp/missing.json"
check '--messages: no such file' sentence 1 "$tmp/missing.json: No such file"
run $vlm -q --messages tests
check '--messages: a directory' sentence 1 'tests: '
run $vlm -q --messages $golden/a.png
check '--messages: a picture' sentence 1 "$golden/a.png: line 1, column 1: a value is expected"
head -c 52 "$tmp/talk.json" > "$tmp/cut.json"
run $vlm -q --messages "$tmp/cut.json"
check '--messages: the line and column of a mistake' sentence 1 "$tmp/cut.json: line 2, column 9: a colon"
run $vlm -q --messages "$tmp/talk.json" -p x
check '--messages beside -p' sentence 2 'go not with --messages'
run $vlm -q -p 'Is {image} like {image}?' -i $golden/a.png
check '{image} twice, one picture' sentence 1 'the prompt has {image} 2 times, but there is 1 picture'

# ------------------------------------------------------------------------------------------------------- many requests

cat > "$tmp/requests" <<EOF
{"id": 1, "prompt": "$question", "images": ["$golden/a.png"], "max_tokens": 8, "ids": true, "system": "Be kind."}
{"id": "two", "messages": [{"role": "user", "content": "hello"}], "temperature": 1, "seed": 9223372036854775807}

{"id": 3, "prompt": "x", "images": ["$tmp/missing.png"]}
{"id": 4, "prompt": "x", "wings": 2}
{"id": 5, "prompt": "x", "max_tokens": "many"}
{"id": 6, "prompt": "x", "messages": []}
{"id": [7], "prompt": "x"}
{"id": 8, "prompt":
[9]
{"prompt": "$question", "images": ["$golden/a.png"]}
EOF
printf '{"id": 11, "prompt": "the last line has no end"}' >> "$tmp/requests"
run_with "$tmp/requests" $vlm --jsonl -n 3
cp "$tmp/out" "$tmp/answers"
check '--jsonl' succeeded
check '--jsonl: a line each, none for an empty one' test "$(wc -l < "$tmp/out")" -eq 11
check '--jsonl: in the same order' test \
    "$(sed 's/^{"id": \([^,]*\),.*/\1/' "$tmp/out" | tr '\n' ' ')" = '1 "two" 3 4 5 6 null null null null 11 '
check '--jsonl: a summary on stderr' grep -q '^4 requests answered, 7 errors, 0 skipped, ' "$tmp/err"
check '--jsonl: no other word there' test "$(wc -l < "$tmp/err")" -eq 1
number='[0-9][0-9]*\.[0-9]*'
check '--jsonl: what an answer has' grep -qx "{\"id\": \"two\", \"text\": \".*\", \"finish_reason\": \"length\", \
\"usage\": {\"prompt_tokens\": [0-9]*, \"completion_tokens\": 3, \"total_tokens\": [0-9]*, \
\"cached_tokens\": [0-9]*}, \"timings\": {\"image\": $number, \"vision\": $number, \"prefill\": $number, \
\"decode\": $number}}" "$tmp/out"
# error_of LINE TEXT: the answer on this line is this error
error_of() { sed -n "$1p" "$tmp/answers" | grep -qF -- "\"error\": \"$2"; }
check '--jsonl: a missing picture' error_of 3 "$tmp/missing.png: cannot be opened"
check '--jsonl: an unknown key' error_of 4 '\"wings\": no such key'
check '--jsonl: a value of another kind' error_of 5 '\"max_tokens\": must be a whole number from 0 to 16777216'
check '--jsonl: two conversations' error_of 6 '\"messages\" or \"prompt\": one of the two'
check '--jsonl: an id that is none' error_of 7 '\"id\": neither a string nor a whole number'
check '--jsonl: no JSON' error_of 8 'request: line 1, column 20: '
check '--jsonl: the line of a request without an id' grep -q '^{"id": null, "line": 9, "error": ' "$tmp/answers"
check '--jsonl: no object' error_of 9 'the request is an array, but must be an object'
run $vlm -q -n 8 --json -i $golden/a.png -s 'Be kind.' -p "$question"
grep -o '"ids": [^]]*\], "prompt_ids": [^]]*' "$tmp/out" > "$tmp/expected"
check '--jsonl: the same ids as -s, -i and -p' test \
    "$(sed -n 1p "$tmp/answers" | grep -o '"ids": [^]]*\], "prompt_ids": [^]]*')" = "$(cat "$tmp/expected")"
run_with "$tmp/requests" $vlm --jsonl -n 3 -q
check '--jsonl -q' quiet
without_times() { sed 's/, "timings": {[^}]*}//' "$1"; }
without_times "$tmp/out" > "$tmp/expected"
check '--jsonl: the same again' test "$(without_times "$tmp/answers" | cmp - "$tmp/expected")" = ''

echo "{\"id\": 1, \"prompt\": \"$question\", \"max_tokens\": 9, \"stream\": true}" > "$tmp/some"
run_with "$tmp/some" $vlm --jsonl -q
check '--jsonl: pieces as they come' test "$(grep -c '^{"id": 1, "delta": "' "$tmp/out")" -ge 5
sed -n 's/^{"id": 1, "delta": "\(.*\)"}$/\1/p' "$tmp/out" | tr -d '\n' > "$tmp/pieces"
check '--jsonl: which are the text' test "$(tail -n 1 "$tmp/out" | sed 's/.*"text": "\(.*\)", "finish.*/\1/')" = \
    "$(cat "$tmp/pieces")"

# --resume: nothing lost and nothing twice, wherever the process was killed
head -n 5 "$tmp/requests" > "$tmp/some"
for i in 1 2 3 4 5 6; do sed "s/\"id\": 1,/\"id\": \"again $i\",/" "$tmp/some" | head -n 1; done >> "$tmp/some"
run_with "$tmp/some" $vlm --jsonl -q -n 3 --resume "$tmp/whole"
check '--resume writes to a file' test "$code" -eq 0 -a ! -s "$tmp/out" -a "$(wc -l < "$tmp/whole")" -eq 10
without_times "$tmp/whole" | sed 's/"cached_tokens": [0-9]*//' > "$tmp/expected"
run_with "$tmp/some" $vlm --jsonl -n 3 --resume "$tmp/whole"
check '--resume: all were answered' grep -q '^0 requests answered, 0 errors, 10 skipped' "$tmp/err"
size=$(wc -c < "$tmp/whole")
for cut in 1 2 40 400 $((size / 2)) $((size - 10)) $size; do
    head -c $((size - cut)) "$tmp/whole" > "$tmp/part"
    run_with "$tmp/some" $vlm --jsonl -q -n 3 --resume "$tmp/part"
    check "--resume after a cut of $cut bytes" test \
        "$(without_times "$tmp/part" | sed 's/"cached_tokens": [0-9]*//' | cmp - "$tmp/expected" 2>&1)" = ''
done
if [ -z "$RUN" ]; then
    rm -f "$tmp/part"
    for i in 1 2 3 4 5 6 7 8; do
        "$smolvlm" $vlm --jsonl -q -n 3 --resume "$tmp/part" < "$tmp/some" & pid=$!
        sleep "0.0$i"
        kill -9 $pid
        wait $pid
    done 2> "$tmp/err"
    run_with "$tmp/some" $vlm --jsonl -q -n 3 --resume "$tmp/part"
    check '--resume after kill -9, again and again' test \
        "$(without_times "$tmp/part" | sed 's/"cached_tokens": [0-9]*//' | cmp - "$tmp/expected" 2>&1)" = ''
fi
echo 'not an answer' > "$tmp/part"
run_with "$tmp/some" $vlm --jsonl -q -n 3 --resume "$tmp/part"
check '--resume: a file of something else' sentence 1 "$tmp/part: line 1 is no answer of --jsonl"
check '--resume: which stays as it is' test "$(cat "$tmp/part")" = 'not an answer'
echo '{"prompt": "x"}' > "$tmp/some"
rm "$tmp/part"
for i in 1 2; do run_with "$tmp/some" $vlm --jsonl -q --resume "$tmp/part"; done
check '--resume: a request without an id is an error, once' grep -qx \
    '{"id": null, "line": 1, "error": "--resume needs an \\"id\\" in each request"}' "$tmp/part"
check '--resume: once' test "$(wc -l < "$tmp/part")" -eq 1
run $vlm -p x --resume "$tmp/part"
check '--resume without --jsonl' sentence 2 '--resume goes with --jsonl alone'
run $vlm --jsonl -p x
check '--jsonl with -p' sentence 2 'go with none of'
run $vlm --jsonl -s -
check '--jsonl with -s -' sentence 2 'standard input can be read only once'

# SIGTERM: the line that is being answered is finished, and the exit code tells that others were not
if [ -z "$RUN" ]; then
    mkfifo "$tmp/pipe"
    "$smolvlm" $vlm --jsonl -q < "$tmp/pipe" > "$tmp/out" 2> "$tmp/err" & pid=$!
    exec 9> "$tmp/pipe"
    echo '{"id": 1, "prompt": "x", "max_tokens": 2}' >&9
    tries=0
    while [ ! -s "$tmp/out" ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -TERM $pid
    wait $pid 2> /dev/null
    code=$?
    exec 9>&-
    check 'SIGTERM while it waits for a line' test "$code" -eq 143 -a "$(wc -l < "$tmp/out")" -eq 1
    yes '{"id": 1, "prompt": "x", "max_tokens": 40}' | head -n 100000 > "$tmp/some"
    "$smolvlm" $vlm --jsonl -q < "$tmp/some" > "$tmp/out" 2> "$tmp/err" & pid=$!
    tries=0
    while [ ! -s "$tmp/out" ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
    kill -TERM $pid
    wait $pid 2> /dev/null
    code=$?
    check 'SIGTERM in the middle of a request' test "$code" -eq 143 -a "$(grep -vc '}}$' "$tmp/out")" -eq 0

    # ... also while it reads a file: a picture that comes through a pipe, or something else, which is then no answer
    for rest in 'tail -c +100' 'echo'; do
        rm -f "$tmp/part" "$tmp/pipe"
        mkfifo "$tmp/pipe"
        echo "{\"id\": 1, \"prompt\": \"x\", \"images\": \"$tmp/pipe\", \"max_tokens\": 2}" > "$tmp/some"
        "$smolvlm" $vlm --jsonl -q --resume "$tmp/part" < "$tmp/some" 2> "$tmp/err" & pid=$!
        exec 9> "$tmp/pipe"
        head -c 99 $golden/a.png >&9
        sleep 0.5
        kill -TERM $pid
        sleep 0.2
        ( $rest $golden/a.png ) >&9
        exec 9>&-
        wait $pid 2> /dev/null
        code=$?
        answers=$(grep -c '"finish_reason"' "$tmp/part")
        [ "$rest" = echo ] && answers=$((1 + $(wc -l < "$tmp/part")))
        check "SIGTERM while it reads a file, $rest" test "$code" -eq 143 -a "$answers" -eq 1
    done
fi

# -------------------------------------------------------------------------------------- log-probabilities and choices

run $vlm -i $golden/a.png -p "$question" -n 3 -q --json --logprobs 2
check '--logprobs: three tokens' test "$(grep -o '{"token": [^[]*"top": \[' "$tmp/out" | wc -l)" -eq 3
check '--logprobs: two candidates each' test "$(grep -o '"logprob": ' "$tmp/out" | wc -l)" -eq 9
check '--logprobs: the likeliest token is the one that was taken' test "$(sed 's/.*"logprobs": \[//' "$tmp/out" |
    grep -o '{"token": "[^"]*", "id": [0-9]*, "logprob": [-0-9.]*, "top": \[{[^}]*}' |
    sed 's/{"token": \(.*\), "top": \[{"token": \(.*\)}/\1|\2/' | awk -F '|' '$1 != $2' | wc -l)" -eq 0
choices='yes|no|a tree|a'
run $vlm -i $golden/a.png -p "$question" -q --json --choices "$choices"
cp "$tmp/out" "$tmp/chosen"
number='-*[0-9][-0-9.e]*'
one="{\"text\": \"[^\"]*\", \"probability\": $number, \"logprob\": $number, \"tokens\": [0-9]*, \
\"logprob_per_token\": $number}"
check '--choices: each of them' grep -q "\"choices\": \[$one, $one, $one, $one\]" "$tmp/out"
# The probability is e^logprob, the mean that of the tokens, the answer the likeliest.
grep -o "$one" "$tmp/out" | sed 's/[{}"]//g; s/, /: /g' | awk -F ': ' '
    { d = exp($6) / $4 - 1; e = $6 / $8 - $10; if (d > 1e-4 || d < -1e-4 || e > 1e-5 || e < -1e-5) print "wrong: " $0
      if (NR == 1 || $6 > best) { best = $6; text = $2 } } END { print text }' > "$tmp/expected"
run $vlm -i $golden/a.png -p "$question" -q --choices "$choices"
check '--choices: the answer is the likeliest' cmp -s "$tmp/out" "$tmp/expected"
echo "{\"prompt\": \"$question\", \"images\": \"$golden/a.png\", \"choices\": [\"yes\", \"no\", \"a tree\", \"a\"]}" \
    > "$tmp/some"
run_with "$tmp/some" $vlm --jsonl -q
chosen=$(grep -o '"choices.*}]' "$tmp/chosen")
check '--choices: the same with --jsonl' test "$(grep -o '"choices.*}]' "$tmp/out")" = "$chosen"
run_with "$tmp/some" $vlm --jsonl -q -j 1
check '--choices: the same on one thread' test "$(grep -o '"choices.*}]' "$tmp/out")" = "$chosen"
run $vlm -p x --choices 'a||b'
check '--choices: an empty one' sentence 1 'the choices have an empty one'
run $vlm -p x --choices 'a|b|a'
check '--choices: one twice' sentence 1 'the choice "a" is there twice'
run $vlm -p x --choices "a|$(printf '%2000s' | tr ' ' 7)" -q
check '--choices: one that does not fit' sentence 1 "does not fit into the model's context"
run $vlm -p x --logprobs 3
check '--logprobs without --json' sentence 2 '--logprobs goes with --json'

# --------------------------------------------------------------------------------------------------------------- shapes

cat > "$tmp/schema.json" <<EOF
{"type": "object", "properties": {"total": {"type": "integer"}, "kind": {"enum": ["bill", "letter"]}},
 "required": ["total", "kind"], "additionalProperties": false}
EOF
shape='^{"total": \{0,1\}-\{0,1\}[0-9][0-9]*, \{0,1\}"kind": \{0,1\}"\(bill\|letter\)"}$'
for seed in 1 2 3 4; do
    run $vlm -q -p hello --schema "$tmp/schema.json" -t 2 --seed $seed -n 60
    check "--schema, seed $seed" grep -qx "$shape" "$tmp/out"
    check "--schema, seed $seed: one line" test "$code" -eq 0 -a "$(wc -l < "$tmp/out")" -eq 1
done
run $vlm -q -p hello --schema "$tmp/schema.json" -t 2 -n 31 --json
check '--schema: in few tokens, and then it is at its end' grep -q '"finish_reason": "stop"' "$tmp/out"
run $vlm -q -p hello --schema "$tmp/schema.json" -n 20
check '--schema: in too few' sentence 1 'an answer of this shape may take 25 tokens, but there is room for 20'
run $vlm -q -p hello --fields 'total, date' -t 2 -n 100
check '--fields' grep -qx '{"total": \{0,1\}".*", \{0,1\}"date": \{0,1\}".*"}' "$tmp/out"
run $vlm -q -p hello --json-output -t 2 -n 100
check '--json-output' grep -qx '{.*}' "$tmp/out"
cat > "$tmp/requests" <<EOF
{"id": 1, "prompt": "hello", "schema": $(tr '\n' ' ' < "$tmp/schema.json"), "temperature": 2, "max_tokens": 60}
{"id": 2, "prompt": "hello", "fields": ["a"], "temperature": 2, "max_tokens": 60, "logprobs": 1}
{"id": 3, "prompt": "hello", "fields": "a", "json_output": true}
{"id": 4, "prompt": "hello", "schema": {"type": "string", "pattern": "x"}}
{"id": 5, "prompt": "hello", "fields": "a,,b"}
{"id": 6, "prompt": "hello", "fields": "a", "stop": "x"}
{"id": 7, "prompt": "hello", "fields": "a", "choices": "x|y"}
{"id": 8, "prompt": "hello", "fields": ["a", "net, gross"]}
EOF
run_with "$tmp/requests" $vlm --jsonl -q
cp "$tmp/out" "$tmp/answers"
check '--jsonl: a schema' test \
    "$(sed -n 1p "$tmp/out" | grep -c '"text": "{\\"total\\":.*\\"kind\\":.*}", "finish_reason": "stop"')" -eq 1
check '--jsonl: fields, with log-probabilities' test \
    "$(sed -n 2p "$tmp/out" | grep -c '"text": "{\\"a\\":.*"logprobs"')" -eq 1
check '--jsonl: two shapes' error_of 3 '\"schema\", \"fields\", \"json_output\": one of them'
check '--jsonl: what of JSON Schema is not done' error_of 4 'schema: #: \"pattern\" is not done here'
check '--jsonl: a field without a name' error_of 5 'fields: one of them has no name'
check '--jsonl: a shape and a stop text' error_of 6 'a stop text might cut an answer off before its end'
check '--jsonl: a shape and choices' error_of 7 'choices and a shape for the answer: one of the two'
check '--jsonl: a field that would be two' error_of 8 \
    '\"fields\": \"net, gross\": a comma, or a space at an end, takes a \"schema\"'
head -n 3 "$tmp/requests" | sed 's/, "schema": {.*}, "temp/, "temp/' | head -n 1 > "$tmp/some"
run_with "$tmp/some" $vlm --jsonl -q --schema "$tmp/schema.json"
check '--jsonl --schema' grep -q '"text": "{\\"total\\":.*\\"kind\\":.*}", "finish_reason": "stop"' "$tmp/out"
run $vlm -q -p hello --schema "$tmp/none.json"
check '--schema: no such file' sentence 1 "$tmp/none.json: No such file"
run $vlm -q -p hello --schema "$tmp/schema.json" --fields a
check '--schema and --fields' sentence 2 'one of them'
run $vlm -q -p hello --fields a --choices 'x|y'
check '--fields and --choices' sentence 2 'go with neither --choices nor --stop'

# --------------------------------------------------------------------------------------------------------------- tokens

# round_trip WHAT TEXT EXPECTED: printf formats
round_trip() {
    # shellcheck disable=SC2059
    printf "$2" > "$tmp/in"
    # shellcheck disable=SC2059
    printf "$3" > "$tmp/expected"
    run_with "$tmp/in" $vlm --tokenize
    check "--tokenize $1" quiet
    check "--tokenize $1: numbers on one line" test "$(grep -c '^[0-9 ]*$' "$tmp/out")" -eq "$(wc -l < "$tmp/out")"
    cp "$tmp/out" "$tmp/in"
    run_with "$tmp/in" $vlm --detokenize
    check "--detokenize $1" cmp -s "$tmp/out" "$tmp/expected"
}
round_trip 'ASCII' 'What is in  this picture?\n' 'What is in  this picture?\n'
round_trip 'nothing' '' ''
round_trip 'accents, Chinese, an emoji' 'caf\303\251 \344\275\240\345\245\275 \360\237\231\202' \
    'caf\303\251 \344\275\240\345\245\275 \360\237\231\202'
round_trip 'invalid UTF-8' 'a\377b\303' 'a\357\277\275b\357\277\275'
round_trip 'a zero byte' 'a\000b' 'a\000b'
round_trip 'added tokens' '<image><row_1_col_2>\n' '<image><row_1_col_2>\n'
echo 1 2 378 > "$tmp/in"
run_with "$tmp/in" $vlm --detokenize
check '--detokenize an id outside the vocabulary' sentence 1 "'378' is not a token id"
echo 1 two > "$tmp/in"
run_with "$tmp/in" $vlm --detokenize
check '--detokenize a word' sentence 1 "'two' is not a token id"
echo '1 12345678901234567890123456789012345678901234567890' > "$tmp/in"
run_with "$tmp/in" $vlm --detokenize
check '--detokenize a long number' sentence 1 "'1234567890123456789012345678901234567890' is not a token id"
printf '1 2\0 3' > "$tmp/in"
run_with "$tmp/in" $vlm --detokenize
check '--detokenize a zero byte' sentence 1 'zero byte'
run_with / $vlm --tokenize
check '--tokenize a directory' sentence 1 'standard input: '

# --------------------------------------------------------------------------------------------------------------- --info

run $vlm --info
check '--info' quiet
check '--info: checksum' grep -q "^$vlm: vlm, 0.2 MB, checksum ok$" "$tmp/out"
check '--info: tiles' grep -q '32 x 32 pixels, 4 x 4 patches of 8, 4 image tokens; longest edge 64' "$tmp/out"
check '--info: the text model' grep -q '2 layers, width 32, 4 heads (2 for keys and values) of 10, MLP 52' "$tmp/out"
run $text --info
check '--info: text-only' grep -q 'none: a text-only model' "$tmp/out"

# --------------------------------------------------------------------------------------------------- --dump and --tiles

# header FILE: the header of a .npy, whose first 10 bytes are checked
header() {
    [ "$(od -An -tx1 -N10 "$1" | tr -d ' \n')" = 934e554d505901007600 ] && dd bs=1 skip=10 count=118 2> "$tmp/dd" < "$1"
}

# npy NAME TYPE SHAPE COUNT: the file has this header and this many numbers of 4 bytes
npy() {
    header "$tmp/dump/$1.npy" | grep -q "^{'descr': '[<>]$2', 'fortran_order': False, 'shape': ($3, ), } *\$" &&
        [ "$(wc -c < "$tmp/dump/$1.npy")" -eq $((128 + 4 * $4)) ]
}

run $vlm -i $golden/a.png -p "$question" -n 8 -q --dump "$tmp/dump" --tiles "$tmp/tiles"
check '--dump and --tiles' quiet
check '--dump changes no answer' cmp -s "$tmp/out" "$tmp/answer"
check '--dump writes these files' test "$(LC_ALL=C ls "$tmp/dump" | tr '\n' ' ')" = "input_ids.npy lm_head.npy \
model.connector.npy model.text_model.layers.0.npy model.text_model.layers.1.npy model.text_model.norm.npy \
model.vision_model.embeddings.npy model.vision_model.encoder.layers.0.npy model.vision_model.encoder.layers.1.npy \
model.vision_model.post_layernorm.npy pixel_values.npy "
check '--dump input_ids' npy input_ids i4 '1, 52' 52
check '--dump pixel_values' npy pixel_values f4 '1, 5, 3, 32, 32' 15360
for module in embeddings encoder.layers.0 encoder.layers.1 post_layernorm; do
    check "--dump $module" npy model.vision_model.$module f4 '5, 16, 24' 1920
done
check '--dump connector' npy model.connector f4 '5, 4, 32' 640
for module in layers.0 layers.1 norm; do
    check "--dump $module" npy model.text_model.$module f4 '1, 52, 32' 1664
done
check '--dump lm_head' npy lm_head f4 '1, 1, 378' 378
check '--tiles writes these files' test "$(LC_ALL=C ls "$tmp/tiles" | tr '\n' ' ')" = "image0.ppm image0_global.ppm \
image0_row1_col1.ppm image0_row1_col2.ppm image0_row2_col1.ppm image0_row2_col2.ppm "

# ppm NAME WIDTH HEIGHT
ppm() {
    [ "$(head -n 3 "$tmp/tiles/$1.ppm" | tr '\n' ' ')" = "P6 $2 $3 255 " ] &&
        [ "$(wc -c < "$tmp/tiles/$1.ppm")" -eq $((9 + ${#2} + ${#3} + $2 * $3 * 3)) ]
}
check '--tiles image0' ppm image0 50 37
check '--tiles image0_global' ppm image0_global 32 32
check '--tiles image0_row2_col1' ppm image0_row2_col1 32 32

run $vlm -i $golden/b.ppm -i $golden/a.png -p "$question" -n 1 -q --no-split --tiles "$tmp/tiles2"
check '--tiles of unsplit pictures' test "$(LC_ALL=C ls "$tmp/tiles2" | tr '\n' ' ')" = \
    "image0.ppm image0_global.ppm image1.ppm image1_global.ppm "
check '--tiles gives a P6 back as it was' cmp -s "$tmp/tiles2/image0.ppm" $golden/b.ppm
run $vlm -i $golden/a.png -p "$question" -q --longest-edge 1000 --dump "$tmp/dump3"
check '--dump of what is refused' sentence 1 'context'
mkdir -p "$tmp/dump4/lm_head.npy"
run $vlm -i $golden/a.png -p "$question" -n 1 -q --json --dump "$tmp/dump4"
check '--dump with a folder in the way' sentence 1 "$tmp/dump4/lm_head.npy: "
check 'no unfinished files' test "$(find "$tmp" -name '*.part' | wc -l)" -eq 0

# ----------------------------------------------------------------------------------------------- a full disk, no memory

if [ -c /dev/full ]; then
    for option in '-p hello -n 8' '-p hello -n 8 --json' '--info' '--help'; do
        # shellcheck disable=SC2086
        $RUN "$smolvlm" $vlm -q $option > /dev/full 2> "$tmp/err"
        code=$?
        : > "$tmp/out"
        check "a full disk, $option" sentence 1 'stdout: could not be written'
    done
else
    skip 'a full disk: there is no /dev/full'
fi

# ----------------------------------------------------------------------------------------------------------- --hessians

# What is in the file: tests/test_calibration.py.
cp $golden/a.png "$tmp/a.png"
if [ -n "$SV_SLOW" ]; then head -n 15 README.md; else cat README.md; fi > "$tmp/text.txt"
printf '# items\n\ntext.txt\na.png\tWhat is it?\tA tree.\r\n\tWhy?\t' > "$tmp/items"
hessians="--hessians $tmp/h --items $tmp/items"
# shellcheck disable=SC2086
{
    run $vlm $hessians
    check '--hessians' succeeded
    check '--hessians says what it is at' test "$(tail -n 1 "$tmp/err")" = "item 5/5"
    names=$(grep -ao 'model[a-z0-9_.]*weight\|lm_head.weight' "$tmp/h" | sort | uniq -c | awk '$1 == 1' | wc -l)
    check '--hessians names each matrix once' test "$names" -eq 29
    cp "$tmp/h" "$tmp/all"
    for layers in 0 1 2 3 0-1 1-2 2-3 0-3; do
        run $vlm -q $hessians --layers $layers
        check "--layers $layers" quiet
        cp "$tmp/h" "$tmp/layers$layers"
    done
    check '--layers of all' cmp -s "$tmp/all" "$tmp/layers0-3"
    sum() { cat "$@" | wc -c; }
    check '--layers 0 and 1 are 0-1' test "$(sum "$tmp/layers0" "$tmp/layers1")" -eq "$(($(sum "$tmp/layers0-1") + 24))"
    check '--layers one by one are all' test \
        "$(sum "$tmp/layers0" "$tmp/layers1" "$tmp/layers2" "$tmp/layers3")" -eq "$(($(sum "$tmp/all") + 72))"
    cp demo/pictures/scene.png "$tmp/scene.png"
    printf 'scene.png\tWhat?\tA cat.\ntext.txt' > "$tmp/items"
    model=demo/demo.bin                             # large enough that threads share its work
    [ -z "$SV_SLOW" ] || model=$vlm
    for threads in 1 2 3; do
        run $model -q $hessians -j $threads --items "$tmp/items"
        check "--hessians with $threads threads" quiet
        mv "$tmp/h" "$tmp/h$threads"
    done
    check '--hessians has the same bits with 2 threads' cmp -s "$tmp/h1" "$tmp/h2"
    check '--hessians has the same bits with 3 threads' cmp -s "$tmp/h1" "$tmp/h3"
    run $vlm -q --hessians "$tmp/h"
    check '--hessians without items' sentence 2 'of which items?'
    run $vlm -q -p x --items "$tmp/items"
    check '--items without --hessians' sentence 2 'go only with --hessians'
    run $vlm -q -p x $hessians
    check '--hessians and a question' sentence 2 'go with none of'
    for layers in '' a 1- 3-2 0-4 4 -1 0-99999999999999999999; do
        run $vlm -q $hessians --layers "$layers"
        check "--layers '$layers'" sentence 2 "--layers $layers: not a range"
    done
    run $vlm -q --hessians "$tmp/h" --items "$tmp/none"
    check '--items of no file' sentence 1 "$tmp/none: No such file"
    for item in none.txt 'none.png\tWhat?\t' 'text.txt\tWhat?\t' 'a.png\tWhat?' 'a.png\tWhat?\tA\tB' \
        'a.png\tWhat?\t<image>' 'a.png\t \tB\n#' ''; do
        # shellcheck disable=SC2059
        printf "$item" > "$tmp/items"
        rm -f "$tmp/h"
        run $vlm -q $hessians
        case $item in
        none*) words='No such file' ;;
        text*) words='not a picture' ;;
        a.png*B*B | 'a.png\tWhat?') words='neither one field nor three' ;;
        *'<image>') words='the answer contains <image>, which stands for a picture' ;;
        '') words='no item' ;;
        esac
        case $item in
        *'#') check "an item, $item" quiet ;;
        *)
            check "an item, $item" sentence 1 "$words"
            check "an item, $item: nothing written" test ! -e "$tmp/h" -a ! -e "$tmp/h.part"
            ;;
        esac
    done
    run $text -q $hessians
    check 'a text-only model and no text' sentence 1 'no item'
    printf 'a.png\tWhat?\tA tree.\n\tWhy?\tSo.' > "$tmp/items"
    run $text -q $hessians
    check 'a text-only model leaves pictures out' quiet
    run $vlm -q --hessians "$tmp/no/h" --items "$tmp/items"
    check '--hessians into a missing folder' sentence 1 "$tmp/no/h.part: "
}

$RUN "$smolvlm" $vlm -p hello -q -n 2 --dump "$tmp/dump5" >&- 2> "$tmp/err"
code=$?
: > "$tmp/out"
check 'a closed stdout' sentence 1 'stdout: could not be written'

# An address space too small for the picture; a sanitizer's own needs are larger than any limit.
limited() {
    (ulimit -v 50000 && exec "$smolvlm" "$@") > "$tmp/out" 2> "$tmp/err"
    code=$?
}
if [ "${SV_SANITIZE:-0}" = 1 ] || ! limited $vlm -p "$question" -n 8 -q -j 1 || [ $code -ne 0 ]; then
    skip 'no memory: the address space cannot be limited here'
else
    limited $vlm -i $golden/a.png -p "$question" -q -j 1 --longest-edge 4096
    check 'no memory for a picture' sentence 1 'memory'
fi

echo
echo "Pass: $passed, fail: $failed, skip: $skipped."
[ $failed -eq 0 ]
