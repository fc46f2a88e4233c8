#!/usr/bin/env python3
"""Makes augment.json: how kohya's own functions (sd-scripts 48d368f) cut and recolour pictures
when their random numbers are ours: python3 make_augment.py tests/golden SD_SCRIPTS.

BaseDataset.load_image_with_face_info and crop_target, trim_and_resize_if_required and
AugHelper.color_aug run on pictures of coordinates, with a `random` that draws as engine/rng.h
and engine/data_vary.c do. A use is [rw, rh, x, y, hue, gamma] (0: as it is) for each entry of
each epoch; tests/test_augment.c asks dataset_use for the same.
"""
import ast
import json
import os
import sys
import types

import numpy as np

ROOT, SCRIPTS = sys.argv[1:]
SEED, CROP, SCALE, COLOUR = 5, 0xDA0005, 0xDA0006, 0xDA0007
ENTRIES, EPOCHS = 4, 6
GROUPS = [                       # file, its size, size of training, buckets, range of faces, random_crop
    ("a_150_100_40_50.png", 300, 200, 64, 64, 0, [1.5, 3], 0),
    ("b_10_190_90_40.png", 300, 200, 64, 96, 0, [1, 2.5], 0),
    ("c_d_280_20_60_61.png", 300, 200, 96, 64, 0, [2, 2], 1),
    ("e_100_300_30_20.png", 200, 320, 64, 64, 0, [1.25, 4], 1),
    ("no_face_in_here_at_all.png", 100, 90, 64, 64, 0, [2, 4], 1),
    ("f_50_40_60_60.png", 100, 80, 64, 64, 0, None, 1),
    ("wide.png", 128, 64, 64, 64, 1, None, 1),
    ("high.png", 64, 200, 64, 64, 1, None, 1),
]


def words(epoch, sample, purpose, block, attempt=0):
    """Philox4x32-10 (engine/rng.c: draw)."""
    c, k = [block, epoch, sample, purpose | attempt << 24], [SEED, 0]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


class Random:
    """Python's module; each draw of randint has its index in the stream."""

    def __init__(self, epoch, entry, order):
        self.key, self.order, self.colours, self.seen = (epoch, entry), iter(order), 0, None

    def unit(self, purpose, i):
        return (words(*self.key, purpose, i // 4)[i % 4] >> 8) * 2.0 ** -24

    def randint(self, low, high):
        w = words(*self.key, CROP, next(self.order))
        return low + (w[0] << 32 | w[1]) % (high - low + 1)

    def random(self):
        self.colours += 1
        return self.unit(COLOUR, self.colours - 1)

    def uniform(self, low, high):
        v = self.unit(COLOUR if self.colours else SCALE, 2 if self.colours else 0)
        self.seen = (low + (high - low) * v, high)
        return self.seen[0]


def source(names):
    tree = ast.parse(open(f"{SCRIPTS}/library/train_util.py").read())
    found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in names]
    for n in found:
        n.returns = None
        for a in n.args.args:
            a.annotation = None
    return compile(ast.Module(found, []), "train_util.py", "exec")


CODE = source(["load_image_with_face_info", "crop_target", "trim_and_resize_if_required", "color_aug"])


def coordinates(w, h):
    y, x = np.mgrid[0:h, 0:w]
    return np.stack([x, y, np.full_like(x, w), np.full_like(x, h)], -1)


def place(picture, w, h):
    """The size before it was cut, and where."""
    x, y, rw, rh = (int(v) for v in picture[0, 0])
    assert picture.shape[:2] == (h, w)
    return [rw, rh, x, y]


def use(group, epoch, entry):
    file, w, h, tw, th, buckets, faces, crop = group
    subset = types.SimpleNamespace(face_crop_aug_range=faces, random_crop=crop, resize_interpolation=None)
    order = [0, 1, 2, 3] if crop else [0, 2]
    if buckets:                          # across, if something is cut off there, then down
        order = [0] if w / h > tw / th else [1]
    random = Random(epoch, entry, order)
    space = {"random": random, "os": os, "np": np,
             "BucketManager": types.SimpleNamespace(get_crop_ltrb=lambda *a: None),
             "load_image": lambda *a: coordinates(w, h),
             "resize_image": lambda im, w, h, nw, nh, how: coordinates(nw, nh)}
    exec(CODE, space)
    self = types.SimpleNamespace(width=tw, height=th)
    picture, *face = space["load_image_with_face_info"](self, subset, file)
    if buckets:
        picture, _, _ = space["trim_and_resize_if_required"](crop, picture, (tw, th), (w, h))
    elif face[0] > 0:
        picture = space["crop_target"](self, subset, picture, *face)
    else:                                # as in BaseDataset.__getitem__, but across first
        x, y = random.randint(0, w - tw), random.randint(0, h - th)
        picture = picture[y:y + th, x:x + tw]
    return place(picture, tw, th) + colour(epoch, entry, space)


def colour(epoch, entry, space):
    random = space["random"] = Random(epoch, entry, [])
    space["cv2"] = types.SimpleNamespace(cvtColor=lambda im, how: im, COLOR_BGR2HSV=0, COLOR_HSV2BGR=1)
    space["color_aug"](None, np.zeros((1, 1, 3), np.uint8))
    if not random.seen:
        return [0, 0]
    v, high = random.seen
    return [v, 0] if high == 8 else [0, v]


def numbers_in(name):
    """The name of a file that only looks like one with a face would be an error there."""
    return all(t.isdigit() for t in name.rsplit(".", 1)[0].split("_")[-4:])


out = []
for g in GROUPS:
    if g[6] and not numbers_in(g[0]):
        faceless = g[:6] + (None,) + g[7:]
        uses = [[use(faceless, p, n) for n in range(ENTRIES)] for p in range(EPOCHS)]
    else:
        uses = [[use(g, p, n) for n in range(ENTRIES)] for p in range(EPOCHS)]
    out.append({"file": g[0], "size": g[1:3], "training": g[3:5], "buckets": g[5],
                "faces": g[6] or [0, 0], "random_crop": g[7], "uses": uses})
with open(f"{ROOT}/augment.json", "w") as f:
    f.write("[" + ",\n".join(json.dumps(o, separators=(",", ":")) for o in out) + "]\n")
