"""Memory of the VAE on large pictures, whole and in tiles, and what the tiles leave to see.

    python dev.py bench large --out DIR [--sides 512 1024 2048] [--tile 256]

The shipped autoencoder on a photograph-like mosaic of held-out emoji; every figure in a process of its own. peak_bytes
is the rise of the process's largest memory, seam the mean difference to the whole picture's decoding in a band of two
pixels along the middle of the tiles' overlaps, beside the mean everywhere. Whole pictures up to 1024 pixels only.
Writes large.json and large.md.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pack import ROOT
from PIL import Image
from report import as_lines, heading

from newton_pack.sampler.tiles import windows  # isort: skip

JOBS = ("encode", "decode", "gradient")
LARGEST_WHOLE = 1024


def mosaic(side: int) -> torch.Tensor:
    """(1, 3, side, side)."""
    files = sorted((ROOT / "demo" / "heldout").glob("*.png"))
    n = side // 128
    pictures = [np.asarray(Image.open(files[k % len(files)]).convert("RGB"), np.float32) / 255 for k in range(n * n)]
    rows = [np.concatenate(pictures[r * n : (r + 1) * n], 1) for r in range(n)]
    return torch.from_numpy(np.concatenate(rows)).movedim(-1, 0)[None]


def run_job(job: str, side: int, tile: int) -> dict[str, Any]:
    """One measurement, in this process."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = True
    import comfy.sd
    from newton_pack.nodes.comfy_adapter import PixelCodec

    vae = comfy.sd.load_checkpoint_guess_config(str(ROOT / "demo" / "ncs_emoji.safetensors"), output_model=False)[2]
    codec, picture = PixelCodec(vae, tile), mosaic(side)
    with torch.inference_mode():
        z = PixelCodec(vae, 64).encode(picture)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if job == "encode":
            codec.encode(picture)
        elif job == "decode":
            made = codec.decode(z)
        else:
            codec.pull_back(z, lambda p: picture - p)
    row = {"task": job, "side": side, "tile": tile, "peak_bytes": 1024 * (peak() - before)}
    if job == "decode" and tile and side <= 1024:
        with torch.inference_mode():
            row |= seams((made - PixelCodec(vae).decode(z)).abs()[0].mean(0), side // 8, tile // 8)
    return row


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def seams(off: torch.Tensor, cells: int, tile: int) -> dict[str, float]:
    """Mean difference, in levels, along the middles of the overlaps and everywhere."""
    spans = [w[:2] for w in windows(cells, tile, tile // 4, 8)]
    middles = [4 * (a[1] + b[0]) for a, b in itertools.pairwise(spans)]
    band = torch.cat([off[:, m - 1 : m + 1] for m in middles], 1)
    return {"seam": 255 * band.mean().item(), "everywhere": 255 * off.mean().item()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sides", nargs="+", type=int, default=[512, 1024, 2048])
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    opts = parse()
    if opts.job:
        print(json.dumps(run_job(opts.job, opts.sides[0], opts.tile)))
        return
    rows = []
    for job in JOBS:
        for side in opts.sides:
            for tile in (opts.tile, 0) if side <= LARGEST_WHOLE else (opts.tile,):
                ask = ["--out", opts.out, "--job", job, "--sides", side, "--tile", tile]
                done = subprocess.run([sys.executable, __file__, *map(str, ask)], capture_output=True, check=True)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
                print(rows[-1], flush=True)
    opts.out.mkdir(parents=True, exist_ok=True)
    head = heading("large", opts, {})
    (opts.out / "large.json").write_text(as_lines(head, rows), encoding="utf-8")
    lines = ["| what | side | tile | memory, MB | seam, levels | everywhere |", "|---|---|---|---|---|---|"]
    for r in rows:
        off = [f"{r[k]:.2f}" if k in r else "" for k in ("seam", "everywhere")]
        cells = [r["task"], r["side"], r["tile"] or "whole", round(r["peak_bytes"] / 2**20), *off]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    text = f"`{head['command']}`, {head['date']}\n\n" + "\n".join(lines) + "\n"
    (opts.out / "large.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
