"""Writes sampler.txt, the expectations of tests/test_sampler.c, with the reference programs:
k-diffusion 0.1.1 and diffusers 0.42 on PyTorch (CPU). Not needed to build or to test.

The network is replaced by a formula of (x, t) that the test repeats (see net()), so the fixture fixes the
arithmetic of the samplers alone. usage: python make_fixtures.py > sampler.txt
"""
import importlib.util
import sys
import types

import numpy as np
import torch

N = 16        # elements of the latents, as (2,2,2,2)


def load_k_diffusion():
    """k_diffusion.sampling and .external without the package's training dependencies."""
    for name in ("torchdiffeq", "torchsde"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchdiffeq"].odeint = None
    pkg = types.ModuleType("k_diffusion")
    pkg.__path__ = list(importlib.util.find_spec("k_diffusion").submodule_search_locations)
    sys.modules["k_diffusion"] = pkg
    pkg.utils = types.ModuleType("k_diffusion.utils")
    pkg.utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    sys.modules["k_diffusion.utils"] = pkg.utils
    import k_diffusion.external
    import k_diffusion.sampling
    del sys.modules["torchdiffeq"], sys.modules["torchsde"]
    return k_diffusion.sampling, k_diffusion.external


KS, KE = load_k_diffusion()


def alphas_cumprod():
    betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def net(x, t):
    """eps of Gaussian data (mean cos(i), standard deviation 0.8) on a smooth noise schedule, plus a ripple."""
    i = torch.arange(N, dtype=torch.float64).reshape(x.shape)
    t = t.double().reshape(-1, 1, 1, 1)
    a = 1 / (1 + torch.exp(2 * (-3.5 + 0.0062 * t)))
    y = x.double()
    eps = (1 - a).sqrt() * (y - a.sqrt() * torch.cos(i)) / (0.64 * a + 1 - a)
    return (eps + 0.1 * torch.sin(3 * y)).to(x.dtype)


class V(KE.DiscreteSchedule):
    def __init__(self):
        ac = alphas_cumprod()
        super().__init__(((1 - ac) / ac) ** 0.5, False)

    def forward(self, x, sigma):
        s = sigma.view(-1, 1, 1, 1)
        return net(x / (s * s + 1) ** 0.5, self.sigma_to_t(sigma)) * (-s / (s * s + 1) ** 0.5) + x / (s * s + 1)


EPS = KE.DiscreteEpsDDPMDenoiser(net, alphas_cumprod(), quantize=False)
K = {"euler": "euler", "euler_a": "euler_ancestral", "heun": "heun", "dpm2": "dpm_2", "dpm2_a": "dpm_2_ancestral",
     "dpm++2s_a": "dpmpp_2s_ancestral", "dpm++2m": "dpmpp_2m", "dpm++sde": "dpmpp_sde", "dpm++2m_sde": "dpmpp_2m_sde",
     "dpm++3m_sde": "dpmpp_3m_sde", "lms": "lms"}
DISCARD = ("dpm2", "dpm2_a", "dpm++3m_sde")
NOISY = ("euler_a", "dpm2_a", "dpm++2s_a", "dpm++sde", "dpm++2m_sde", "dpm++3m_sde", "lcm")


def schedule(name, n):
    w = EPS
    lo, hi = float(w.sigmas[0]), float(w.sigmas[-1])
    if name == "discrete":
        return w.get_sigmas(n)
    if name == "karras":
        return KS.get_sigmas_karras(n, lo, hi)
    if name == "exponential":
        return KS.get_sigmas_exponential(n, lo, hi)
    if name == "sgm_uniform":
        t = torch.linspace(float(w.sigma_to_t(w.sigmas[-1:])), float(w.sigma_to_t(w.sigmas[:1])), n + 1)[:-1]
        return KS.append_zero(torch.stack([w.t_to_sigma(x) for x in t]))
    if name == "simple":
        return torch.tensor([float(w.sigmas[-(1 + int(x * (1000 / n)))]) for x in range(n)] + [0.0])
    s = [float(w.sigmas[i]) for i in range(1, 1000, max(1000 // n, 1))]
    return torch.tensor(s[::-1] + [0.0])


def diffusers_scheduler(name, v_pred):
    import diffusers
    base = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                prediction_type="v_prediction" if v_pred else "epsilon")
    sd = dict(steps_offset=1, set_alpha_to_one=False)
    if name == "ddim":
        return diffusers.DDIMScheduler(clip_sample=False, **base, **sd)
    if name == "plms":
        return diffusers.PNDMScheduler(skip_prk_steps=True, **base, **sd)
    if name == "unipc":
        return diffusers.UniPCMultistepScheduler(**base)
    return diffusers.LCMScheduler(**base)


def run(name, sched, steps, v_pred, x, noises):
    """-> final latents, noise tensors used, network calls"""
    used = [0]

    def next_noise(*a, **k):
        used[0] += 1
        return noises[used[0] - 1]

    calls = [0]
    w = V() if v_pred else EPS
    w.register_forward_hook(lambda *a: calls.__setitem__(0, calls[0] + 1))   # of earlier runs: harmless
    if name in K:
        sig = schedule(sched, steps + (name in DISCARD))
        if name in DISCARD:
            sig = torch.cat([sig[:-2], sig[-1:]])
        kw = {"noise_sampler": next_noise} if name in NOISY else {}
        x = getattr(KS, "sample_" + K[name])(w, x * sig[0], sig, disable=True, **kw)
        return x, used[0], calls[0]
    import diffusers.schedulers.scheduling_lcm as lcm
    lcm.randn_tensor = next_noise
    s = diffusers_scheduler(name, v_pred)
    s.set_timesteps(steps)
    for t in s.timesteps:
        r = s.step(net(x, t.expand(x.shape[0])), t, x)
        x = r.denoised if name == "lcm" and t == s.timesteps[-1] else r.prev_sample
    return x, used[0], len(s.timesteps)


def text(v):
    return " ".join("%.9g" % float(f) for f in torch.as_tensor(v).reshape(-1))


def main():
    print("# Written by make_fixtures.py (k-diffusion 0.1.1, diffusers 0.42); read by tests/test_sampler.c.")
    print("# sigmas SCHEDULE STEPS COUNT : values;  run SAMPLER SCHEDULE STEPS V_PRED CALLS NOISES : latents;")
    ac = alphas_cumprod()
    some = [0, 1, 2, 17, 250, 499, 500, 501, 777, 998, 999]
    print("alphas_cumprod %d : %s" % (len(some), " ".join("%d %.9g" % (i, float(ac[i])) for i in some)))
    print("table_sigmas %d : %s" % (len(some), " ".join("%d %.9g" % (i, float(EPS.sigmas[i])) for i in some)))
    sig = torch.tensor([0.01, 0.0291672, 0.03, 0.5, 1.0, 3.14159, 14.0, 14.614641, 20.0])
    print("sigma_to_t %d : %s" % (len(sig), " ".join("%.9g %.9g" % (float(s), float(EPS.sigma_to_t(s[None])[0])) for s in sig)))
    for n, cases in {1: "discrete karras exponential sgm_uniform simple", 2: "ddim_uniform", 3: "discrete karras",
                     7: "discrete karras exponential sgm_uniform simple ddim_uniform",
                     20: "discrete karras exponential sgm_uniform simple ddim_uniform", 30: "ddim_uniform"}.items():
        for c in cases.split():
            s = schedule(c, n)
            print("sigmas %s %d %d : %s" % (c, n, len(s), text(s)))
    g = np.random.default_rng(1)
    noise = torch.from_numpy(g.standard_normal((61, 2, 2, 2, 2)).astype(np.float32))
    print("noise %d : %s" % (len(noise), text(noise)))
    cases = [("euler", "discrete", 6, 0), ("dpm2", "exponential", 5, 0), ("heun", "simple", 7, 0), ("lms", "karras", 12, 0),
             ("euler_a", "ddim_uniform", 7, 0), ("dpm++2m", "sgm_uniform", 5, 0), ("euler", "discrete", 50, 0)]
    for name in K:
        cases += [(name, "karras", 6, 0), (name, "discrete", 20, 0), (name, "karras", 9, 1), (name, "discrete", 2, 0)]
        if name not in ("dpm++2m_sde", "dpm++3m_sde"):     # k-diffusion raises for one step of these
            cases.append((name, "exponential", 1, 0))
    for name in ("ddim", "plms", "unipc"):
        cases += [(name, "discrete", n, v) for n, v in ((2, 0), (3, 0), (8, 0), (8, 1), (30, 0), (60, 0))]
    cases += [("unipc", "discrete", 1, 0), ("lcm", "discrete", 1, 0), ("lcm", "discrete", 4, 0), ("lcm", "discrete", 7, 1),
              ("lcm", "discrete", 50, 0)]
    for name, sched, steps, v in cases:
        x, used, calls = run(name, sched, steps, v, noise[60], noise)
        print("run %s %s %d %d %d %d : %s" % (name, sched, steps, v, calls, used, text(x)))


if __name__ == "__main__":
    with torch.no_grad():
        main()
