"""Makes expected.txt: the weights after 12 steps of each reference optimizer
(torch, bitsandbytes, lion_pytorch, dadaptation, prodigyopt; CPU, f32) on
gradients that tests/test_optim.c can compute too. Not needed to run the tests."""
import sys

import bitsandbytes
import bitsandbytes.functional
import dadaptation
import lion_pytorch
import numpy as np
import prodigyopt
import torch

SIZES = [35, 4196, 1000, 1]      # the first is in group 0, the third starts at zero
STEPS = 12
WARM = [0.0, 0.25, 0.5, 0.75] + [1.0] * 8
FLAT = [1.0] * 12


def value(seed, n):
    x = (np.arange(n, dtype=np.uint64) + seed * 0x9E3779B9) & 0xFFFFFFFF
    for shift, mul in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(mul)) & np.uint64(0xFFFFFFFF)
    return (x >> np.uint64(8)).astype(np.float32) / np.float32(2 ** 23) - np.float32(1)


def grad(t, step, n):
    scale = np.array([1, 2 ** -2, 2 ** -6, 2 ** -10, 2 ** -14], np.float32)[np.arange(n) // 256 % 5]
    return scale * (value(1000 * t + step + 1, n) + value(1000 * t + 999, n))


def run(make, lrs, factors, clip):
    ps = [torch.nn.Parameter(torch.from_numpy(value(1000 * t + 500, n) / 8 * (t != 2)))
          for t, n in enumerate(SIZES)]
    opt = make([{"params": ps[:1], "lr": lrs[0]}, {"params": ps[1:], "lr": lrs[1]}])
    for step in range(STEPS):
        for t, p in enumerate(ps):
            p.grad = torch.from_numpy(grad(t, step, p.numel()))
        for g, lr in zip(opt.param_groups, lrs):
            g["lr"] = lr * factors[step]
        if clip:
            torch.nn.utils.clip_grad_norm_(ps, clip)
        opt.step()
    return opt.param_groups[0].get("d", 0.0), [p.detach().numpy() for p in ps]


O = torch.optim
CASES = [
    ("adamw", lambda g: O.AdamW(g), (1e-3, 5e-4), FLAT, 1.0),
    ("adamw_args", lambda g: O.AdamW(g, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1), (2e-3, 2e-3), WARM, 0),
    ("adamw8bit", lambda g: bitsandbytes.optim.AdamW8bit(g), (1e-3, 1e-3), FLAT, 1.0),
    ("lion", lambda g: lion_pytorch.Lion(g, weight_decay=0.02), (3e-4, 1e-4), WARM, 1.0),
    ("lion_decoupled", lambda g: lion_pytorch.Lion(g, lr=3e-4, weight_decay=0.02, decoupled_weight_decay=True), (3e-4, 3e-4), FLAT, 0),
    ("sgd", lambda g: O.SGD(g), (0.05, 0.02), FLAT, 0.5),
    ("sgd_nesterov", lambda g: O.SGD(g, momentum=0.9, nesterov=True, weight_decay=0.01), (0.05, 0.05), FLAT, 0),
    ("sgd_dampening", lambda g: O.SGD(g, momentum=0.8, dampening=0.3), (0.05, 0.05), WARM, 0),
    ("dadapt", lambda g: dadaptation.DAdaptAdam(g, weight_decay=0.01, decouple=True, d0=5e-4), (1, 1), FLAT, 0),
    ("dadapt_args", lambda g: dadaptation.DAdaptAdam(g, weight_decay=0.05, use_bias_correction=True, betas=(0.9, 0.99), growth_rate=1.2, d0=1e-3), (1, 1), WARM, 1.0),
    ("prodigy", lambda g: prodigyopt.Prodigy(g, weight_decay=0.01, d0=5e-4), (1, 1), FLAT, 0),
    ("prodigy_args", lambda g: prodigyopt.Prodigy(g, weight_decay=0.01, d_coef=2, use_bias_correction=True, safeguard_warmup=True, betas=(0.9, 0.99)), (1, 1), WARM, 1.0),
    ("prodigy_slice", lambda g: prodigyopt.Prodigy(g, weight_decay=0.05, decouple=False, beta3=0.9, slice_p=3, growth_rate=1.2, d0=1e-4), (1, 1), FLAT, 0),
]

with open(sys.argv[1], "w") as f:
    for name, make, lrs, factors, clip in CASES:
        d, ps = run(make, lrs, factors, clip)
        f.write(f"{name} {float(d):.17g}\n")
        for p in ps:
            f.write(" ".join("%.9g" % x for x in p[:: max(1, p.size // 60)]) + "\n")
    for signed in (True, False):
        f.write(" ".join("%.9g" % x for x in bitsandbytes.functional.create_dynamic_map(signed=signed)) + "\n")
