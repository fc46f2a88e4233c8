"""make_tagger.py - the goldens of `sdc tag`: timm's ViT of small width with random weights.

    python tests/golden/make_tagger.py        (timm 1.0, torch 2, Pillow, safetensors)

Writes tests/golden/tagger/: two models as they are published (model.safetensors, config.json,
selected_tags.csv), pictures, and expected.safetensors with what timm makes of them: "CASE.input"
the picture as the network sees it (BGR, NHWC), "CASE.prob" the probabilities, in f64.
"""
import json
import os

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tagger")
MODELS = {
    # WD tagger v3's model_args with other sizes: norm before the mean, gelu by tanh
    "wd": dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, act_layer="gelu_tanh",
               class_token=False, global_pool="avg", fc_norm=False),
    # timm's default for average pooling: norm behind the mean; the exact gelu; 7x7 patches
    "fc": dict(img_size=35, patch_size=7, embed_dim=32, depth=1, num_heads=2, act_layer="gelu",
               class_token=False, global_pool="avg", fc_norm=True),
}
TAGS = ["general", "sensitive", "1girl", "long_hair", "^_^", "solo", 'say_"hi"', "a,b", "cat_ears",
        "hatsune_miku", "saber_(fate)"]
CATEGORIES = [9, 9] + [0] * 7 + [4] * 2


def pictures():
    """Smooth, noisy, transparent; wide, high, small: what preprocessing can get wrong."""
    g = np.random.default_rng(1)
    y, x = np.mgrid[0:51, 0:80]
    wide = np.stack([x * 3, y * 5, (x + y) * 2 % 256], -1).astype(np.uint8)
    high = g.integers(0, 256, (61, 37, 3), dtype=np.uint8)
    alpha = np.dstack([g.integers(0, 256, (24, 24, 3), dtype=np.uint8),
                       np.linspace(0, 255, 576).reshape(24, 24).astype(np.uint8)])
    return {"wide": Image.fromarray(wide), "high": Image.fromarray(high),
            "alpha": Image.fromarray(alpha)}


def see(im, side):
    """As the authors of the WD taggers: on white, a white square, bicubic, BGR, [-1,1]."""
    canvas = Image.new("RGBA", im.size, (255, 255, 255))
    canvas.alpha_composite(im.convert("RGBA"))
    im = canvas.convert("RGB")
    n = max(im.size)
    square = Image.new("RGB", (n, n), (255, 255, 255))
    square.paste(im, ((n - im.width) // 2, (n - im.height) // 2))
    # across, then down: the order of Pillow before 13
    square = square.resize((side, n), Image.BICUBIC).resize((side, side), Image.BICUBIC)
    x = np.asarray(square).astype(np.float64)[:, :, ::-1].copy()
    return torch.from_numpy((x / 255 - 0.5) / 0.5)


def main():
    torch.manual_seed(7)
    os.makedirs(OUT, exist_ok=True)
    expected = {}
    for name, im in pictures().items():
        im.save(os.path.join(OUT, name + ".png"))
    for name, args in MODELS.items():
        folder = os.path.join(OUT, name)
        os.makedirs(folder, exist_ok=True)
        m = timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=len(TAGS),
                              **args)
        for key, p in m.named_parameters():
            p.data = 1 + 0.2 * torch.randn_like(p) if "norm" in key and key.endswith("weight") \
                else torch.randn_like(p) * (0.5 if "head" in key else 0.15)
        m.eval()
        save_file({k: v.contiguous() for k, v in m.state_dict().items()},
                  os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        config = {"architecture": "vit_base_patch16_224", "num_classes": len(TAGS),
                  "num_features": args["embed_dim"], "global_pool": "avg", "model_args": args,
                  "pretrained_cfg": {"input_size": [3, args["img_size"], args["img_size"]],
                                     "interpolation": "bicubic", "crop_pct": 1.0,
                                     "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(config, f, indent=1)
        with open(os.path.join(folder, "selected_tags.csv"), "w") as f:
            f.write("tag_id,name,category,count\n")
            for i, (tag, c) in enumerate(zip(TAGS, CATEGORIES)):
                quoted = '"' + tag.replace('"', '""') + '"' if set(tag) & set(',"') else tag
                f.write(f"{100 + i},{quoted},{c},{1000 - i}\n")
        d = m.double()
        for pic, im in pictures().items():
            x = see(im, args["img_size"])
            expected[f"{name}.{pic}.input"] = x.float()
            with torch.no_grad():
                logits = d(x.permute(2, 0, 1)[None])
            expected[f"{name}.{pic}.prob"] = torch.sigmoid(logits)[0]
            print(name, pic, torch.sigmoid(logits)[0].numpy().round(3), float(logits.abs().max()))
    save_file(expected, os.path.join(OUT, "expected.safetensors"))


main()
