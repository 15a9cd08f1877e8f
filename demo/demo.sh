#!/bin/sh
# demo.sh: shows what the demo model can do, as `make demo` does. Each question is an ordinary command, shown and then
# run, from the repository's root. In the environment: SMOLVLM, the program; RUN, what starts a foreign machine's.
smolvlm=${SMOLVLM:-./smolvlm}
model=demo/demo.bin
pictures=demo/pictures

# picture WHAT: a heading
picture() { printf '\n%s\n\n' "$1"; }

# ask OPTION...: shows the command, then runs it
ask() {
    printf '$ %s %s' "$smolvlm" "$model"
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9_./-]*) printf ' "%s"' "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    echo
    $RUN "$smolvlm" "$model" "$@" || exit 1
}

picture "Shapes ($pictures/scene.png)"
ask -q -i $pictures/scene.png -p "What do you see?"
ask -q -i $pictures/scene.png -p "Where is the yellow diamond?"
ask -q -i $pictures/scene.png -p "What color is the circle?"

picture "A receipt, photographed: askew, unevenly lit, noisy ($pictures/receipt.jpg)"
ask -q -i $pictures/receipt.jpg -p "How much is the egg?"
ask -q -i $pictures/receipt.jpg -p "How much was the bacon?"

picture "A chart ($pictures/chart.png)"
ask -q -i $pictures/chart.png -p "Which bar is the tallest?"
ask -q -i $pictures/chart.png -p "What is the value of Bread?"

picture "Small print ($pictures/small_print.png): the tiles that a picture is cut into show it, but not the whole
picture made small, which is all that --no-split leaves"
ask -q -i $pictures/small_print.png -p "What does the small text say?"
ask -q -i $pictures/small_print.png -p "What does the small text say?" --no-split

picture "Two pictures ($pictures/before.png, $pictures/after.png)"
ask -q -i $pictures/before.png -i $pictures/after.png -p "What is in the second picture?"

picture "Four frames of a film ($pictures/film1.png ... film4.png)"
set -- -i $pictures/film1.png -i $pictures/film2.png -i $pictures/film3.png -i $pictures/film4.png
ask -q "$@" --no-split -p "What happens?"

# The same as a video of one frame a second: a folder of numbered pictures.
mkdir -p build/film && cp $pictures/film[1-4].png build/film || exit 1
ask -q --video build/film --video-fps 1 -p "What happens?"

cat <<END

Now yours: another picture of $pictures, or a drawing of your own with some shapes or words in it, as PNG or JPEG.

$ $smolvlm $model -i $pictures/table.png -p "What is the score of Kate?"

Without -q it also says what it is doing and how long that takes; --help lists the other options. This model knows such
drawings and nothing else: README.md tells how to run one that knows photographs.
END
