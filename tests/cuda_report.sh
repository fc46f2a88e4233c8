#!/bin/sh
# cuda_report.sh - what nvcc makes of the kernels: registers, spills, shared memory, and
# tensor-core instructions (HMMA), which attention must have. Run by make cuda-report:
#   tests/cuda_report.sh "NVCC AND ITS FLAGS" sm_80 FILE.cu...
# Files with OP(...) are compiled once for each dtype. CUOBJDUMP: where that program is, when
# it is not in PATH; without it HMMA are counted for each file only. Exit status 1 when
# attention in a 16-bit type has no tensor-core instructions.
set -u
compile=$1 arch=$2
shift 2
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

dump=${CUOBJDUMP:-$(command -v cuobjdump)}

# "COUNT KERNEL" for each kernel of a cubin that has such instructions.
tensor() {
    if [ -n "$dump" ]; then
        "$dump" -sass "$1" | awk '/Function :/ { name = $3 } /HMMA/ { n[name]++ }
                                  END { for (k in n) print n[k], k }' | c++filt
    else
        # Of 16 bytes each, their low 12 bits 0x23c; with predicate PT the first are 3c 72.
        od -An -v -tx1 -w16 "$1" | awk '/^ 3c 72/ { n++ } END { if (n) print n, "?" }'
    fi
}

one() {
    file=$1 type=$2
    # shellcheck disable=SC2086
    $compile ${type:+-DSDC_$type} -arch="$arch" -Xptxas -v -cubin -o "$dir/cubin" "$file" \
        2>"$dir/log" || { cat "$dir/log"; exit 1; }
    tensor "$dir/cubin" >"$dir/hmma"
    n=$(awk '{ n += $1 } END { print n + 0 }' "$dir/hmma")
    c++filt <"$dir/log" | awk -v file="${file##*/}" -v type="$type" -v known="${dump:+yes}" '
        FILENAME != "-" { hmma[substr($0, index($0, " ") + 1)] = $1; next }
        /Compiling entry function/ { split($0, q, "\047"); name = key = q[2]
                                     sub(/^_Z[A-Z]*[0-9]*/, "", name); sub(/\(.*/, "", name) }
        /bytes stack frame/ { stack = $1; store = $5; load = $9 }
        /Used [0-9]+ registers/ {
            smem = 0; regs = 0
            for (i = 1; i < NF; i++) {
                if ($(i + 1) ~ /^registers/) regs = $i
                if ($(i + 2) ~ /^smem/ && $(i + 1) == "bytes") smem = $i
            }
            printf "%-18s %-5s %-28s %4d %6d %6d %6d %5s%s\n", file, type, name, regs, stack,
                   store + load, smem, known ? hmma[key] + 0 : "?",
                   store + load ? "  SPILLS" : ""
        }' "$dir/hmma" -
    case $file in *attn_mma*)
        echo "${file##*/} $type: $n tensor-core instructions"
        [ "$n" -gt 0 ] || [ "$type" = F32 ] || [ "$arch" = sm_75 ] || missing=1 ;;
    esac
}

missing=0
printf '%-18s %-5s %-28s %4s %6s %6s %6s %5s   (%s)\n' file type kernel regs stack spills \
    shared HMMA "$arch"
for f in "$@"; do
    if grep -qw OP "$f"; then
        for t in F32 BF16 F16; do one "$f" $t; done
    else
        one "$f" ''
    fi
done
[ $missing -eq 0 ] || { echo "attention without tensor cores"; exit 1; }
