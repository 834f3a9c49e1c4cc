"""Memory of the VAE on large pictures, whole and in tiles, and what the tiles leave to see.

    python dev.py bench large --out DIR [--sides 512 1024 2048 4096] [--tiles 128 256 512]

The shipped autoencoder. peak_bytes is the most that tensors take at any time beyond the weights, counted on tensors
without contents, so that no large picture has to be computed. seam is the mean difference to the whole picture's
decoding in a band of two pixels along the middle of the tiles' overlaps, beside the mean everywhere, on a mosaic of
held-out avatars. Whole pictures up to 1024 pixels only. Writes large.json and large.md.
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
from torch._subclasses.fake_tensor import FakeTensorMode
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


def peaks(codec: Any, side: int) -> dict[str, int]:
    """Bytes of the tensors of each job at their most."""
    _ = codec.gradient_bytes  # read off real tensors, once
    with torch.inference_mode(), FakeTensorMode(allow_non_fake_inputs=True):
        picture, z = torch.zeros(1, 3, side, side), torch.zeros(1, codec.vae.latent_channels, side // 8, side // 8)
        jobs = {
            "encode": lambda: codec.encode(picture),
            "decode": lambda: codec.decode(z),
            "gradient": lambda: codec.decoder_vjp(
                sampler.Estimate(z, codec.decode), lambda p: picture - p, sampler.Identity()
            ),
        }
        return {task: peak(job) for task, job in jobs.items()}


def peak(job: Callable[[], Tensor]) -> int:
    with LiveBytes() as memory:
        _made = job()
    return memory.peak


def rows_at(vae: Any, side: int, tiles: list[int]) -> Iterator[dict[str, Any]]:
    """All jobs on one picture, whole (tile 0) and in tiles."""
    from newton_pack.nodes.comfy_adapter import PixelCodec

    codecs = [PixelCodec(vae, tile) for tile in ([0] if side <= LARGEST_WHOLE else []) + [t for t in tiles if t < side]]
    for codec in codecs:
        for task, size in peaks(codec, side).items():
            yield {"task": task, "side": side, "tile": codec.tile, "peak_bytes": size}
    if side <= LARGEST_WHOLE:
        with torch.inference_mode():
            z = codecs[0].encode(mosaic(side))
            whole = codecs[0].decode(z)
            for codec in codecs[1:]:
                off = seams((codec.decode(z) - whole).abs()[0].mean(0), side // 8, codec.tile // 8)
                yield {"task": "seams", "side": side, "tile": codec.tile} | off


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


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| side | tile | encode, MB | decode, MB | gradient, MB | seam, levels | everywhere |",
        "|---|---|---|---|---|---|---|",
    ]
    for side, tile in dict.fromkeys((r["side"], r["tile"]) for r in rows):
        found = {r["task"]: r for r in rows if (r["side"], r["tile"]) == (side, tile)}
        sizes = [round(found[task]["peak_bytes"] / 2**20) for task in ("encode", "decode", "gradient")]
        off = [f"{found['seams'][k]:.2f}" if "seams" in found else "" for k in ("seam", "everywhere")]
        lines.append("| " + " | ".join(map(str, [side, tile or "whole", *sizes, *off])) + " |")
    return "\n".join(lines)


def main() -> None:
    opts, vae = parse(), shipped_vae()
    rows = [row for side in tqdm(opts.sides, unit="picture") for row in rows_at(vae, side, opts.tiles)]
    opts.out.mkdir(parents=True, exist_ok=True)
    head = heading("large", opts, {})
    (opts.out / "large.json").write_text(as_lines(head, rows), encoding="utf-8")
    text = f"`{head['command']}`, {head['date']}\n\n{table(rows)}\n"
    (opts.out / "large.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
