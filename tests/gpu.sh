#!/bin/sh
# Everything that only a machine with a GPU can tell: builds for its card, runs the checks
# and goldens on it, measures, runs the kernels under compute-sanitizer, and writes one
# results file, gpu-<card>-<commit>.txt. What is worth most comes first, and each part is
# in the file as soon as it ends: a run that is cut off has told what it found by then.
#
#   sh tests/gpu.sh [MODEL_DIR [PEERS_DIR]]
#
# MODEL_DIR   has sd15.safetensors, a model of the size of SD 1.5 to be timed (without
#             it the pocket model is; "bench ops" has the shapes of SD 1.5 either way)
# PEERS_DIR   has compare.py, which times PyTorch beside it
# OUT=bench the folder of the file   TIME=570 seconds in all, what does not fit is left out
# DEVICE=cuda:1 another card   BUILD=no  what is in build/release-cuda is good   JOBS=4 tests
# at a time. Whole logs of parts that are not good: beside the results, in <file>.logs.
set -u
cd "$(dirname "$0")/.." || exit 1
model=${1:-} peers=${2:-}
DEVICE=${DEVICE:-cuda}
number=${DEVICE#cuda} number=${number#:} number=${number:-0}
bin=build/release-cuda
ask() { nvidia-smi -i "$number" --query-gpu="$1" --format=csv,noheader | head -n 1; }

card=$(ask name 2>/dev/null)
[ -n "$card" ] || { echo "gpu.sh: nvidia-smi names no card: no driver, or no GPU" >&2; exit 1; }
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD 2>/dev/null || commit=$commit-changed
slug=$(echo "$card" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-' | sed 's/^nvidia-//')
OUT=${OUT:-bench} end_at=$(($(date +%s) + ${TIME:-570}))
mkdir -p "$OUT"
out=$OUT/gpu-$slug-$commit.txt
log=$(mktemp)
trap 'rm -f "$log"' EXIT
good=0 bad=0

# part SECONDS LINES NAME COMMAND...: runs it that long at most; the last LINES of what
# it says and how it ended go to the results.
part() {
    limit=$1 lines=$2 name=$3
    shift 3
    from=$(date +%s)
    left=$((end_at - from))
    [ "$limit" -le $left ] || limit=$left
    if [ "$limit" -lt 5 ]; then
        status=124
        echo "== $name: NOT RUN, no time left" | tee -a "$out"
        bad=$((bad + 1))
        return
    fi
    timeout -k 5 "$limit" "$@" >"$log" 2>&1
    status=$?
    took=$(($(date +%s) - from))
    case $status in
    0) end="ok" good=$((good + 1)) ;;
    124 | 137) end="NOT FINISHED in $limit s" bad=$((bad + 1)) ;;
    *) end="FAILED, exit $status" lines=60 bad=$((bad + 1)) ;;
    esac
    [ $status -eq 0 ] || { echo "== $name: $end"; cat "$log"; } >>"$out.logs"
    {
        echo "== $name: $end, $took s"
        grep -v '^  C[CUX]' "$log" | tail -n "$lines"
        echo
    } | tee -a "$out"
}

toolkit=$("${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p')
{
    echo "card     $card, $(ask memory.total), compute capability $(ask compute_cap)"
    echo "driver   $(ask driver_version)"
    echo "CUDA     ${toolkit:-no nvcc}"
    echo "commit   $commit"
    echo "host     $(nproc) cores, $(uname -sr)"
    echo "date     $(date -u +%Y-%m-%dT%H:%MZ)"
    echo
} | tee "$out"
rm -f "$out.logs"

# finish: the last lines.
finish() {
    echo "$good parts are good, $bad are not" | tee -a "$out"
    echo "results: $out"
    [ $bad -eq 0 ]
    exit
}
# Nothing can be tried without a program that starts: ends here when the last part failed.
needed() { [ $status -eq 0 ] || { echo "$1" | tee -a "$out"; finish; }; }

if [ "${BUILD:-yes}" != no ]; then
    arch=$(ask compute_cap | tr -d .)
    part 300 3 build make -j"$(nproc)" CUDA=1 CUDA_ARCHS="$arch" $bin/sdc $bin/test
    needed "without a build nothing is run (packages: tools/setup.sh; another toolkit: CUDA_HOME)"
fi
export SDC_TEST_DEVICE="$DEVICE" SDC_BIN=$bin/sdc OMP_WAIT_POLICY=passive
file=models/pocket/pocket.safetensors
[ -n "$model" ] && file=$model/sd15.safetensors
bench() {
    part 40 1 "bench $1 $2" $bin/sdc bench "$1" --model "$file" --dtype "$2" --repeat 10 \
        --device "$DEVICE"
}
# Several at a time: each has a few threads, so that the references do not wait for cores.
tests() {
    limit=$1 name=$2
    shift 2
    part "$limit" 3 "$name" env TEST_JOBS="${JOBS:-4}" OMP_NUM_THREADS=$((($(nproc) + 3) / 4)) \
        $bin/test "$@"
}
sanitizer() {
    if command -v compute-sanitizer >/dev/null; then
        part 60 4 "compute-sanitizer $1" env TEST_JOBS=0 compute-sanitizer --tool "$1" \
            --error-exitcode 9 $bin/test dev_gpu_copies dev_gpu_records kernels_ gemm_real conv_real
    else
        echo "== compute-sanitizer $1: not installed" | tee -a "$out"
        bad=$((bad + 1))
    fi
}

part 20 20 doctor $bin/sdc doctor --device "$DEVICE"
needed "the device cannot be used: nothing else is run"
tests 120 "kernels, gradients, devices" kernels_ small_shapes gemm conv optim_ gradient dev_ ops_table gpu_
for what in sample vae train; do bench $what bf16; done
tests 150 goldens golden
part 60 200 "bench ops bf16" $bin/sdc bench ops --dtype bf16 --device "$DEVICE"
if [ -n "$peers" ] && [ -n "$model" ]; then
    part 240 12 "against torch.compile, max-autotune" python3 "$peers/compare.py" --sdc $bin/sdc \
        --model "$model" --device cuda --compile --repeat 10 --limit sample=1,vae=1,train=0.7
fi
# Slow: each tool gets the smaller checks, for as long as there is time.
sanitizer memcheck
sanitizer racecheck
tests 120 "sampling and training as a user runs them" sample_ train_ pipeline_
sanitizer initcheck
sanitizer synccheck
for what in sample vae train; do bench $what f32; done
finish
