"""Pictures larger than the model was trained for: windows inside one constrained run beside tiles sampled one by one.

    python dev.py bench windows --out DIR [--model FILE.safetensors [--folder PNGS]] [--side 256] [--images N]

The given picture is a mosaic of held-out ones, shrunk by --factor; every method enlarges it again. `windows` is Window
Conditioning: at every call the model sees overlapping windows of its own size, and the constraint acts on the whole
picture. `windows, free` is the same without a constraint. `tiles` is what tiled upscalers do: overlapping tiles,
each sampled by itself from the enlarged picture, blended over their overlaps.

seam: mean absolute difference between neighbouring pixels across the middles of the overlaps, over that elsewhere,
relative to the truth's own ratio; 1 = no more to see there than in the truth. consistency: |A I - y| in 8-bit levels
before any back-projection, mean and largest; detail: feature distance to the truth after a closing back-projection.
Writes windows.json, windows.md and a contact sheet.
"""

import argparse
import itertools
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
import torch.nn.functional as F
from entry import Entry
from methods import in_dtype
from metrics import psnr
from mosaic import Mosaic, joined, over_windows
from pack import ROOT, sampler
from superres_methods import enlarge, free, newton
from targets import CheckpointTarget, add_dtype, open_target
from torch import Tensor
from tqdm import tqdm

from newton_pack.sampler.tiles import windows  # isort: skip


def mosaics(target: CheckpointTarget, side: int, count: int) -> np.ndarray:
    """(count, side, side, 3): held-out pictures side by side, from the beginning again where there are fewer."""
    n = side // 128
    _, pictures = Mosaic(target, n).truths("heldout", count * n**2)
    return np.stack([joined(pictures[i : i + n * n], n) for i in range(0, len(pictures), n * n)])


def by_tiles(target: CheckpointTarget, entry: Entry, spec: Any, upscaled: Tensor, seeds: list[int], window: int):
    """Each tile of the enlarged picture sampled by itself, then blended."""
    spans = list(windows(upscaled.shape[-1] // 8, window, window // 2, 8))
    out, calls = torch.zeros_like(upscaled), 0
    for number, ((top, down, row), (left, right, column)) in enumerate(itertools.product(spans, spans)):
        part = upscaled[..., 8 * top : 8 * down, 8 * left : 8 * right]
        made, calls = enlarge(target, entry, spec, part, [s + 1000 * number for s in seeds])
        out[..., 8 * top : 8 * down, 8 * left : 8 * right] += made * torch.outer(row, column)
    return out, calls


def seam_ratio(picture: Tensor, window: int) -> float:
    """Jump across the middles of overlaps over the jump elsewhere, both ways; (1, 3, H, W)."""
    spans = [w[:2] for w in windows(picture.shape[-1] // 8, window, window // 2, 8)]
    middles = torch.tensor([4 * (a[1] + b[0]) for a, b in itertools.pairwise(spans)])
    ratios = []
    for p in (picture, picture.mT):
        jumps = p.diff(dim=-1).abs().mean((0, 1, 2))
        elsewhere = torch.ones(len(jumps), dtype=torch.bool).index_fill(0, middles - 1, False)
        ratios.append(jumps[middles - 1].mean() / jumps[elsewhere].mean())
    return float(sum(ratios) / 2)


def methods(dtype: torch.dtype) -> list[tuple[str, Entry]]:
    fast, thorough = (in_dtype(sampler.PRESETS[p], dtype) for p in ("fast", "thorough"))
    return [
        ("bicubic", Entry("bicubic", "", None)),
        ("tiles", Entry("tiles", "img2img", free, 20, strength=0.5)),
        ("windows, free", Entry("windows", "free", free, 20, strength=0.5)),
        ("windows, fast", Entry("windows", "fast", partial(newton, settings=fast), 10, strength=0.6)),
        ("windows, thorough", Entry("windows", "thorough", partial(newton, settings=thorough), 6, strength=0.6)),
    ]


def run(target: CheckpointTarget, truth: np.ndarray, opts: argparse.Namespace) -> tuple[list[dict], list[Any]]:
    """Rows and pictures of all methods on one picture."""
    from newton_pack.nodes.pixel_spec import PixelSpec

    whole = torch.from_numpy(truth).float().movedim(-1, 0)[None]
    low, size = (opts.side // opts.factor,) * 2, (opts.side, opts.side)
    operator = sampler.Resample.by_factor(low, opts.factor, "area", smooth=True)
    y = (255 * operator.A(whole)).round() / 255
    measured = sampler.LinearMeasurement(operator, y)
    upscaled = F.interpolate(y, size, mode="bicubic").clamp(0, 1)
    truth_features, own = target.features(truth[None]), seam_ratio(whole, opts.window)
    rows, pictures = [], []
    for label, entry in methods(target.dtype):
        if not entry.chosen(opts.only):
            continue
        spec, seeds, begin = PixelSpec(measured, target.vae, size, 1), [opts.seed], time.perf_counter()
        if entry.method == "tiles":
            made, calls = by_tiles(target, entry, replace(spec, size=None), upscaled, seeds, opts.window)
        else:
            one = partial(enlarge, target, entry, spec, upscaled, seeds)
            made, calls = over_windows(target, opts.side // 8, opts.window, one)
        off = 255 * measured.data_residual(made).abs()
        closed = sampler.back_project(measured, made)
        rows.append({
            "task": "windows", "model": target.name, "method": entry.method, "preset": entry.preset, "side": opts.side,
            "factor": opts.factor, "seed": opts.seed, "calls": calls, "seam": seam_ratio(made, opts.window) / own,
            "consistency_mean": off.mean().item(), "consistency_max": off.max().item(),
            "hidden_feature_distance": float(np.linalg.norm(
                target.features(closed.movedim(1, -1).numpy()) - truth_features
            )),
            "psnr": psnr(closed[0].movedim(0, -1).numpy(), truth, np.ones(size, bool)),
            "seconds": time.perf_counter() - begin,
        })  # fmt: skip
        pictures.append((label, report.to_bytes(made[0].movedim(0, -1).numpy())))
    return rows, pictures


def table(rows: list[dict]) -> str:
    keys = ("calls", "seam", "consistency_mean", "consistency_max", "hidden_feature_distance", "psnr")
    lines = ["| method | " + " | ".join(k.replace("_", " ") for k in keys) + " |", "|---|" + "---|" * len(keys)]
    for name, group in report.by_method(rows).items():
        cells = [f"{np.mean(v):.2f} ± {np.std(v):.2f}" for v in ([r[k] for r in group] for k in keys)]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default=str(ROOT / "demo" / "ncs_avatars.safetensors"))
    parser.add_argument("--folder", type=Path, help="PNG files of the model's own size")
    parser.add_argument("--side", type=int, default=256, help="a multiple of the model's own size")
    parser.add_argument("--window", type=int, default=16, help="latent cells")
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="method, preset or method/preset")
    add_dtype(parser)
    return parser.parse_args()


def main() -> None:
    opts = parse()
    target = open_target(opts.model, opts.folder, opts.dtype)
    opts.out.mkdir(parents=True, exist_ok=True)
    rows, sheet = [], []
    with torch.inference_mode():
        for number, truth in enumerate(tqdm(mosaics(target, opts.side, opts.images), unit="picture")):
            found, pictures = run(target, truth, opts)
            rows += [row | {"image": number} for row in found]
            sheet.append((str(number), [report.to_bytes(truth), *(p for _, p in pictures)], [""] * (1 + len(pictures))))
            names = ["truth", *(label for label, _ in pictures)]
    head = report.heading("windows", opts, target.notes)
    (opts.out / "windows.json").write_text(report.as_lines(head, rows), encoding="utf-8")
    body = f"`{head['command']}`, {head['date']}\n\n{table(rows)}\n"
    (opts.out / "windows.md").write_text(body, encoding="utf-8")
    report.draw_sheet(f"{opts.side} pixels, factor {opts.factor}", names, sheet).save(opts.out / "windows_sheet.png")
    print(body)


if __name__ == "__main__":
    main()
