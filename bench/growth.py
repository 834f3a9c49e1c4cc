"""How calls, time and memory of the method grow with pixels, pictures and constraints.

    python dev.py bench growth --out DIR [--cells CELLS] [--batches B] [--levels N] [--repeats N]

The engine around a model that costs nothing, so that what is measured is the method's own: latents of 4 channels at 8
pixels a cell, from 64 to 4096 pixels a side for one picture, 1 to 64 pictures of 128 pixels, and 1 to 4 constraints on
one picture of 512. Time is the least of the repeats, on a CPU the process's own; memory the most that tensors held
beyond the starting latent. The exponents are least squares over logarithms: 1 is linear. Small latents lie above the
line, where a level costs the same whatever its size.

Writes growth.json, growth.md and growth.png.
"""

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

import report
import torch
from measured_runs import CUDA, DEVICE, FAST, NEWTON, clock, half, peak_memory
from pack import sampler
from tqdm import tqdm

CELLS, BATCHES, SMALL_CELLS, SEVERAL_CELLS = (8, 16, 32, 64, 128, 256, 512), (1, 2, 4, 8, 16, 32, 64), 16, 64
SETTINGS = {"fast": FAST, "newton": NEWTON}
LINEAR_FROM = 2**16  # latent values


def measured(
    preset: str, over: str, batch: int, side: int, constraints: int, levels: int, repeats: int
) -> dict[str, Any]:
    """Time, peak memory and calls of the loop around a model that costs nothing."""
    sigmas = [*torch.logspace(1.1, -0.6, levels).tolist(), 0.0]
    x = sigmas[0] * torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    y, weights = (t.to(x) for t in half(batch, side))
    terms = sampler.WeightedSum((sampler.Term(sampler.LatentMask(y, weights)),) * constraints)
    denoise = sampler.Denoiser(lambda x, sigma: 0.5 * x, lambda sigma: sampler.Scales(1.0, sigma))
    run = partial(sampler.sample_constrained, denoise, x, sigmas, terms, SETTINGS[preset], 0.005)
    found: dict[str, Any] = {}
    with peak_memory(found, x.nbytes):
        run()
    calls, seconds = denoise.calls, []
    for _ in range(repeats):
        start = clock()
        run()
        seconds.append(clock() - start)
    return {
        "task": "growth", "method": "ours", "preset": preset, "over": over, "pixels": 8 * side, "batch": batch,
        "constraints": constraints, "values": batch * 4 * side * side, "levels": levels, "calls": calls,
        "seconds": min(seconds), "peak_bytes": found["peak_bytes"], "device": DEVICE.type,
    }  # fmt: skip


def exponent(rows: list[dict[str, Any]], key: str) -> float:
    """b in key = a values^b, by least squares over logarithms."""
    x, y = ([math.log(r[k]) for r in rows] for k in ("values", key))
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def parts(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["preset"], row["over"]), []).append(row)
    return found


def growing(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Parts in which the latent grows."""
    return {key: part for key, part in parts(rows).items() if key[1] != "constraints"}


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| preset | over | pixels | pictures | constraints | calls | ms | memory, MB |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for r in rows:
        cells = [r[k] for k in ("preset", "over", "pixels", "batch", "constraints", "calls")]
        cells += [f"{1000 * r['seconds']:.1f}", f"{r['peak_bytes'] / 2**20:.2f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| preset | over | exponent of memory | of time, from 65536 values on |", "|---|---|---|---|"]
    for (preset, over), part in growing(rows).items():
        large = [r for r in part if r["values"] >= LINEAR_FROM]
        time = f"{exponent(large, 'seconds'):.2f}" if len(large) > 1 else ""
        lines.append(f"| {preset} | {over} | {exponent(part, 'peak_bytes'):.3f} | {time} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for axis, key, title, scale in zip(
        axes, ("calls", "seconds", "peak_bytes"), ("model calls", "seconds", "memory, MB"), (1, 1, 2**-20), strict=True
    ):
        for (preset, over), part in growing(rows).items():
            values, found = [r["values"] for r in part], [r[key] * scale for r in part]
            axis.plot(values, found, "o-" if over == "pixels" else "s--", label=f"{preset}, over {over}", ms=5)
        if key != "calls":
            ends = [min(r["values"] for r in rows), max(r["values"] for r in rows)]
            top = max(r[key] * scale for r in rows)
            axis.plot(ends, [top * e / ends[1] for e in ends], ":", color="grey", label="linear")
            axis.set(yscale="log")
        else:
            axis.set(ylim=(0, None))
        axis.set(xscale="log", xlabel="latent values (4 a cell of 8 x 8 pixels)", title=title)
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=8)
    figure.suptitle(f"The method's own part, 64 to 4096 pixels a side and 1 to 64 pictures, {DEVICE.type}")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", nargs="+", type=int, default=CELLS)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--levels", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    opts = parser.parse_args()
    cases = [("pixels", 1, side, 1) for side in opts.cells] + [("pictures", n, SMALL_CELLS, 1) for n in opts.batches]
    cases += [("constraints", 1, SEVERAL_CELLS, n) for n in (1, 2, 4)]
    runs = [(preset, *case) for preset in SETTINGS for case in cases]
    rows = [measured(*run, opts.levels, opts.repeats) for run in tqdm(runs, unit="size")]
    opts.out.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} threads"
    head = report.heading("growth", opts, {"device": device})
    (opts.out / "growth.json").write_text(report.as_lines(head, rows), encoding="utf-8")
    body = f"`{head['command']}`, {head['date']}, {device}\n\n{table(rows)}\n"
    (opts.out / "growth.md").write_text(body, encoding="utf-8")
    plot(rows, opts.out / "growth.png")
    print(body)


if __name__ == "__main__":
    main()
