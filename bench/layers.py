"""Layer inference on composites with a known mask.

    python dev.py bench layers --out DIR [--model small|avatars]

small: an MNIST digit beside or over a Fashion garment, each layer with its own diffusion model. avatars: one over a
patterned background or a photograph, or two beside each other, with one model under two prompts. Writes layers.json,
layers.md, layers.png and a contact sheet for each kind of composite. GrabCut needs opencv-python-headless.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import report
import small_ddpm
import torch
import torch.nn.functional as F
from layer_cases import Composite, avatar_composites, baselines, box_of, small_composites
from pack import sampler
from targets import AVATARS, CheckpointTarget, add_dtype, conditioning, latents_of, pictures_of
from torch import Tensor
from tqdm import tqdm

LEVELS = [4.0, 2.8, 2.0, 1.45, 1.0, 0.74]  # of the small models: those at .3 ... .75 of an SD schedule
DEFAULT = sampler.LayerSettings()
BOXED = "ours_box"  # told the true mask's box, as GrabCut is
VARIANTS = {
    "ours": DEFAULT,
    BOXED: DEFAULT,
    "ours_given_counted": replace(DEFAULT, exclude_given=False),
    "ours_no_newton": replace(DEFAULT, newton=sampler.NewtonSettings(iterations=0)),
}
LAYOUT = report.Layout(
    name="layers",
    columns=(
        ("calls", 0, "calls"),
        ("mask_iou", 3, "IoU"),
        ("mask_iou_telling", 3, "IoU where the layers differ"),
        ("mask_mae", 3, "mean absolute error"),
        ("right", 3, "pixels right where the layers differ"),
        ("visible_rms", 3, "visible layer error"),
        ("hidden_rms", 3, "hidden layer error"),
        ("recomposition_max", 2, "recomposition, levels"),
    ),
    reading="Means over composites ± standard deviation over seeds. Calls at batch 1. IoU of layer 1 at a threshold of "
    "1/2. Layer errors: rms in [0, 1] against the true layer where the mask shows it and where it does not (only one "
    "of many plausible fillings). Recomposition: largest deviation of 8-bit layers from the image. swapped: the two "
    "prompts exchanged, scored with the layers exchanged back: equal to ours if the prompts decide. kmeans: "
    "two clusters of colours, of which the truth says which is layer 1. ours_box and grabcut are given the true "
    "mask's box.",
    plotted=(("mask_iou_telling", "IoU where the layers differ"), ("right", "pixels right where the layers differ")),
    baselines=("kmeans",),
    compared=("mask_mae", "mask_iou_telling", "right"),
    sections=("mask",),
)

Layers = tuple[np.ndarray, np.ndarray, np.ndarray, int]


def box_prior(cases: list[Composite], cells: torch.Size) -> Tensor:
    """Probability of layer 1, (N, 1, h, w): .9 inside the true mask's box, 0 in cells outside it."""
    boxes = torch.zeros(len(cases), 1, *cases[0].mask.shape)
    for box, case in zip(boxes, cases, strict=True):
        left, top, width, height = box_of(case.mask)
        box[0, top : top + height, left : left + width] = 1
    return 0.9 * F.adaptive_avg_pool2d(boxes, cells)


def run_small(
    cases: list[Composite], seed: int, settings: sampler.LayerSettings, swap: bool, steps: int, boxed: bool
) -> Layers:
    """Masks (N, H, W), both layers (N, H, W, C) and calls at batch 1."""
    models = [small_ddpm.SmallDenoiser(n) for n in (("fashion", "mnist") if swap else ("mnist", "fashion"))]
    denoisers = [sampler.Denoiser(m, lambda sigma: sampler.Scales(1.0, sigma)) for m in models]
    image = latents_of(np.stack([c.image for c in cases]))
    prior = box_prior(cases, image.shape[2:]) if boxed else None
    m = sampler.infer_mask(denoisers, image, LEVELS, settings, 0.005, seed, prior)
    layers = sampler.sample_layers(denoisers, image, m, small_ddpm.levels(steps), seed)
    calls = settings.calls(len(LEVELS)) + 2 * steps
    return m[:, 0].numpy(), *map(pictures_of, layers), calls


class Checkpoint:
    """The node's own path, prompts from the avatars' words."""

    def __init__(self, cfg: float, dtype: str | None):
        self.target, self.cfg = CheckpointTarget(AVATARS, dtype=dtype), cfg
        from newton_pack.nodes import layers

        self.node = layers

    @torch.no_grad()
    def __call__(
        self, cases: list[Composite], seed: int, settings: sampler.LayerSettings, swap: bool, steps: int, boxed: bool
    ) -> Layers:
        texts = [[c.words[i] for c in cases] for i in ((1, 0) if swap else (0, 1))]
        image = torch.from_numpy(np.stack([c.image for c in cases])).float()
        latent = self.target.vae.encode(image)
        cells = latent.shape[2:]
        prior = box_prior(cases, cells) if boxed else torch.full((len(cases), 1, *cells), 0.5)
        masks, layers = self.node.split(
            self.target.model, latent, [conditioning(t) for t in texts], conditioning([""]), self.cfg, seed, 6, steps,
            settings, prior,
        )  # fmt: skip
        m = self.node.pixel_mask(masks[-1], image.movedim(-1, 1))[:, 0]
        calls = settings.calls(6) + 2 * steps
        return m.numpy(), *(self.target.vae.decode(layer).numpy() for layer in layers), calls


def rms(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> float:
    w = weight[..., None]
    return float(np.sqrt((w * (a - b) ** 2).sum() / max(1e-9, w.sum() * a.shape[-1])))


def mask_scores(case: Composite, m: np.ndarray) -> dict[str, float]:
    truth, ours, telling = case.mask > 0.5, m > 0.5, case.telling

    def iou(where: np.ndarray) -> float:
        return float((truth & ours & where).sum() / max(1, ((truth | ours) & where).sum()))

    return {
        "mask_iou": iou(np.ones_like(telling)),
        "mask_iou_telling": iou(telling),
        "mask_mae": float(abs(m - case.mask).mean()),
        "right": float((truth == ours)[telling].mean()),
    }


def layer_scores(case: Composite, m: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    shape = (2, 0, 1)
    image, one, two = (torch.from_numpy(t.transpose(shape)).double()[None] for t in (case.image, first, second))
    weight = torch.from_numpy(m).double()[None, None]
    exact = [(255 * t).round() / 255 for t in sampler.exact_layers(image, one, two, weight)]
    off = (255 * sampler.recompose(*exact, weight)).round() - (255 * image).round()
    one, two = (t[0].numpy().transpose(1, 2, 0) for t in exact)
    visible = [rms(one, case.first, case.mask), rms(two, case.second, 1 - case.mask)]
    hidden = [rms(one, case.first, 1 - case.mask), rms(two, case.second, case.mask)]
    return {
        "visible_rms": float(np.mean(visible)),
        "hidden_rms": float(np.mean(hidden)),
        "recomposition_max": float(off.abs().max()),
    }


def run_all(run: Callable[..., Layers], groups: dict[str, list[Composite]], opts: argparse.Namespace, head: dict):
    """Rows of all methods, and the pictures of the first seed for the contact sheets."""
    rows, shown = [], {}
    variants = {k: (v, False) for k, v in VARIANTS.items()} | {"swapped": (DEFAULT, True)}
    chosen = {k: v for k, v in variants.items() if not opts.only or k in opts.only}
    with tqdm(total=len(groups) * len(chosen) * opts.seeds, unit="run") as bar:
        for kind, cases in groups.items():
            for name, (settings, swap) in chosen.items():
                for seed in range(opts.seeds):
                    masks, first, second, calls = run(cases, seed, settings, swap, opts.steps, name == BOXED)
                    if swap:
                        masks, first, second = 1 - masks, second, first
                    for case, m, a, b in zip(cases, masks, first, second, strict=True):
                        line = head | {"mask": kind, "image": case.name, "seed": seed, "calls": calls}
                        scores = mask_scores(case, m) | layer_scores(case, m, a, b)
                        rows.append(line | {"method": name} | scores)
                        if seed == 0:
                            shown.setdefault((kind, case.name), {})[name] = (m, a, b)
                    bar.update()
            for name, segment in baselines().items():
                for case in cases:
                    found = segment(case.image, case.mask)
                    line = head | {"mask": kind, "image": case.name, "seed": 0, "calls": 0, "method": name}
                    blank = {k: float("nan") for k in ("visible_rms", "hidden_rms", "recomposition_max")}
                    rows.append(line | mask_scores(case, found) | blank)
    return rows, shown


def write_sheets(out: Path, groups: dict[str, list[Composite]], shown: dict) -> None:
    for kind, cases in groups.items():
        lines, names = [], list(shown[kind, cases[0].name])
        for case in cases[:8]:
            made = shown[kind, case.name]
            pictures = [case.image, case.mask[..., None], *(made[n][0][..., None] for n in names), *made[names[0]][1:]]
            lines.append((" | ".join(case.words), [report.to_bytes(p) for p in pictures], [""] * len(pictures)))
        columns = ["image", "true mask", *names, "layer 1", "layer 2"]
        report.draw_sheet(f"composites: {kind}", columns, lines).save(out / f"layers_{kind}.png")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="avatars", choices=("small", "avatars"))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--split", choices=("heldout", "train"), default="heldout")
    parser.add_argument("--kinds", nargs="+", help="half, disc; small: ink; avatars: pattern, photo")
    parser.add_argument("--only", nargs="+", metavar="METHOD", choices=[*VARIANTS, "swapped"])
    add_dtype(parser)
    return parser.parse_args()


def main() -> None:
    opts = parse()
    small = opts.model == "small"
    kinds = opts.kinds or (["half", "disc", "ink"] if small else ["pattern", "photo", "half"])
    try:
        if small:
            seed = {"train": 1, "heldout": 2}[opts.split]
            drawn = [pictures_of(small_ddpm.draw_pictures(n, opts.images, seed)) for n in ("mnist", "fashion")]
            run, groups = run_small, {k: small_composites(k, *drawn) for k in kinds}
        else:
            run = Checkpoint(opts.cfg, opts.dtype)
            names, pictures = run.target.truths(opts.split, 4 * opts.images)
            groups = {
                k: avatar_composites(k, [run.target.rows[n] for n in names], pictures, opts.images) for k in kinds
            }
    except FileNotFoundError as e:
        sys.exit(str(e))
    head = {"task": "layers", "model": opts.model, "preset": "", "split": opts.split}
    rows, shown = run_all(run, groups, opts, head)
    report.write(opts.out, LAYOUT, report.heading("layers", opts, {}), rows)
    write_sheets(opts.out, groups, shown)


if __name__ == "__main__":
    main()
