#!/bin/sh
# cuda_report.sh - what nvcc makes of the kernels: registers, spills, shared memory, and
# the tensor-core instructions of attention. Run by make cuda-report:
#   tests/cuda_report.sh "NVCC AND ITS FLAGS" sm_80 FILE.cu...
# Files with OP(...) are compiled once for each dtype. Exit status 1 when attention in a
# 16-bit type has no tensor-core instructions.
set -u
compile=$1 arch=$2
shift 2
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

# Instructions of 16 bytes whose low 12 bits are 0x23c are HMMA, the product of a tensor
# core; with predicate PT the first bytes are 3c 72. cuobjdump says the same in words.
tensor() {
    if command -v cuobjdump >/dev/null; then cuobjdump -sass "$1" | grep -c 'HMMA'
    else od -An -v -tx1 -w16 "$1" | grep -c '^ 3c 72'
    fi
}

one() {
    file=$1 type=$2
    # shellcheck disable=SC2086
    $compile ${type:+-DSDC_$type} -arch="$arch" -Xptxas -v -cubin -o "$dir/cubin" "$file" \
        2>"$dir/log" || { cat "$dir/log"; exit 1; }
    n=$(tensor "$dir/cubin")
    c++filt <"$dir/log" | awk -v file="${file##*/}" -v type="$type" '
        /Compiling entry function/ { split($0, q, "\047"); name = q[2]; sub(/^_Z[A-Z]*[0-9]*/, "", name)
                                     sub(/\(.*/, "", name) }
        /bytes stack frame/ { stack = $1; store = $5; load = $9 }
        /Used [0-9]+ registers/ {
            smem = 0; regs = 0
            for (i = 1; i < NF; i++) {
                if ($(i + 1) ~ /^registers/) regs = $i
                if ($(i + 2) ~ /^smem/ && $(i + 1) == "bytes") smem = $i
            }
            printf "%-18s %-5s %-28s %4d %6d %6d %6d%s\n", file, type, name, regs, stack, store + load,
                   smem, store + load ? "  SPILLS" : ""
        }'
    case $file in *attn_mma*)
        echo "${file##*/} $type: $n tensor-core instructions"
        [ "$n" -gt 0 ] || [ "$type" = F32 ] || [ "$arch" = sm_75 ] || missing=1 ;;
    esac
}

missing=0
printf '%-18s %-5s %-28s %4s %6s %6s %6s   (%s)\n' file type kernel regs stack spills shared "$arch"
for f in "$@"; do
    if grep -qw OP "$f"; then
        for t in F32 BF16 F16; do one "$f" $t; done
    else
        one "$f" ''
    fi
done
[ $missing -eq 0 ] || { echo "attention without tensor cores"; exit 1; }
