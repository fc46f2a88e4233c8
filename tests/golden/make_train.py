#!/usr/bin/env python3
"""Makes net/ and its lines of cases.json: losses and gradients of one training step of
micro-sd1 (PyTorch, diffusers, transformers, in float64) for each kind of network
(lycoris-lora 4.1.3), for textual inversion, and for each of kohya's losses and loss weights.
Formulas of the losses: kohya sd-scripts library/train_util.py (conditional_loss,
get_huber_threshold_if_needed), train_network.py (process_batch, post_process_loss),
library/custom_train_functions.py. python3 tests/golden/make_train.py tests/golden"""
import json
import math
import sys

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from safetensors.torch import save_file
from transformers import CLIPTextModel

ROOT = sys.argv[1]
MODEL = f"{ROOT}/models/micro-sd1-diffusers"
BLOCK = "unet.down_blocks.1.attentions.0.transformer_blocks.0"
LAYERS = [                       # a layer of each kind
    f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_k", f"{BLOCK}.ff.net.0.proj",
    "unet.mid_block.attentions.0.proj_in", "unet.up_blocks.2.resnets.1.conv1",
    "te.text_model.encoder.layers.0.self_attn.v_proj", "te.text_model.encoder.layers.1.mlp.fc1",
]
NETWORKS = {
    "lora": (LoConModule, dict(lora_dim=2)),
    "loha": (LohaModule, dict(lora_dim=2)),
    "lokr": (LokrModule, dict(lora_dim=2, factor=4)),
    "dora": (LoConModule, dict(lora_dim=2, weight_decompose=True)),
}
WORDS = [1000, 1001]             # ids behind the vocabulary, two vectors
LOSSES = {
    "l1": dict(loss="l1"),
    "smooth_l1-exponential": dict(loss="smooth_l1", huber_schedule="exponential", huber_c=0.2),
    "huber-constant": dict(loss="huber", huber_schedule="constant", huber_c=0.3),
    "smooth_l1-snr": dict(loss="smooth_l1", huber_schedule="snr", huber_c=0.1),
    "debiased": dict(debiased_estimation_loss=True),
    "minsnr-debiased-v": dict(min_snr_gamma=5.0, debiased_estimation_loss=True, v_pred=True),
    "scaled-v": dict(scale_v_pred_loss_like_noise_pred=True, v_pred=True),
    "v-like": dict(v_pred_like_loss=0.3, min_snr_gamma=1.0),
    "zero-terminal-v": dict(zero_terminal_snr=True, v_pred=True, min_snr_gamma=5.0),
}


def schedules(zero_terminal):
    """The scheduler of the noise, and the SNR of the weights, which kohya computes first."""
    s = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                      num_train_timesteps=1000, clip_sample=False)
    snr = s.alphas_cumprod / (1 - s.alphas_cumprod)
    if zero_terminal:
        s.alphas_cumprod = torch.cumprod(1 - rescale_zero_terminal_snr(s.betas), dim=0)
    return s, snr


def loss_of(pred, target, t, s, snr, o):
    kind, c = o.get("loss", "l2"), o.get("huber_c", 0.1)
    ac = s.alphas_cumprod[t].double()
    if o.get("huber_schedule", "snr") == "snr":
        c = (1 - c) / (1 + ((1 - ac) / ac).sqrt()) ** 2 + c
    elif o["huber_schedule"] == "exponential":
        c = torch.exp(math.log(c) / 1000 * t.double())
    else:
        c = torch.full_like(ac, c)
    c = c.view(-1, 1, 1, 1)
    d = pred - target
    if kind == "l1":
        loss = d.abs()
    elif kind == "huber":
        loss = 2 * c * ((d ** 2 + c ** 2).sqrt() - c)
    elif kind == "smooth_l1":
        loss = 2 * ((d ** 2 + c ** 2).sqrt() - c)
    else:
        loss = d ** 2
    loss, r, v = loss.mean([1, 2, 3]), snr[t].double(), o.get("v_pred", False)
    if "min_snr_gamma" in o:
        low = torch.minimum(r, torch.full_like(r, o["min_snr_gamma"]))
        loss = loss * low / (r + 1 if v else r)
    r = r.clamp(max=1000)
    if o.get("scale_v_pred_loss_like_noise_pred"):
        loss = loss * r / (r + 1)
    if "v_pred_like_loss" in o:
        loss = loss + loss / (r / (r + 1)) * o["v_pred_like_loss"]
    if o.get("debiased_estimation_loss"):
        loss = loss / (r + 1) if v else loss / r.sqrt()
    return loss.mean()


def step(x, o, kind=None, words=None, dtype=torch.float64):
    """Loss, gradients of the trained tensors by their names in files, and these tensors."""
    unet = UNet2DConditionModel.from_pretrained(MODEL, subfolder="unet").to(dtype).requires_grad_(False)
    te = CLIPTextModel.from_pretrained(MODEL, subfolder="text_encoder").to(dtype).requires_grad_(False)
    torch.manual_seed(11)
    factors, modules = {}, []
    for path in LAYERS if kind else []:
        net, _, name = path.partition(".")
        layer = (unet if net == "unet" else te).get_submodule(name.removeprefix("text_model.") if net == "te" else name)
        make, args = NETWORKS[kind]
        m = make(f"lora_{net}_{name.replace('.', '_')}", layer, 1.0, alpha=1.0, **args)
        for p in m.parameters():
            if p.requires_grad:
                p.data.copy_(torch.randn_like(p.float()) * 0.2)
        if kind == "dora":       # near the norms that it begins with, but not at them
            norm = layer.weight.float().flatten(1).norm(dim=1)
            m.dora_scale.data.copy_((norm * (1 + 0.1 * torch.randn_like(norm))).reshape(m.dora_scale.shape))
        m.to(dtype)
        m.apply_to()
        modules.append(m)
        for key, value in m.custom_state_dict().items():
            factors[f"{m.lora_name}.{key}"] = value
    if words:
        table = te.get_input_embeddings()
        rows = torch.randn(len(words), table.weight.shape[1]) * 0.02
        rows = rows.to(dtype).requires_grad_(True)
        old = table.weight.detach()
        table.forward = lambda ids: torch.nn.functional.embedding(ids, torch.cat([old, rows]))
        factors["emb_params"] = rows
    s, snr = schedules(o.get("zero_terminal_snr"))
    s.alphas_cumprod = s.alphas_cumprod.to(dtype)
    t = x["timesteps"].long()
    latents, noise = x["latents"].to(dtype), x["noise"].to(dtype)
    context = te(x["input_ids"].long())[0]
    noisy = s.add_noise(latents, x.get("input_noise", x["noise"]).to(dtype), t)
    pred = unet(noisy, t, context).sample
    target = s.get_velocity(latents, noise, t) if o.get("v_pred") else noise
    loss = loss_of(pred, target, t, s, snr, o)
    loss.backward()
    grads = {"loss": loss.detach().reshape(1)}
    for m in modules:
        for key, p in m.named_parameters():
            if p.grad is not None:
                grads[f"{m.lora_name}.{key}.grad"] = p.grad
    if words:
        grads["emb_params.grad"] = rows.grad
    return grads, factors


def write(path, tensors):
    save_file({k: v.detach().float().contiguous() for k, v in tensors.items()}, f"{ROOT}/{path}")


def argv(o):
    out = []
    for key, value in o.items():
        out += [f"--{key}"] if value is True else [f"--{key}", str(value)]
    return out


def main():
    lines = [line for line in open(f"{ROOT}/cases.json").read()[2:-3].split(",\n") if '"net/' not in line]
    torch.manual_seed(5)
    x = {"latents": torch.randn(2, 4, 16, 16), "noise": torch.randn(2, 4, 16, 16),
         "timesteps": torch.tensor([40, 720], dtype=torch.int32),
         "input_ids": torch.randint(0, 998, (2, 77), dtype=torch.int32)}
    more = {"plain": x, "ip": {**x, "input_noise": x["noise"] + 0.1 * torch.randn(2, 4, 16, 16)},
            "last": {**x, "timesteps": torch.tensor([300, 999], dtype=torch.int32)}, "words": dict(x)}
    more["words"]["input_ids"] = x["input_ids"].clone()
    more["words"]["input_ids"][:, 4:10] = torch.tensor(WORDS * 3, dtype=torch.int32)
    for name, tensors in more.items():
        save_file({k: v.contiguous() for k, v in tensors.items()}, f"{ROOT}/net/{name}.in.safetensors")
    cases = [(k, "plain", k, {}) for k in NETWORKS]
    cases += [("ti", "words", None, {}), ("ip-noise", "ip", "lora", {})]
    cases += [(k, "last" if "zero" in k else "plain", "lora", o) for k, o in LOSSES.items()]
    for name, infile, kind, o in cases:
        words = WORDS if infile == "words" else None
        grads, factors = step(more[infile], o, kind, words)
        single, _ = step(more[infile], o, kind, words, torch.float32)
        total = math.sqrt(sum(float((v ** 2).sum()) for k, v in grads.items() if k != "loss"))
        far = max(float((single[k] - v).norm()) / max(float(v.norm()), 1e-4 * total) for k, v in grads.items())
        keep = grads if name in (*NETWORKS, "ti") else {k: v for k, v in grads.items() if k == "loss" or "fc1" in k or "conv1" in k}
        write(f"net/{name}.out.safetensors", keep)
        file = f"net/{kind or 'words'}.safetensors"
        write(file, factors)
        case = {"name": f"net/{name}", "tier": "core", "check": "grad",
                "argv": ["probe", "grad", "--model", "{root}/models/micro-sd1-diffusers",
                         "--lora" if kind else "--embeddings", "{root}/" + file, *argv(o),
                         "--in", "{root}/net/" + infile + ".in.safetensors", "--out", "{out}"],
                "expect": f"net/{name}.out.safetensors", "tol": 0.001, "f32_vs_f64": float(f"{far:.1e}")}
        lines.append(json.dumps(case))
        print(name, "loss", float(grads["loss"]), "f32 against f64", far)
    with open(f"{ROOT}/cases.json", "w") as f:
        f.write("[\n" + ",\n".join(line.strip() for line in lines) + "\n]\n")


main()
