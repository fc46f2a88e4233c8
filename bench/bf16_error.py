"""Error of the U-Net's output in bf16 against PyTorch f32: sdc's and PyTorch's own, on the same input.

python bench/bf16_error.py DIR [--sdc ./sdc] [--size 64] [--seeds 2]

DIR has unet/ (diffusers); --size is that of the latents. Numbers are L2, relative to the f32 output.
Needs torch, diffusers, safetensors. One network is in memory at a time: 5 GB in f32.
"""
import argparse
import gc
import os
import subprocess
import tempfile

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

ap = argparse.ArgumentParser()
ap.add_argument("model")
ap.add_argument("--sdc", default="./sdc")
ap.add_argument("--size", type=int, default=64)
ap.add_argument("--seeds", type=int, default=2)
a = ap.parse_args()


def inputs(seed):
    g = torch.Generator().manual_seed(seed)
    return {"sample": torch.randn(2, 4, a.size, a.size, generator=g),
            "timestep": torch.tensor([900 - 300 * seed] * 2),
            "encoder_hidden_states": torch.randn(2, 77, 768, generator=g)}


def torch_runs(dtype):
    net = UNet2DConditionModel.from_pretrained(f"{a.model}/unet", torch_dtype=dtype)
    outs = []
    with torch.no_grad():
        for seed in range(a.seeds):
            x = inputs(seed)
            outs.append(net(x["sample"].to(dtype), x["timestep"],
                            x["encoder_hidden_states"].to(dtype)).sample.float())
    del net
    gc.collect()
    return outs


def sdc_runs(dtype):
    outs = []
    with tempfile.TemporaryDirectory() as d:
        for seed in range(a.seeds):
            save_file(inputs(seed), f"{d}/in.safetensors")
            subprocess.run([a.sdc, "probe", "unet", "--model", a.model, "--dtype", dtype, "--in",
                            f"{d}/in.safetensors", "--out", f"{d}/out.safetensors"], check=True)
            outs.append(load_file(f"{d}/out.safetensors")["sample"])
            os.remove(f"{d}/out.safetensors")
    return outs


want = torch_runs(torch.float32)
for name, outs in (("sdc f32", sdc_runs("f32")), ("sdc bf16", sdc_runs("bf16")),
                   ("torch bf16", torch_runs(torch.bfloat16))):
    print(f"{name:10}", *(f"{((o - w).norm() / w.norm()).item():.2e}" for o, w in zip(outs, want)), flush=True)
