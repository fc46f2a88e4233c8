#!/usr/bin/env python3
"""Makes lora/lycoris.safetensors and lora/lycoris-expected.safetensors: every kind of
module that LyCORIS (lycoris-lora 4.1.3) has and sdc reads or trains, on small layers, in
float64: what it does to the weight at strengths 1 and 0.7, its output for an input, and
the gradients of its factors. python3 tests/golden/make_lycoris.py tests/golden/lora"""
import sys

import torch
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from safetensors.torch import save_file

CASES = [
    ("linear_lora", LoConModule, "linear", dict(lora_dim=3)),
    ("conv_lora_tucker", LoConModule, "conv", dict(lora_dim=3, use_tucker=True)),
    ("linear_loha", LohaModule, "linear", dict(lora_dim=3)),
    ("conv_loha", LohaModule, "conv", dict(lora_dim=2)),
    ("point_loha", LohaModule, "point", dict(lora_dim=2)),
    ("conv_loha_tucker", LohaModule, "conv", dict(lora_dim=2, use_tucker=True)),
    ("linear_lokr", LokrModule, "linear", dict(lora_dim=1, factor=4)),
    ("linear_lokr_full", LokrModule, "linear", dict(lora_dim=8, factor=2)),
    ("linear_lokr_both", LokrModule, "linear", dict(lora_dim=1, factor=4, decompose_both=True)),
    ("conv_lokr", LokrModule, "conv", dict(lora_dim=1, factor=2)),
    ("conv_lokr_full", LokrModule, "conv", dict(lora_dim=8, factor=4)),
    ("conv_lokr_tucker", LokrModule, "conv", dict(lora_dim=2, factor=2, use_tucker=True)),
    ("point_lokr_full", LokrModule, "point", dict(lora_dim=8, factor=4)),
    ("linear_dora", LoConModule, "linear", dict(lora_dim=3, weight_decompose=True)),
    ("linear_dora_in", LoConModule, "linear", dict(lora_dim=3, weight_decompose=True, wd_on_out=False)),
    ("conv_dora", LoConModule, "conv", dict(lora_dim=2, weight_decompose=True)),
    ("conv_dora_in", LoConModule, "conv", dict(lora_dim=2, weight_decompose=True, wd_on_out=False)),
    ("conv_loha_dora", LohaModule, "conv", dict(lora_dim=2, weight_decompose=True)),
    ("conv_lokr_dora_in", LokrModule, "conv",
     dict(lora_dim=1, factor=2, weight_decompose=True, wd_on_out=False)),
]
LAYERS = {
    "linear": (lambda: torch.nn.Linear(12, 8), (5, 12)),
    "conv": (lambda: torch.nn.Conv2d(8, 12, 3, padding=1), (2, 8, 4, 5)),
    "point": (lambda: torch.nn.Conv2d(8, 12, 1), (2, 8, 4, 5)),
}


def case(name, kind, layer, args, files):
    make, shape = LAYERS[layer]
    base = make().double()
    base.weight.data.copy_(base.weight.float())     # exact in float32, as all that is written
    base.bias.data.copy_(base.bias.float())
    m = kind(name, base, 1.0, alpha=2.0, **args).double()
    for p in m.parameters():
        if p is not m.__dict__.get("org_module"):
            p.data.copy_(torch.randn_like(p.float()) * 0.5)
    if hasattr(m, "dora_scale"):
        m.dora_scale.data.abs_().add_(0.2)
        m.dora_scale.data.copy_(m.dora_scale.float())
    x = torch.randn(*shape).double().requires_grad_()
    y = m(x)
    dy = torch.randn(y.shape).double()
    (y * dy).sum().backward()
    diff = m.get_weight(m.shape) if hasattr(m, "get_weight") else m.make_weight() * m.scale
    diff = diff.reshape(base.weight.shape)
    merged = m.apply_weight_decompose(base.weight + diff, 1) if m.wd else base.weight + diff
    files["expected"][f"{name}/merged"] = merged
    # strengths as A1111 and ComfyUI have them, also with DoRA
    files["expected"][f"{name}/merged07"] = base.weight + (merged - base.weight) * 0.7
    for key, value in dict(weight=base.weight, bias=base.bias, x=x, y=y, dy=dy, dx=x.grad).items():
        files["expected"][f"{name}/{key}"] = value
    for key, value in m.custom_state_dict().items():
        files["factors"][f"lora_unet_{name}.{key}"] = value
    for key, p in m.named_parameters():
        if p.grad is not None and "org" not in key:
            files["expected"][f"{name}/grad.{key}"] = p.grad


def main(out):
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float32)
    files = {"factors": {}, "expected": {}}
    for name, kind, layer, args in CASES:
        case(name, kind, layer, args, files)
    for part, end in (("factors", ""), ("expected", "-expected")):
        tensors = {k: v.detach().float().contiguous() for k, v in files[part].items()}
        save_file(tensors, f"{out}/lycoris{end}.safetensors")


main(sys.argv[1])
