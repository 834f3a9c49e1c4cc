"""What the method costs: time beside its model calls, memory beside plain sampling; how it grows is in growth.py.

    python dev.py bench cost --out DIR [--levels N] [--repeats N] [--sides CELLS] [--batches B] [--forward-only]

The model has the size of SD1.5 on a GPU (bfloat16, 512 and 1024 pixels, batches of 1 and 4) and is a small one of the
same build on a CPU (float32, three sizes); its weights are random, as neither time nor memory depends on them. Per
method: time / (calls * one raw call of the model) and peak memory / that of plain KSampler. On a GPU time is wall time
and `milliseconds` are given; on a CPU it is the process's own time, and only ratios and counts are told. `waits` counts
what made the host wait for a GPU.

Writes cost.json, cost.md and cost.png.
"""

import argparse
import itertools
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
    ours,
    plain,
)
from tqdm import tqdm

SIDES, BATCHES = ((64, 128), (1, 4)) if CUDA else ((16, 24, 32), (1, 2))  # latent cells


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


def table(rows: list[dict[str, Any]]) -> str:
    hidden = ("task", "model", "device", "preset", "levels")
    columns = [k for k in rows[0] if k not in hidden and any(r[k] for r in rows)]
    lines = ["| " + " | ".join(c.replace("_", " ") for c in columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [report.label(row) if c == "method" else row[c] for c in columns]
        lines.append("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |")
    return "\n".join(lines)


def plot(cost: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    sizes = sorted({(r["side"], r["batch"]) for r in cost})
    names = list(dict.fromkeys(report.label(r) for r in cost))
    for axis, key, title in zip(
        axes, ("overhead_ratio", "memory_ratio"), ("time / (calls x raw call)", "peak memory / plain"), strict=True
    ):
        for k, name in enumerate(names):
            values = [r[key] for r in cost if report.label(r) == name]
            axis.bar([i + 0.2 * (k - 1.5) for i in range(len(sizes))], values, 0.2, label=name)
        axis.axhline(1, color="grey", lw=0.8)
        axis.set_xticks(range(len(sizes)), [f"{s}x{s}\nbatch {b}" for s, b in sizes])
        axis.set(title=title)
        axis.legend(loc="lower right")
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
    cost = cost_rows(Bench("SD1.5", opts.levels, opts.repeats), opts.sides, opts.batches, not opts.forward_only)
    device = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads"
    head = report.heading("cost", opts, {"device": device})
    (opts.out / "cost.json").write_text(report.as_lines(head, cost), encoding="utf-8")
    notes = "".join(f"- {k}: {v}\n" for k, v in head["versions"].items())
    body = f"`{head['command']}`, {head['date']}\n\n{notes}\n{table(cost)}\n"
    (opts.out / "cost.md").write_text(body, encoding="utf-8")
    plot(cost, opts.out / "cost.png")
    print(body)


if __name__ == "__main__":
    main()
