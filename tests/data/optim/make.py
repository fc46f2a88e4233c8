"""Makes expected.txt: the weights after 12 steps of each reference optimizer
(torch, bitsandbytes, transformers, lion_pytorch, dadaptation, prodigyopt, schedulefree;
CPU, f32) on gradients that tests/test_optim.c can compute too. Those that average
(schedulefree, and EMAModel over AdamW) give the average. Not needed to run the tests."""
import sys

import bitsandbytes
import bitsandbytes.functional
import dadaptation
import dadaptation.experimental
import diffusers.training_utils
import lion_pytorch
import numpy as np
import prodigyopt
import schedulefree
import torch
import transformers.optimization

SIZES = [35, 4196, 1000, 1]      # the first is in group 0, the third starts at zero
# as Adafactor sees them: the third is (out, kh, kw, in) in sdc, and (out, in, kh, kw) here
SHAPES = [(7, 5), (4, 1049), (4, 5, 5, 10), (1,)]
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


def shaped(t, x, shapes):
    """A flat tensor as PyTorch has it, and back."""
    if not shapes or len(SHAPES[t]) == 1:
        return x
    x = x.reshape(SHAPES[t])
    return x.transpose(0, 3, 1, 2).copy() if x.ndim == 4 else x


def flat(t, x):
    return (x.transpose(0, 2, 3, 1) if x.ndim == 4 else x).reshape(-1)


def run(make, lrs, factors, clip, kind=""):
    shapes = kind == "shapes"
    ps = [torch.nn.Parameter(torch.from_numpy(shaped(t, value(1000 * t + 500, n) / 8 * (t != 2), shapes)))
          for t, n in enumerate(SIZES)]
    groups = [{"params": ps[:1]}, {"params": ps[1:]}]
    for g, lr in zip(groups, lrs or ()):
        g["lr"] = lr
    opt = make(groups)
    ema = diffusers.training_utils.EMAModel(ps, decay=0.5, update_after_step=2) if kind == "ema" else None
    if kind == "free":
        opt.train()
    for step in range(STEPS):
        for t, p in enumerate(ps):
            p.grad = torch.from_numpy(shaped(t, grad(t, step, p.numel()), shapes))
        for g, lr in zip(opt.param_groups, lrs or ()):
            g["lr"] = lr * factors[step]
        if clip:
            torch.nn.utils.clip_grad_norm_(ps, clip)
        opt.step()
        if ema:
            ema.step(ps)
    if ema:
        ema.copy_to(ps)
    if kind == "free":
        opt.eval()
    return opt.param_groups[0].get("d", 0.0), [flat(t, p.detach().numpy()) for t, p in enumerate(ps)]


O = torch.optim
D = dadaptation
X = dadaptation.experimental
Adafactor = transformers.optimization.Adafactor
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
    ("lion8bit", lambda g: bitsandbytes.optim.Lion8bit(g, weight_decay=0.02), (3e-4, 1e-4), WARM, 1.0),
    ("sgd8bit", lambda g: bitsandbytes.optim.SGD8bit(g, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01), (0.05, 0.02), FLAT, 0),
    ("adafactor", lambda g: Adafactor(g), None, FLAT, 1.0, "shapes"),
    ("adafactor_warmup", lambda g: Adafactor(g, warmup_init=True, weight_decay=0.1, beta1=0.9), None, FLAT, 0, "shapes"),
    ("adafactor_fixed", lambda g: Adafactor(g, lr=1e-3, relative_step=False, scale_parameter=False, clip_threshold=0.5, decay_rate=-0.6, eps=(1e-8, 1e-2)), (1e-3, 5e-4), WARM, 0, "shapes"),
    ("adafactor_scaled", lambda g: Adafactor(g, lr=1e-2, relative_step=False), (1e-2, 1e-2), FLAT, 0, "shapes"),
    ("adamw_free", lambda g: schedulefree.AdamWScheduleFree(g, weight_decay=0.1, warmup_steps=4, r=0.5), (1e-3, 5e-4), FLAT, 1.0, "free"),
    ("radam_free", lambda g: schedulefree.RAdamScheduleFree(g, betas=(0.8, 0.9)), (1e-3, 5e-4), FLAT, 0, "free"),
    ("radam_free_sgd", lambda g: schedulefree.RAdamScheduleFree(g, weight_decay=0.1, silent_sgd_phase=False), (1e-3, 1e-3), FLAT, 0, "free"),
    ("sgd_free", lambda g: schedulefree.SGDScheduleFree(g, momentum=0.8, weight_decay=0.1, weight_lr_power=1.0), (0.05, 0.02), FLAT, 0, "free"),
    ("dadaptation", lambda g: X.DAdaptAdamPreprint(g, weight_decay=0.01, decouple=True, d0=5e-4), (1, 1), WARM, 0),
    ("dadaptation_args", lambda g: X.DAdaptAdamPreprint(g, weight_decay=0.05, betas=(0.9, 0.99), growth_rate=1.2, d0=1e-3), (1, 1), FLAT, 1.0),
    ("dadapt_adagrad", lambda g: D.DAdaptAdaGrad(g, d0=1e-3), (1, 1), FLAT, 0),
    ("dadapt_adagrad_args", lambda g: D.DAdaptAdaGrad(g, momentum=0.9, weight_decay=0.05, growth_rate=1.5, d0=1e-3), (1, 1), WARM, 1.0),
    ("dadapt_adan", lambda g: D.DAdaptAdan(g, d0=1e-3), (1, 1), WARM, 0),
    ("dadapt_adan_args", lambda g: D.DAdaptAdan(g, betas=(0.9, 0.8, 0.95), weight_decay=0.5, no_prox=True, growth_rate=1.3, d0=1e-3), (1, 1), FLAT, 1.0),
    ("dadapt_adan_ip", lambda g: X.DAdaptAdanIP(g, d0=1e-3), (1, 1), FLAT, 0),
    ("dadapt_lion", lambda g: D.DAdaptLion(g, weight_decay=0.1, d0=1e-4), (1, 1), WARM, 1.0),
    ("dadapt_sgd", lambda g: D.DAdaptSGD(g, d0=1e-2), (1, 1), FLAT, 0),
    ("dadapt_sgd_args", lambda g: D.DAdaptSGD(g, momentum=0.9, weight_decay=0.05, growth_rate=1.5, d0=1e-2), (1, 1), FLAT, 1.0),
    ("ema", lambda g: O.AdamW(g), (1e-3, 5e-4), FLAT, 1.0, "ema"),
]

with open(sys.argv[1], "w") as f:
    for name, *case in CASES:
        d, ps = run(*case)
        f.write(f"{name} {float(d):.17g}\n")
        for p in ps:
            f.write(" ".join("%.9g" % x for x in p[:: max(1, p.size // 60)]) + "\n")
    for signed in (True, False):
        f.write(" ".join("%.9g" % x for x in bitsandbytes.functional.create_dynamic_map(signed=signed)) + "\n")
