"""How calls, time and memory of the method grow with pixels and with pictures.

    python dev.py bench growth --out DIR [--cells CELLS] [--batches B] [--levels N] [--repeats N]

The engine around a model that costs nothing, so that what is measured is the method's own: latents of 4 channels at 8
pixels a cell, from 64 to 4096 pixels a side for one picture, and 1 to 64 pictures of 128 pixels. Time is the least of
the repeats, on a CPU the process's own; memory the most that tensors held beyond the starting latent. The exponents are
least squares over logarithms: 1 is linear. Small latents lie above the line, where a level costs the same whatever its
size.

Writes growth.json, growth.md and growth.png.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import report
import torch
from cost import own_time
from measured_runs import CUDA, DEVICE, FAST, NEWTON
from tqdm import tqdm

CELLS, BATCHES, SMALL_CELLS = (8, 16, 32, 64, 128, 256, 512), (1, 2, 4, 8, 16, 32, 64), 16
LINEAR_FROM = 2**16  # latent values


def measured(preset: str, over: str, batch: int, side: int, opts: argparse.Namespace) -> dict[str, Any]:
    settings = {"fast": FAST, "newton": NEWTON}[preset]
    found = own_time(batch, side, 1, opts.levels, opts.repeats, settings)
    return {
        "task": "growth", "method": "ours", "preset": preset, "over": over, "pixels": 8 * side, "batch": batch,
        "values": batch * 4 * side * side, "levels": opts.levels, "calls": found["calls"], "seconds": found["time"],
        "peak_bytes": found["peak_bytes"], "device": DEVICE.type,
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


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| preset | over | pixels | pictures | calls | ms | memory, MB |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        cells = [r["preset"], r["over"], r["pixels"], r["batch"], r["calls"], f"{1000 * r['seconds']:.1f}",
                 f"{r['peak_bytes'] / 2**20:.2f}"]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| preset | over | exponent of memory | of time, from 65536 values on |", "|---|---|---|---|"]
    for (preset, over), part in parts(rows).items():
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
        for (preset, over), part in parts(rows).items():
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
    cases = [("pixels", 1, side) for side in opts.cells] + [("pictures", n, SMALL_CELLS) for n in opts.batches]
    runs = [(preset, *case) for preset in ("fast", "newton") for case in cases]
    rows = [measured(*run, opts) for run in tqdm(runs, unit="size")]
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
