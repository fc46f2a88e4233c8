#!/bin/sh
# train.sh - the recipe of models/pocket/pocket.safetensors and of the tagger beside it, from
# the font to the files.
#
#   sh models/pocket/train.sh [WORK_DIR]
#
# Needs the packages fonts-noto-color-emoji and unicode-data, and some hours of
# two cores. Every step resumes where it was stopped: run it again.
set -eu
cd "$(dirname "$0")/../.."
work=${1:-build/pocket}
font=/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
names=/usr/share/unicode/emoji/emoji-test.txt
make -s build/release/emoji sdc
mkdir -p "$work"

# 1. Pictures: base (for everything), vae (more pictures, for the autoencoder
#    only), cats (the demo's LoRA) and held (never trained on).
if [ ! -d "$work/data/base" ]; then
    build/release/emoji "$font" "$names" models/pocket/emoji.txt "$work/data.new"
    mkdir -p "$work/data.new/both"
    ln -s ../base/1_emoji "$work/data.new/both/2_base"
    ln -s ../vae/1_rest "$work/data.new/both/1_rest"
    mv "$work/data.new" "$work/data"
fi

# A stopped run leaves what it has reached under the same name, so that what is
# done is told by a file of its own.
step() {
    [ -f "$work/$1.done" ] || ./sdc train -o "$work" --output_name "$@" --resolution 128 --seed 1 \
        --lr_scheduler cosine --optimizer_args betas=0.9,0.99 --mixed_precision bf16 --resume
    : > "$work/$1.done"
}

# 2. The autoencoder, on 64x64 crops.
step vae --train_vae --init models/pocket/config.json -d "$work/data/both" \
    --max_train_steps 2800 --train_batch_size 4 --learning_rate 5e-4 --lr_warmup_steps 100 \
    --vae_unit_latents --save_precision float --save_state_every_n_steps 400

# 3. U-Net and text encoder on its latents.
step pocket --full -m "$work/vae.safetensors" -d "$work/data/base" \
    --max_train_steps 6000 --train_batch_size 16 --learning_rate 1e-3 --lr_warmup_steps 200 \
    --caption_dropout_rate 0.1 --min_snr_gamma 5 --save_precision fp16 --save_state_every_n_steps 500

# 4. The tagger: words of the captions of what the model was trained on, and of the cats,
#    whose captions do not say that they are faces.
if [ ! -d "$work/data/tag" ]; then
    rm -rf "$work/data/tag.new"
    mkdir -p "$work/data/tag.new"
    ln -s ../base/1_emoji "$work/data/tag.new/1_emoji"
    cp -R "$work/data/cats/10_cat" "$work/data/tag.new/6_cat"
    ./sdc tags "$work/data/tag.new/6_cat" add face
    mv "$work/data/tag.new" "$work/data/tag"
fi
[ -f "$work/tagger/model.safetensors" ] || ./sdc tag "$work/data/tag" --train "$work/tagger" \
    --init models/pocket/tagger/config.json --words --flip_aug --batch_size 16 \
    --undesired_tags "a,an,the,and,of,with,on,in,sks,left,right,out,without,down" \
    --max_train_steps 1800 --learning_rate 1.5e-3 --resume
