#!/bin/sh
# measure.sh - does `sdc train --auto` find the best moment? For three small sets (cats, a
# style, an object; see sets.txt) an exhaustive run to STEPS steps, and one with --auto.
#
#     sh bench/auto/measure.sh WORK_DIR [STEPS]
#
# Needs ./sdc and build/release/emoji (make emoji), and Debian's fonts-noto-color-emoji and
# unicode-data. Prints per set: the step of the lowest held-out loss of the exhaustive run,
# the step that --auto kept and where it stopped, and both losses.
set -eu
work=$1 steps=${2:-600}
mkdir -p "$work"
build/release/emoji /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf /usr/share/unicode/emoji/emoji-test.txt \
    bench/auto/sets.txt "$work/sets"
train() {
    ./sdc train -m models/pocket/pocket.safetensors -d "$data" -o "$work" --resolution 128 --network_dim 8 \
        --train_batch_size 4 --max_train_steps "$steps" --unet_lr 1e-3 --text_encoder_lr 5e-4 --seed 1 \
        --mixed_precision no --validation_split 0.25 --validate_every_n_steps 10 "$@" >"$work/log" 2>&1
}
# The step and the value of the lowest held-out loss in a log of a run.
lowest() {
    sed -n 's/.*"step": \([0-9]*\),.*loss\/validation\/[a-z]*_average": \([0-9.e-]*\).*/\2 \1/p' "$1" | sort -g | head -1
}
echo "set      lowest (step)        --auto keeps (step)   stops"
for set in cats style object; do
    data=$work/sets/$set
    [ $set = cats ] && data=models/pocket/cats
    train --output_name "$set-all"
    train --output_name "$set-auto" --auto
    stop=$(sed -n 's/.*"step": \([0-9]*\),.*/\1/p' "$work/$set-auto.jsonl" | tail -1)
    echo "$set: $(lowest "$work/$set-all.jsonl"); $(lowest "$work/$set-auto.jsonl"); $stop"
done
