"""Memory of the VAE on large pictures, whole and in tiles, and what the tiles leave to see.

    python dev.py bench large --out DIR [--sides 512 1024 2048 4096] [--tiles 128 256 512]

The shipped autoencoder on a photograph-like mosaic of held-out avatars. peak_bytes is the most that tensors held at any
time beyond the weights, seam the mean difference to the whole picture's decoding in a band of two pixels along the
middle of the tiles' overlaps, beside the mean everywhere. Whole pictures up to 1024 pixels only. Writes large.json and
large.md, anew after every row.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from live_memory import LiveBytes
from pack import ROOT, sampler
from PIL import Image
from report import as_lines, heading
from torch import Tensor
from tqdm import tqdm

from newton_pack.sampler.tiles import windows  # isort: skip

LARGEST_WHOLE = 1024


def mosaic(side: int) -> Tensor:
    """(1, 3, side, side)."""
    files = sorted((ROOT / "demo" / "heldout").glob("*.png"))
    n = side // 128
    pictures = [np.asarray(Image.open(files[k % len(files)]).convert("RGB"), np.float32) / 255 for k in range(n * n)]
    rows = [np.concatenate(pictures[r * n : (r + 1) * n], 1) for r in range(n)]
    return torch.from_numpy(np.concatenate(rows)).movedim(-1, 0)[None]


def shipped_vae() -> Any:
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = True
    import comfy.sd

    return comfy.sd.load_checkpoint_guess_config(str(ROOT / "demo" / "ncs_avatars.safetensors"), output_model=False)[2]


def measured(run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What it gives, and the peak of its tensors in bytes."""
    with LiveBytes() as memory:
        made = run()
    return made, memory.peak


def rows_at(vae: Any, side: int, tiles: list[int]) -> Iterator[dict[str, Any]]:
    """All jobs on one picture, whole (tile 0) and in tiles."""
    from newton_pack.nodes.comfy_adapter import PixelCodec

    picture, z, whole = mosaic(side), None, None
    for tile in ([0] if side <= LARGEST_WHOLE else []) + [t for t in tiles if t < side]:
        codec, row = PixelCodec(vae, tile), {"side": side, "tile": tile}
        encoded, peak = measured(lambda codec=codec: codec.encode(picture))
        yield {"task": "encode", **row, "peak_bytes": peak}
        z = encoded if z is None else z
        decoded, peak = measured(lambda codec=codec, z=z: codec.decode(z))
        off = {} if whole is None else seams((decoded - whole).abs()[0].mean(0), side // 8, tile // 8)
        yield {"task": "decode", **row, "peak_bytes": peak, **off}
        whole = whole if tile else decoded
        _, peak = measured(lambda codec=codec, z=z: codec.decoder_vjp(z, lambda p: picture - p, sampler.Identity()))
        yield {"task": "gradient", **row, "peak_bytes": peak}


def seams(off: Tensor, cells: int, tile: int) -> dict[str, float]:
    """Mean difference, in levels, along the middles of the overlaps and everywhere."""
    spans = [w[:2] for w in windows(cells, tile, tile // 4, 8)]
    middles = [4 * (a[1] + b[0]) for a, b in itertools.pairwise(spans)]
    band = torch.cat([off[:, m - 1 : m + 1] for m in middles], 1)
    return {"seam": 255 * band.mean().item(), "everywhere": 255 * off.mean().item()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sides", nargs="+", type=int, default=[512, 1024, 2048, 4096])
    parser.add_argument("--tiles", nargs="+", type=int, default=[128, 256, 512])
    return parser.parse_args()


def write(opts: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    head = heading("large", opts, {})
    (opts.out / "large.json").write_text(as_lines(head, rows), encoding="utf-8")
    lines = ["| what | side | tile | memory, MB | seam, levels | everywhere |", "|---|---|---|---|---|---|"]
    for r in sorted(rows, key=lambda row: row["task"]):
        off = [f"{r[k]:.2f}" if k in r else "" for k in ("seam", "everywhere")]
        cells = [r["task"], r["side"], r["tile"] or "whole", round(r["peak_bytes"] / 2**20), *off]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    text = f"`{head['command']}`, {head['date']}\n\n" + "\n".join(lines) + "\n"
    (opts.out / "large.md").write_text(text, encoding="utf-8")
    return text


def main() -> None:
    opts, rows, text = parse(), [], ""
    vae = shipped_vae()
    opts.out.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        for side in tqdm(opts.sides, unit="picture"):
            for row in rows_at(vae, side, opts.tiles):
                rows.append(row)
                text = write(opts, rows)
    print(text)


if __name__ == "__main__":
    main()
