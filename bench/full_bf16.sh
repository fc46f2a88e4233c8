#!/bin/sh
# full_bf16.sh - what --full_bf16 costs: the pocket model, trained as a whole on the cat
# faces once in f32 with AdamW and once in bf16 with 8-bit moments, after the same steps.
# Prints the validation loss of both on the two faces that are held out.
#     sh bench/full_bf16.sh [STEPS]          about a minute for 100 steps on two cores
set -eu
cd "$(dirname "$0")/.."
sdc=${SDC_BIN:-./sdc} steps=${1:-300} out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

loss() {
    name=$1
    shift
    "$sdc" train --full -m models/pocket/pocket.safetensors -d models/pocket/cats -o "$out" --output_name "$name" \
        --resolution 128 --seed 1 --train_batch_size 4 --max_train_steps "$steps" --learning_rate 1e-4 \
        --validation_dir models/pocket/held --mixed_precision "$@" 2>"$out/$name.log" |
        sed -n "s/^validation loss/$name /p"
}

loss f32 no --optimizer_type AdamW
loss bf16 bf16 --full_bf16 --optimizer_type AdamW8bit
