"""Left halves of pictures asked for at other pictures with noise: the directions step by step."""

import argparse

import numpy as np
import report
import torch
from inside import NO_GUIDANCE, View, no_grad, over_models
from jacobian import DELTA
from pack import sampler
from torch import Tensor
from tqdm import tqdm

from newton_pack.sampler.directions import along_exact, along_je, along_jte, follow  # isort: skip

SHOWN = (0, 1, 2, 3, 5)
METHODS = {"ours": "J e", "gradient": "Jᵀ e", "exact": "exact"}
EXACT_VALUES = 400  # known values, most: each takes a backward pass in every step
SHEET_ROWS = 3  # pictures at each noise level


def known_rows_at_once(view: View, x: Tensor, sigma: float, known: Tensor) -> Tensor:
    """The rows of J (k, n) of known elements, in one batched backward pass."""
    z = x.clone().requires_grad_()
    with torch.enable_grad():
        x0 = view.at(sigma)(z)
    ones = torch.eye(known.numel())[known.flatten() > 0].reshape(-1, *x.shape)
    return torch.autograd.grad(x0, z, ones, is_grads_batched=True)[0].flatten(1)


def step_rows(view: View, i: int, ratio: float) -> tuple[list[dict], list[Tensor]]:
    """The directions on one picture: rows with residual (rms) and feature distance by step; x0 (1, C, h, w) before the
    first step, and after the last one of each direction.
    """
    sigma, y = view.sigma_at(ratio), view.z[i : i + 1]
    nu, x = view.scales(sigma).nu, view.noisy(view.other[i : i + 1], sigma, seed=i)
    known = torch.zeros_like(y)
    known[..., : y.shape[-1] // 2] = 1
    x0_at = no_grad(view.at(sigma))
    directions = {
        "ours": along_je(x0_at, DELTA * nu),
        "gradient": along_jte(lambda x: view.transposed(x, sigma)[1]),
    }
    if known.sum() <= EXACT_VALUES:
        directions["exact"] = along_exact(lambda x: known_rows_at_once(view, x, sigma, known), known)
    rates, rows, ends = sampler.PRESETS["paper"].rates(), [], []
    truth = view.features(view.decode(y))
    for method, direction in directions.items():
        longest = 1.0 if method == "exact" else torch.inf
        found = follow(direction, x0_at, x, lambda x0: known * (y - x0), rates, nu, longest)
        apart = np.linalg.norm(view.features(view.decode(torch.cat(found))) - truth, axis=1)
        residuals = [(known * (y - x0)).square().mean().mul(2).sqrt().item() for x0 in found]
        rows += [
            {
                "task": "steps", "model": view.name, "method": method, "noise": ratio, "image": view.names[i],
                "step": k, "residual": residuals[k], "feature_distance": float(apart[k]),
            }
            for k in SHOWN
        ]  # fmt: skip
        ends.append(found[-1])
    return rows, [found[0], *ends]


def run_halves(opts: argparse.Namespace, bar: tqdm) -> list[dict]:
    """All rows, without guidance, and a sheet for every latent model: the first pictures at every noise level."""
    rows, lines = [], {}

    def work(view: View) -> None:
        bar.set_description(view.name)
        for ratio in opts.noise:
            for i in range(len(view.z)):
                found, shown = step_rows(view, i, ratio)
                rows.extend(found)
                bar.update()
                if i < SHEET_ROWS and len(shown) == 3:
                    drawn = [
                        report.to_bytes(view.decode(x0)[0]) for x0 in (view.other[i : i + 1], view.z[i : i + 1], *shown)
                    ]
                    told = [f"features {r['feature_distance']:.1f}" for r in found if r["step"] == max(SHOWN)]
                    lines.setdefault(view.name, []).append((f"noise {ratio:g} x signal", drawn, ["", "", "", *told]))

    opts.guidance = [NO_GUIDANCE]
    over_models(opts, opts.images, work)
    columns = ["start of x", "its left half asked for", "estimate before", "J e, 5 steps", "J^T e, 5 steps"]
    for name, drawn in lines.items():
        sheet = report.draw_sheet(f"{name}: another left half asked for", columns, drawn)
        sheet.save(opts.out / f"directions_halves_{name.removeprefix('ncs_')}.jpg", quality=75)
    return rows
