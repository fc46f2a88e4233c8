#!/bin/sh
# sweep.sh - what a sweep of 12 runs saves, and whether it recommends a good setting: the
# same 12 runs with and without successive halving, on the cats of the pocket model.
#
#     sh bench/sweep.sh WORK_DIR [STEPS [RESOLUTION]]
#
# Prints user CPU seconds of 12 single runs, of the sweep, their ratio (at most 0.6), and the
# held-out loss of the recommended setting over that of the best of all 12 (at most 1.02).
# Halving leaves 6 of 12 runs' steps; the sweep also draws two pictures of each of its 12 runs,
# which the single runs do not, so a short training makes the ratio worse than a real one of
# hundreds of steps has. 160 steps: 12 runs 261 s, sweep 149 s: 0.57; 1.005.
set -eu
work=$1 steps=${2:-160} side=${3:-128}
mkdir -p "$work"
args="-m models/pocket/pocket.safetensors -d models/pocket/cats --resolution $side --max_train_steps $steps --seed 1
      --mixed_precision no --validation_dir models/pocket/held --train_batch_size 2"
user() { awk '{ print $1 }' "$work/time"; }
timed() { bash -c 'TIMEFORMAT=%U; time "$@" 2>"$0.log" >"$0.out"' "$work/run" "$@" 2>"$work/time"; }
singles=0
best=
for lr in 1e-4 5e-4 2e-3; do for dim in 4 16; do for opt in AdamW8bit Lion; do
    # shellcheck disable=SC2086
    timed ./sdc train $args -o "$work" --output_name one --learning_rate $lr --network_dim $dim --optimizer_type $opt
    singles=$(echo "$singles $(user)" | awk '{ print $1 + $2 }')
    loss=$(sed -n 's/^validation loss .* -> \([0-9.]*\).*/\1/p' "$work/run.out")
    echo "$lr $dim $opt $loss"
    best=$(printf '%s\n%s\n' "$best" "$loss" | grep . | sort -g | head -1)
done; done; done
# shellcheck disable=SC2086
timed ./sdc train $args -o "$work" --output_name sweep --sweep "lr=1e-4,5e-4,2e-3 dim=4,16 optimizer=AdamW8bit,Lion"
cat "$work/sweep-sweep.txt"
found=$(awk 'NR > 1 && !/\*/ { print $1; exit }' "$work/sweep-sweep.txt")
echo "$singles $(user) $best $found" |
    awk '{ printf "12 runs %.0f s, sweep %.0f s: %.2f; best %s, recommended %s: %.3f\n", $1, $2, $2/$1, $3, $4, $4/$3 }'
