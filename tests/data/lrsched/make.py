"""Makes expected.txt: the factors on the learning rate of each schedule of transformers (and
piecewise_constant of diffusers), called as kohya sd-scripts' library/train_util.py
get_scheduler_fix does. Read by tests/test_lrsched.c, and not needed to run it."""
import sys

import diffusers.optimization
import torch
import transformers.optimization
from transformers.trainer_utils import SchedulerType

NONE = float("nan")


def schedule(name, warmup, total, decay, timescale, cycles, power, lr, ratio, lr_end, rules):
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    ratio = None if ratio != ratio else ratio
    if name == "piecewise_constant":
        return diffusers.optimization.get_piecewise_constant_schedule(opt, step_rules=rules)
    make = transformers.optimization.TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)]
    if name == "constant":
        return make(opt)
    if name == "constant_with_warmup":
        return make(opt, num_warmup_steps=warmup)
    if name == "inverse_sqrt":
        return make(opt, num_warmup_steps=warmup, timescale=timescale or None)
    if name == "cosine_with_restarts":
        return make(opt, num_warmup_steps=warmup, num_training_steps=total, num_cycles=cycles)
    if name == "polynomial":
        more = {"lr_end": lr_end} if lr_end else {}
        return make(opt, num_warmup_steps=warmup, num_training_steps=total, power=power, **more)
    if name == "cosine_with_min_lr":
        return make(opt, num_warmup_steps=warmup, num_training_steps=total, num_cycles=cycles / 2, min_lr_rate=ratio)
    if name in ("linear", "cosine"):
        return make(opt, num_warmup_steps=warmup, num_training_steps=total)
    return make(opt, num_warmup_steps=warmup, num_stable_steps=total - warmup - decay, num_decay_steps=decay,
                num_cycles=cycles / 2, min_lr_ratio=ratio if ratio is not None else 0.0)


# name, warmup, steps, decay, timescale, cycles, power, rate, min_lr_ratio, lr_end, step_rules
CASES = [
    ("constant", 0, 5, 0, 0, 1, 1, 1e-4, NONE, 0, "-"),
    ("constant_with_warmup", 3, 6, 0, 0, 1, 1, 1e-4, NONE, 0, "-"),
    ("linear", 2, 9, 0, 0, 1, 1, 1e-4, NONE, 0, "-"),
    ("linear", 9, 5, 0, 0, 1, 1, 1e-4, NONE, 0, "-"),
    ("cosine", 3, 11, 0, 0, 1, 1, 1e-4, NONE, 0, "-"),
    ("cosine_with_restarts", 2, 14, 0, 0, 3, 1, 1e-4, NONE, 0, "-"),
    ("polynomial", 2, 10, 0, 0, 1, 2, 1e-4, NONE, 0, "-"),
    ("polynomial", 0, 10, 0, 0, 1, 0.5, 1e-3, NONE, 1e-4, "-"),
    ("cosine_with_min_lr", 3, 12, 0, 0, 1, 1, 1e-4, 0.1, 0, "-"),
    ("cosine_with_min_lr", 0, 12, 0, 0, 3, 1, 1e-4, 0.25, 0, "-"),
    ("inverse_sqrt", 4, 12, 0, 0, 1, 1, 1e-4, NONE, 0, "-"),
    ("inverse_sqrt", 2, 12, 0, 9, 1, 1, 1e-4, NONE, 0, "-"),
    ("inverse_sqrt", 0, 12, 0, 0, 1, 1, 1e-4, NONE, 0, "-"),
    ("warmup_stable_decay", 3, 14, 6, 0, 1, 1, 1e-4, NONE, 0, "-"),
    ("warmup_stable_decay", 3, 14, 8, 0, 3, 1, 1e-4, 0.2, 0, "-"),
    ("piecewise_constant", 0, 12, 0, 0, 1, 1, 1e-4, NONE, 0, "1:3,0.1:7,0.25:8,0.005"),
]

with open(sys.argv[1], "w") as f:
    for case in CASES:
        s = schedule(*case).lr_lambdas[0]
        factors = [s(k) for k in range(case[2] + 3)]
        f.write(" ".join(str(v) for v in case) + " : " + " ".join("%.15g" % v for v in factors) + "\n")
