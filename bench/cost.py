"""What the method itself costs: time beside its model calls, memory beside plain sampling, and how both grow.

    python dev.py bench cost --out DIR [--levels N] [--repeats N]

The model has the size of SD1.5 on a GPU (bfloat16, 512 and 1024 pixels, batches of 1 and 4) and is a small one of the
same build on a CPU (float32, three sizes); its weights are random, as neither time nor memory depends on them. Per
method: time / (calls * one raw call of the model) and peak memory / that of plain KSampler. Then the same loop around
a model that costs nothing, at three sizes: what is left is ours, and its time and memory should grow like the number of
latent values. On a GPU time is wall time and `milliseconds` are given; on a CPU it is the process's own time, and only
ratios and counts are told. `waits` counts what made the host wait for a GPU.

Writes cost.json, cost.md and cost.png.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import report
import torch
from live_memory import LiveBytes
from methods import gradient
from pack import sampler
from torch import Tensor
from tqdm import tqdm

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
DTYPE = torch.bfloat16 if CUDA else torch.float32
SIDES, BATCHES = ((64, 128), (1, 4)) if CUDA else ((16, 24, 32), (1, 2))  # latent cells
OWN_SIDES, OWN_BATCHES = (64, 128, 256), (1, 4)
ATTENTION = {"context_dim": 768, "num_heads": 8, "num_head_channels": -1, "use_spatial_transformer": True,
             "use_linear_in_transformer": False, "legacy": False}  # fmt: skip
SD15 = ATTENTION | {"num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth_middle": 1,
                    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
                    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]}  # fmt: skip
SMALL = ATTENTION | {"num_res_blocks": [1], "channel_mult": [1], "transformer_depth_middle": -2,
                     "transformer_depth": [1], "transformer_depth_output": [0, 0]}  # fmt: skip
FAST = sampler.PRESETS["fast"]


def random_model() -> Any:
    """A MODEL of the host with random weights."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = not CUDA
    import comfy.model_patcher
    import comfy.supported_models

    build = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "adm_in_channels": None}
    config = comfy.supported_models.SD15(build | (SD15 if CUDA else SMALL))
    config.set_inference_dtype(DTYPE, None)
    base = config.get_model({}, device=DEVICE)
    for weight in base.parameters():
        torch.nn.init.normal_(weight.requires_grad_(False), std=0.02)
    return comfy.model_patcher.ModelPatcher(base, DEVICE, torch.device("cpu"))


def clock() -> float:
    """Seconds; on a CPU those of this process, so that a busy machine does not count."""
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@contextmanager
def peak_memory(into: dict[str, Any], held: int) -> Iterator[None]:
    """Adds `peak_bytes`: of the GPU's allocator, or of the tensors alive on top of `held` bytes of weights."""
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        yield
        into["peak_bytes"] = torch.cuda.max_memory_allocated()
        return
    with LiveBytes() as live:
        yield
    into["peak_bytes"] = held + live.peak


@contextmanager
def waits(into: dict[str, Any]) -> Iterator[None]:
    """Adds `waits`: how often the host waited for the GPU."""
    if not CUDA:
        yield
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        yield
        torch.cuda.set_sync_debug_mode("default")
    into["waits"] = sum("synchroniz" in str(w.message) for w in caught)


class Bench:
    """Runs sampler functions inside the host's own sampling."""

    def __init__(self, model: Any, levels: int, repeats: int):
        self.model, self.levels, self.repeats = model, levels, repeats
        self.weights = sum(p.nbytes for p in model.model.parameters())
        self.prompt = [[torch.zeros(1, 77, 768), {"pooled_output": torch.zeros(1, 768)}]]

    def sample(self, function: Callable[..., Any], batch: int, side: int) -> None:
        import comfy.sample
        import comfy.samplers

        schedule = self.model.get_model_object("model_sampling")
        noise = torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(0))
        comfy.sample.sample_custom(
            self.model, noise, 1.0, comfy.samplers.KSAMPLER(function),
            comfy.samplers.calculate_sigmas(schedule, "simple", self.levels), self.prompt, self.prompt,
            torch.zeros_like(noise), disable_pbar=True, seed=0,
        )  # fmt: skip

    def measure(self, function: Callable[..., Tensor], batch: int, side: int, grad: bool = False) -> dict[str, Any]:
        """Calls of a run, its `time` and that of one raw call (least of the repeats), and its peak memory."""
        runs, raws, found = [], [], {}

        def run(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: dict, callback: Any, disable: Any) -> Tensor:
            counted = Counted(model_k)
            if not runs:  # the first run of a size also makes the host's and the device's preparations
                function(Counted(model_k), x, sigmas, dict(extra_args), None, True)
            start = clock()
            out = function(counted, x, sigmas, dict(extra_args), None, True)
            runs.append(clock() - start)
            found["calls"] = counted.calls
            level = sigmas[:1].expand(len(x))
            start = clock()
            for _ in range(counted.calls):
                model_k(x, level, **(extra_args | {"denoise_mask": None}))
            raws.append((clock() - start) / counted.calls)
            return out

        def watched(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: dict, callback: Any, disable: Any) -> Tensor:
            with peak_memory(found, self.weights), waits(found):
                return function(model_k, x, sigmas, extra_args, None, True)

        with torch.inference_mode(not grad):
            for _ in range(self.repeats):
                self.sample(run, batch, side)
            self.sample(watched, batch, side)
        return found | {"time": min(runs), "raw": statistics.median(raws)}


class Counted:
    """A host model that counts its calls."""

    def __init__(self, model_k: Any):
        self.model_k, self.calls = model_k, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model_k, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        return self.model_k(*args, **kwargs)


def plain(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: dict, callback: Any, disable: Any) -> Tensor:
    from comfy.k_diffusion.sampling import sample_euler_ancestral

    return sample_euler_ancestral(model_k, x, sigmas, extra_args | {"denoise_mask": None}, None, True)


def half(batch: int, side: int) -> tuple[Tensor, Tensor]:
    """A known latent and its weights: the left half."""
    weights = torch.zeros(batch, 1, side, side)
    weights[..., : side // 2] = 1
    return torch.zeros(batch, 4, side, side), weights


def ours(batch: int, side: int) -> Callable[..., Tensor]:
    from newton_pack.nodes.comfy_adapter import make_sampler
    from newton_pack.nodes.latent_mask import LatentMaskSpec

    made = make_sampler(LatentMaskSpec(*half(batch, side)), FAST)
    return partial(made.sampler_function, **made.extra_options)


def backpropagated(batch: int, side: int) -> Callable[..., Tensor]:
    from newton_pack.nodes.comfy_adapter import measured_scales

    def function(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: dict, callback: Any, disable: Any) -> Tensor:
        scales = measured_scales(model_k.inner_model.inner_model.model_sampling)
        denoise = sampler.Denoiser(lambda x, s: model_k(x, s, **(extra_args | {"denoise_mask": None})), scales)
        y, weights = (t.to(x) for t in half(batch, side))
        return gradient(denoise, x, sigmas.tolist(), y, weights, 0).detach()

    return function


def cost_rows(bench: Bench) -> list[dict[str, Any]]:
    """Ours and backpropagation beside plain sampling, at every size and batch."""
    rows = []
    cases = list(itertools.product(SIDES, BATCHES))
    for side, batch in tqdm(cases, unit="size"):
        base = bench.measure(plain, batch, side)
        found = {
            ("plain", "euler_ancestral"): base,
            ("ours", "fast"): bench.measure(ours(batch, side), batch, side),
            ("gradient", ""): bench.measure(backpropagated(batch, side), batch, side, grad=True),
        }
        for (method, preset), f in found.items():
            row = {"task": "cost", "model": "SD1.5 size, random" if CUDA else "small, random", "method": method,
                   "preset": preset, "side": side, "batch": batch, "levels": bench.levels, "calls": f["calls"],
                   "backward_calls": bench.levels if method == "gradient" else 0,
                   "overhead_ratio": f["time"] / (f["calls"] * f["raw"]),
                   "memory_ratio": f["peak_bytes"] / base["peak_bytes"], "device": DEVICE.type}  # fmt: skip
            if CUDA:
                row |= {"milliseconds": 1000 * f["time"] / batch, "peak_bytes": f["peak_bytes"], "waits": f["waits"]}
            rows.append(row)
    return rows


def own_time(batch: int, side: int, constraints: int, levels: int, repeats: int) -> dict[str, Any]:
    """Time, peak memory and calls of the loop around a model that costs nothing."""
    sigmas = [*torch.logspace(1.1, -0.6, levels).tolist(), 0.0]
    x = sigmas[0] * torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    y, weights = (t.to(x) for t in half(batch, side))
    term = sampler.Term(sampler.LatentMask(y, weights))
    denoise = sampler.Denoiser(lambda x, sigma: 0.5 * x, lambda sigma: sampler.Scales(1.0, sigma))
    run = partial(
        sampler.sample_constrained, denoise, x, sigmas, sampler.WeightedSum((term,) * constraints), FAST, 0.005
    )
    found: dict[str, Any] = {}
    with peak_memory(found, x.nbytes):
        run()
    calls, seconds = denoise.calls, []
    for _ in range(repeats):
        start = clock()
        run()
        seconds.append(clock() - start)
    return found | {"calls": calls, "time": min(seconds)}


def growth_rows(levels: int, repeats: int) -> list[dict[str, Any]]:
    """Time and memory of our own part per latent value, relative to the first row."""
    cases = [(side, batch, 1) for side in OWN_SIDES for batch in OWN_BATCHES]
    cases += [(OWN_SIDES[-1], 1, n) for n in (2, 4)]
    rows, first = [], None
    for side, batch, constraints in tqdm(cases, unit="size"):
        found = own_time(batch, side, constraints, levels, repeats)
        values = batch * 4 * side * side
        first = first or (found["time"] / values, found["peak_bytes"] / values)
        rows.append({
            "task": "growth", "model": "none", "method": "ours", "preset": "fast", "side": side, "batch": batch,
            "constraints": constraints, "levels": levels, "calls": found["calls"], "values": values,
            "time_per_value": found["time"] / values / first[0],
            "memory_per_value": found["peak_bytes"] / values / first[1], "device": DEVICE.type,
        })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    hidden = ("task", "model", "device", "preset", "levels")
    columns = [k for k in rows[0] if k not in hidden and any(r[k] for r in rows)]
    lines = ["| " + " | ".join(c.replace("_", " ") for c in columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [report.label(row) if c == "method" else row[c] for c in columns]
        lines.append("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |")
    return "\n".join(lines)


def plot(cost: list[dict[str, Any]], growth: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    sizes = sorted({(r["side"], r["batch"]) for r in cost})
    names = list(dict.fromkeys(report.label(r) for r in cost))
    for axis, key, title in zip(
        axes, ("overhead_ratio", "memory_ratio"), ("time / (calls x raw call)", "peak memory / plain"), strict=False
    ):
        for k, name in enumerate(names):
            values = [r[key] for r in cost if report.label(r) == name]
            axis.bar([i + 0.27 * (k - 1) for i in range(len(sizes))], values, 0.25, label=name)
        axis.axhline(1, color="grey", lw=0.8)
        axis.set_xticks(range(len(sizes)), [f"{s}x{s}\nbatch {b}" for s, b in sizes])
        axis.set(title=title)
        axis.legend()
    for key, marker in (("time_per_value", "o"), ("memory_per_value", "s")):
        one = [r for r in growth if r["constraints"] == 1]
        axes[2].plot([r["values"] for r in one], [r[key] for r in one], marker, label=key.replace("_", " "))
    axes[2].set(xscale="log", ylim=(0, None), xlabel="latent values", title="our own part, relative to the first")
    axes[2].legend()
    figure.suptitle(f"{cost[0]['model']}, {DEVICE.type}")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--levels", type=int, default=20 if CUDA else 5)
    parser.add_argument("--repeats", type=int, default=3)
    opts = parser.parse_args()
    opts.out.mkdir(parents=True, exist_ok=True)
    growth = growth_rows(opts.levels, opts.repeats)
    cost = cost_rows(Bench(random_model(), opts.levels, opts.repeats))
    head = report.heading("cost", opts, {"device": torch.cuda.get_device_name() if CUDA else "CPU, one thread"})
    (opts.out / "cost.json").write_text(report.as_lines(head, cost + growth), encoding="utf-8")
    notes = "".join(f"- {k}: {v}\n" for k, v in head["versions"].items())
    body = f"`{head['command']}`, {head['date']}\n\n{notes}\n## Beside the model\n\n{table(cost)}\n\n"
    body += f"## Our own part, around a model that costs nothing\n\n{table(growth)}\n"
    (opts.out / "cost.md").write_text(body, encoding="utf-8")
    plot(cost, growth, opts.out / "cost.png")
    print(body)


if __name__ == "__main__":
    main()
