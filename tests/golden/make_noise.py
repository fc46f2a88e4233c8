#!/usr/bin/env python3
"""Makes noise/noise.safetensors: what kohya's own functions (sd-scripts 48d368f) make of our
random numbers, read from a checkout of it: python3 make_noise.py tests/golden SD_SCRIPTS.

get_noise_noisy_latents_and_timesteps, apply_noise_offset and pyramid_noise_like run with a torch
whose random numbers are those of engine/rng.h. CASE.noise is the target and CASE.input what is
mixed into the latents, (2,8,6,4) f32; tests/test_kohya.c has the same table of cases.
"""
import ast
import sys
import types

import numpy as np
import torch
from safetensors.torch import save_file

ROOT, SCRIPTS = sys.argv[1:]
B, H, W, C = 2, 8, 6, 4
SEED, STEP, FIRST = 9, 4, 2                      # the batch's key; its samples are FIRST and on
NOISE, OFFSET, LATENT, STRENGTH, SCALES, INPUT = 2, 3, 5, 8, 9, 10       # RNG_PURPOSE_...
CASES = {                                        # offset, random, adaptive, scales, discount, gamma, random
    "plain": (0, 0, 0, 0, 0.3, 0, 0),
    "offset": (0.1, 0, 0, 0, 0.3, 0, 0),
    "offset-random": (0.1, 1, 0, 0, 0.3, 0, 0),
    "adaptive": (0.05, 0, 0.3, 0, 0.3, 0, 0),
    "adaptive-below-0": (0.1, 0, -0.5, 0, 0.3, 0, 0),
    "adaptive-random": (0.1, 1, -0.02, 0, 0.3, 0, 0),
    "multires": (0, 0, 0, 6, 0.3, 0, 0),
    "multires-offset": (0.05, 0, 0, 8, 0.8, 0, 0),
    "multires-1": (0, 0, 0, 1, 0.3, 0, 0),
    "gamma": (0, 0, 0, 0, 0.3, 0.1, 0),
    "gamma-random": (0.1, 1, 0, 6, 0.3, 0.2, 1),
}


def words(sample, purpose, block):
    """Philox4x32-10 (engine/rng.c: draw)."""
    c, k = [block, STEP, sample, purpose], [SEED, 0]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def normal(sample, purpose, first, n):
    out = []
    for block in range(first // 4, (first + n + 3) // 4):
        w = words(sample, purpose, block)
        for p in (0, 2):
            r = np.sqrt(-2 * np.log((w[p] + 0.5) * 2.0 ** -32))
            t = 2 * np.pi * 2.0 ** -32 * w[p + 1]
            out += [r * np.cos(t), r * np.sin(t)]
    return np.array(out[first % 4:first % 4 + n], np.float32)


def uniform(i):
    return (words(FIRST, STRENGTH, i // 4)[i % 4] >> 8) * 2.0 ** -24


def tensor(purpose, first, h, w):
    """(B,C,h,w) of numbers that are drawn as (h,w,C) for each sample."""
    x = [normal(FIRST + i, purpose, first, h * w * C).reshape(h, w, C) for i in range(B)]
    return torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2).contiguous()


class Torch:
    """torch, but for what is random."""

    def __init__(self, o):
        self.level, self.whole, self.shared = 0, 0, [0] * bool(o[1]) + [1] * bool(o[6])

    def __getattr__(self, name):
        return getattr(torch, name)

    def randn_like(self, x, **kw):
        self.whole += 1
        return tensor(NOISE if self.whole == 1 else INPUT, 0, H, W)

    def randn(self, *shape, **kw):
        if len(shape) == 1:                      # (B,C,1,1) of the offset
            return tensor(OFFSET, 0, 1, 1)
        self.level += 1
        return tensor(SCALES, (self.level - 1) * H * W * C, shape[2], shape[3])

    def rand(self, n, **kw):
        return torch.tensor([uniform(self.shared.pop(0))])


def functions(file, *names):
    """The source of functions of a file, without what the file imports."""
    tree = ast.parse(open(f"{SCRIPTS}/library/{file}").read())
    body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]
    for n in body:
        n.returns = None
        for a in n.args.args:
            a.annotation = None
    return compile(ast.Module(body, []), file, "exec")


def run(o, latents):
    fake = Torch(o)
    mixed = types.SimpleNamespace()
    scales = iter(range(2, 100))
    space = {"torch": fake, "random": types.SimpleNamespace(random=lambda: uniform(next(scales)))}
    exec(functions("custom_train_functions.py", "apply_noise_offset", "pyramid_noise_like"), space)
    scheduler = types.SimpleNamespace(alphas_cumprod=torch.zeros(1))
    scheduler.add_noise = lambda x, noise, t: setattr(mixed, "input", noise.clone())
    args = types.SimpleNamespace(
        noise_offset=o[0], noise_offset_random_strength=o[1], adaptive_noise_scale=o[2] or None,
        multires_noise_iterations=o[3], multires_noise_discount=o[4], ip_noise_gamma=o[5],
        ip_noise_gamma_random_strength=o[6], min_timestep=0, max_timestep=1000)
    outer = {"torch": fake, "custom_train_functions": types.SimpleNamespace(**space),
             "get_timesteps": lambda *a: torch.zeros(B, dtype=torch.long)}
    exec(functions("train_util.py", "get_noise_noisy_latents_and_timesteps"), outer)
    noise, _, _ = outer["get_noise_noisy_latents_and_timesteps"](args, scheduler, latents)
    return noise, mixed.input


latents = tensor(LATENT, 0, H, W) + torch.tensor([0.5, -3, 0, 2]).view(1, 4, 1, 1)
out = {}
for name, o in CASES.items():
    noise, mixed = run(o, latents.clone())
    out[f"{name}.noise"] = noise.permute(0, 2, 3, 1).contiguous()
    if o[5]:
        out[f"{name}.input"] = mixed.permute(0, 2, 3, 1).contiguous()
save_file(out, f"{ROOT}/noise/noise.safetensors")
