"""The grid of which one crossing is to become a red square, for latent models."""

import argparse
from pathlib import Path

import numpy as np
import report
import torch
from inside import NO_GUIDANCE, View, inspect, no_grad
from jacobian import DELTA
from pack import sampler
from PIL import Image, ImageDraw
from targets import DEMO, CheckpointTarget
from torch import Tensor
from tqdm import tqdm

from newton_pack.sampler.directions import along_je, along_jte, follow  # isort: skip

CELLS = 16  # of the grid's latent, across; a square is 2 x 2 of them, every fourth pair is a crossing
CROSSINGS = [(i, j) for i in range(4) for j in range(4)]
SQUARE = (1, 1)  # the one that is to become red
STEPS = sampler.PRESETS["paper"].rates()


def grid(size: int, red: list[tuple[int, int]]) -> np.ndarray:
    """A picture (1, size, size, 3) of four lines each way, with red squares at some of their crossings."""
    unit = size // CELLS
    drawn = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(drawn)
    for k in range(2 * unit, size, 4 * unit):
        pen.rectangle((k - unit // 4, 0, k + unit // 4 - 1, size), fill="#303030")
        pen.rectangle((0, k - unit // 4, size, k + unit // 4 - 1), fill="#303030")
    for i, j in red:
        top, left = (4 * i + 1) * unit, (4 * j + 1) * unit
        pen.rectangle((left, top, left + 2 * unit - 1, top + 2 * unit - 1), fill="#d02020")
    return np.asarray(drawn, np.float32)[None] / 255


def cells_of(crossings: list[tuple[int, int]], side: int, margin: int = 0) -> Tensor:
    """bool (side, side): the latent cells of these crossings' squares, and `margin` sixteenths of the width around."""
    unit, marks = side // CELLS, torch.zeros(side, side, dtype=torch.bool)
    for i, j in crossings:
        top, left = (4 * i + 1 - margin) * unit, (4 * j + 1 - margin) * unit
        marks[top : top + (2 + 2 * margin) * unit, left : left + (2 + 2 * margin) * unit] = True
    return marks


def painted(change: Tensor, wanted: Tensor, where: Tensor) -> float:
    """How far x0 has come towards red in these cells: the factor of `wanted` in `change`, by least squares."""
    a, b = change[..., where].flatten(), wanted[..., where].flatten()
    return float(a @ b / (b @ b))


def grid_rows(view: View, plain: Tensor, red: Tensor, ratio: float, seed: int) -> tuple[list[dict], list[Tensor]]:
    """J e and J^T e at one noise level; rows, and the estimates after the last step."""
    side, sigma = plain.shape[-1], view.sigma_at(ratio)
    square, others = cells_of([SQUARE], side), cells_of([c for c in CROSSINGS if c != SQUARE], side)
    away = ~cells_of([SQUARE], side, margin=1)
    nu, x = view.scales(sigma).nu, view.noisy(plain, sigma, seed)
    x0_at, rows, ends = no_grad(view.at(sigma)), [], []
    directions = {
        "ours": along_je(x0_at, DELTA * nu),
        "gradient": along_jte(lambda x: view.transposed(x, sigma)[1]),
    }
    for method, direction in directions.items():
        found = follow(direction, x0_at, x, lambda x0: square * (red - x0), STEPS, nu)
        change = found[-1] - found[0]
        energy = change[0].square().sum(0)
        residuals = [(red - x0)[..., square].square().mean().sqrt().item() for x0 in (found[0], found[-1])]
        rows.append({
            "task": "grid", "model": view.name, "method": method, "noise": ratio, "seed": seed,
            "share": float(energy[others].sum() / energy[away].sum()), "chance": float(others.sum() / away.sum()),
            "painted_square": painted(change, red - plain, square),
            "painted_others": painted(change, red - plain, others),
            "residual_before": residuals[0], "residual_after": residuals[1],
        })  # fmt: skip
        ends.append(found[-1])
    return rows, [found[0], *ends]


def run_grid(file: Path, opts: argparse.Namespace, bar: tqdm) -> list[dict]:
    """All rows of a checkpoint, and its sheet: the first seed at every noise level."""
    own = file not in DEMO.values()  # its text encoder is loaded where there is a folder of pictures; none is read
    target, rows, lines = CheckpointTarget(file, file.parent if own else None), [], []
    pictures = [grid(opts.size, []), grid(opts.size, CROSSINGS)]
    with torch.no_grad():
        latents = torch.cat([target.vae.encode(torch.from_numpy(p)) for p in pictures])

    def work(view: View) -> None:
        bar.set_description(view.name)
        for ratio in opts.noise:
            for seed in range(opts.seeds):
                found, shown = grid_rows(view, view.z[:1], view.z[1:], ratio, seed)
                rows.extend(found)
                bar.update()
                if seed == 0:
                    drawn = [report.to_bytes(view.decode(x0)[0]) for x0 in shown]
                    given = [report.to_bytes(p[0]) for p in (grid(opts.size, []), grid(opts.size, [SQUARE]))]
                    captions = ["", ""] + [""] + [f"others painted {r['painted_others']:.2f}" for r in found]
                    lines.append((f"noise {ratio:g} x signal", [*given, *drawn], captions))

    inspect(target, NO_GUIDANCE, ["plain", "red"], latents, latents, work)
    columns = ["start of x", "the change asked for", "estimate before", "J e, 5 steps", "J^T e, 5 steps"]
    sheet = report.draw_sheet(f"{target.name}: one red square asked for", columns, lines)
    sheet.save(opts.out / f"directions_{target.name.removeprefix('ncs_')}.jpg", quality=75)
    return rows
