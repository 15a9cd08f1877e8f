#!/bin/sh
# tests/layers.sh BUILD OBJECT...: prints which file calls which, and fails on a call that goes up. The order below is
# that of the files, from the top down: a file may call those after it, never those before it. So there is no circle.
# NM: the nm of a cross compiler.
build=$1
shift
for object in "$@"; do ${NM:-nm} "$object" | sed "s|^|$object |"; done | awk -v build="$build/" '
BEGIN {
    n = split("cli/main cli/talk cli/info cli/calibrate cli/jsonl cli/request cli/answer cli/output cli/options " \
              "cli/conversation cli/clip cli/schema cli/json cli/line cli/width " \
              "chat smolvlm video sample " \
              "codecs/codecs codecs/png codecs/jpeg codecs/jpeg_pixels codecs/pnm codecs/picture " \
              "vision decoder model tokenizer image " \
              "kernels/amx kernels/avx512 kernels/avx2 kernels/dotprod kernels/base " \
              "quant base system", name)
    for (i = 1; i <= n; i++) level[name[i]] = i
}
{
    file = $1; sub(build, "", file); sub(/\.o$/, "", file)
    if (!(file in level)) { print file ": has no place in tests/layers.sh"; bad = 1; level[file] = 0 }
    symbol = $NF; kind = $(NF - 1)
    if (kind ~ /[TDBRCGSV]/) home[symbol] = file
    else if (kind == "U") needs[file, symbol] = 1
}
END {
    for (key in needs) {
        split(key, part, SUBSEP)
        from = part[1]; to = home[part[2]]
        if (to != "" && to != from) calls[from, to] = calls[from, to] " " part[2]
    }
    for (i = 1; i <= n; i++)
        for (j = 1; j <= n; j++)
            if ((name[i], name[j]) in calls) {
                print name[i] " -> " name[j] ":" calls[name[i], name[j]]
                if (j < i) { print "    goes up"; bad = 1 }
                found++
            }
    print found ? (bad ? "calls go up" : "every call goes down") : "no calls found"
    exit bad || !found
}'
