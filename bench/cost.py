"""What the method itself costs: time beside its model calls, memory beside plain sampling, and how both grow.

    python dev.py bench cost --out DIR [--levels N] [--repeats N] [--sides CELLS] [--batches B] [--forward-only]

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
from functools import partial
from pathlib import Path
from typing import Any

import report
import torch
from measured_runs import (
    CUDA,
    DEVICE,
    FAST,
    NEWTON,
    Bench,
    backpropagated,
    clock,
    half,
    ours,
    peak_memory,
    plain,
)
from pack import sampler
from tqdm import tqdm

SIDES, BATCHES = ((64, 128), (1, 4)) if CUDA else ((16, 24, 32), (1, 2))  # latent cells
OWN_SIDES, OWN_BATCHES = (64, 128, 256), (1, 4)


def cost_rows(bench: Bench, sides: list[int], batches: list[int], backward: bool) -> list[dict[str, Any]]:
    """Ours and, where wanted, backpropagation beside plain sampling, at every size and batch."""
    rows = []
    cases = list(itertools.product(sides, batches))
    for side, batch in tqdm(cases, unit="size"):
        base = bench.measure(plain, batch, side)
        found = {
            ("plain", "euler_ancestral"): base,
            ("ours", "fast"): bench.measure(ours(batch, side, FAST, bench.channels), batch, side),
            ("ours", "newton"): bench.measure(ours(batch, side, NEWTON, bench.channels), batch, side),
        }
        if backward:
            found["gradient", ""] = bench.measure(backpropagated(batch, side, bench.channels), batch, side, grad=True)
        for (method, preset), f in found.items():
            row = {"task": "cost", "model": bench.name, "method": method,
                   "preset": preset, "side": side, "batch": batch, "levels": bench.levels, "calls": f["calls"],
                   "backward_calls": bench.levels if method == "gradient" else 0,
                   "overhead_ratio": f["time"] / (f["calls"] * f["raw"]),
                   "memory_ratio": f["peak_bytes"] / base["peak_bytes"], "device": DEVICE.type}  # fmt: skip
            if CUDA:
                row |= {"milliseconds": 1000 * f["time"] / batch, "peak_bytes": f["peak_bytes"], "waits": f["waits"]}
            rows.append(row)
    return rows


def own_time(
    batch: int, side: int, constraints: int, levels: int, repeats: int, settings: sampler.NewtonSettings = NEWTON
) -> dict[str, Any]:
    """Time, peak memory and calls of the loop around a model that costs nothing."""
    sigmas = [*torch.logspace(1.1, -0.6, levels).tolist(), 0.0]
    x = sigmas[0] * torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    y, weights = (t.to(x) for t in half(batch, side))
    term = sampler.Term(sampler.LatentMask(y, weights))
    denoise = sampler.Denoiser(lambda x, sigma: 0.5 * x, lambda sigma: sampler.Scales(1.0, sigma))
    run = partial(
        sampler.sample_constrained, denoise, x, sigmas, sampler.WeightedSum((term,) * constraints), settings, 0.005
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
            "task": "growth", "model": "none", "method": "ours", "preset": "newton", "side": side, "batch": batch,
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
            axis.bar([i + 0.2 * (k - 1.5) for i in range(len(sizes))], values, 0.2, label=name)
        axis.axhline(1, color="grey", lw=0.8)
        axis.set_xticks(range(len(sizes)), [f"{s}x{s}\nbatch {b}" for s, b in sizes])
        axis.set(title=title)
        axis.legend(loc="lower right")
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
    parser.add_argument("--sides", nargs="+", type=int, default=SIDES, help="latent cells")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument(
        "--forward-only", action="store_true", help="no backpropagation, which large pictures do not admit"
    )
    opts = parser.parse_args()
    opts.out.mkdir(parents=True, exist_ok=True)
    growth = growth_rows(opts.levels, opts.repeats)
    cost = cost_rows(Bench("SD1.5", opts.levels, opts.repeats), opts.sides, opts.batches, not opts.forward_only)
    device = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads"
    head = report.heading("cost", opts, {"device": device})
    (opts.out / "cost.json").write_text(report.as_lines(head, cost + growth), encoding="utf-8")
    notes = "".join(f"- {k}: {v}\n" for k, v in head["versions"].items())
    body = f"`{head['command']}`, {head['date']}\n\n{notes}\n## Beside the model\n\n{table(cost)}\n\n"
    body += f"## Our own part, around a model that costs nothing\n\n{table(growth)}\n"
    (opts.out / "cost.md").write_text(body, encoding="utf-8")
    plot(cost, growth, opts.out / "cost.png")
    print(body)


if __name__ == "__main__":
    main()
