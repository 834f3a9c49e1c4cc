"""Super-resolution side by side: every method on the same model, pictures, factors and seeds, in one process.

    python dev.py bench superres --out DIR [--model avatars|FILE.safetensors [--folder PNGS]] [--photos N]

Writes superres.json (a row per method, factor, picture and seed), superres.md, superres.png (quality against model
calls) and a contact sheet per factor. Every method ends in the same closing back-projection, and all measures are
taken after it and after rounding to 8 bits, except residual_after, which is the method's own. `--photos` adds
photographs, reduced to the size of the other pictures, for consistency and cost only.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import report
import torch
import torch.nn.functional as F
import vgg
from entry import Entry
from metrics import feature_measures, mse, psnr, sharpness
from pack import ROOT, sampler
from PIL import Image
from superres_methods import enlarge, entries
from targets import CheckpointTarget, add_dtype, open_target
from torch import Tensor
from tqdm import tqdm

BATCH = 8
PHOTOS = Path(os.environ.get("NEWTON_ASSETS", ROOT.parent / "shared" / "assets")) / "photos"
LAYOUT = report.Layout(
    name="superres",
    columns=(
        ("calls", 0, "calls"),
        ("backward_calls", 0, "backward"),
        ("residual_after", 4, "own residual"),
        ("consistency_mean", 2, "consistency, levels"),
        ("consistency_max", 1, "largest"),
        ("psnr", 2, "PSNR, dB"),
        ("hidden_pixel_mse", 4, "MSE"),
        ("hidden_feature_distance", 2, "feature distance"),
        ("energy_score", 2, "energy score"),
        ("vgg_distance", 3, "VGG distance"),
        ("vgg_energy", 3, "VGG energy score"),
        ("distribution_distance", 2, "distribution distance"),
        ("sharpness", 2, "sharpness"),
        ("diversity", 2, "diversity"),
    ),
    reading="Means over pictures ± standard deviation over seeds; sharpness is a median. Own residual: rms of y - A I "
    "in [0, 1] before the closing back-projection; everything else after it, on 8-bit pictures. A low MSE alone is "
    "reached by blur; the feature distance to the one truth also falls with diversity; the energy score is proper: "
    "lowest for draws from the true conditional distribution.",
    plotted=(
        ("hidden_feature_distance", "feature distance to the truth"),
        ("energy_score", "energy score (proper)"),
        ("psnr", "PSNR, dB"),
        ("diversity", "diversity over seeds"),
    ),
    baselines=("published/gradient",),
    compared=("hidden_feature_distance", "vgg_distance", "energy_score", "hidden_pixel_mse", "diversity"),
    sections=("split", "factor"),
)


class Cases:
    """All (factor, picture, seed) triples in that order, and what is given of each."""

    def __init__(self, target: CheckpointTarget, split: str, pictures: tuple[list[str], np.ndarray], seeds: int,
                 factors: list[int], filter: str, noise: float):  # fmt: skip
        self.names, self.pictures = pictures
        self.split, self.seeds, self.factors, self.filter, self.noise = split, seeds, factors, filter, noise
        self.per_factor = len(self.names) * seeds
        self.index = [(f, i, s) for f in factors for i in range(len(self.names)) for s in range(seeds)]
        self.truth = self.pictures[[i for _, i, _ in self.index]]
        self.noise_seeds = [10_000 * (1 + s) + i for _, i, s in self.index]
        self.truth_features = target.features(self.pictures) if split != "photos" else None

    def batches(self, factor: int) -> list[slice]:
        first = self.factors.index(factor) * self.per_factor
        return [slice(k, min(k + BATCH, first + self.per_factor)) for k in range(first, first + self.per_factor, BATCH)]

    def given(self, factor: int, part: slice) -> tuple[sampler.Resample, Tensor]:
        """A and y, as the node has them; what is measured is an 8-bit picture, with noise where asked."""
        truth = torch.from_numpy(self.truth[part]).float().movedim(-1, 1)
        low = (truth.shape[-2] // factor, truth.shape[-1] // factor)
        operator = sampler.Resample.by_factor(low, factor, self.filter, smooth=True)
        y = operator.A(truth)
        seeds = [torch.Generator().manual_seed(image) for _, image, _ in self.index[part]]
        y = y + self.noise * torch.stack([torch.randn(y.shape[1:], generator=g) for g in seeds])
        return operator, (255 * y).round().clamp(0, 255) / 255


def run_entry(target: CheckpointTarget, entry: Entry, cases: Cases, bar: tqdm) -> tuple[np.ndarray, np.ndarray, dict]:
    """Pictures of all cases after the closing back-projection, rms residuals before it, and the cost of a picture."""
    from newton_pack.nodes.pixel_spec import PixelSpec  # ComfyUI is on the path once there is a target

    closed, residuals, calls, start = [], [], 0, time.perf_counter()
    for factor in cases.factors:
        for part in cases.batches(factor):
            operator, y = cases.given(factor, part)
            measured, size = sampler.LinearMeasurement(operator, y), cases.pictures.shape[1:3]
            upscaled = F.interpolate(y, size, mode="bicubic").clamp(0, 1)
            spec = PixelSpec(measured, target.vae, size, len(y), cases.noise)
            picture, calls = enlarge(target, entry, spec, upscaled, cases.noise_seeds[part])
            residuals.append(measured.data_residual(picture).square().mean((1, 2, 3)).sqrt())
            picture = sampler.back_project(measured, picture, cases.noise) if entry.closed else picture
            closed.append((255 * picture).round() / 255)
            bar.update(len(y))
    seconds = (time.perf_counter() - start) / len(cases.index)
    cost = {"levels": entry.levels, "calls": calls, "backward_calls": entry.backward_per_level * entry.levels}
    return torch.cat(closed).movedim(1, -1).numpy(), torch.cat(residuals).numpy(), cost | {"seconds": seconds}


def measure(target: CheckpointTarget, cases: Cases, pictures: np.ndarray, residuals: np.ndarray) -> list[dict]:
    """One row of measures per case."""
    off = [d for f in cases.factors for p in cases.batches(f) for d in consistency(cases, f, p, pictures)]
    rows = [
        {
            "factor": factor, "operator": cases.filter, "image": cases.names[image], "seed": seed,
            "split": cases.split, "residual_after": float(residuals[k]), "consistency_mean": float(off[k].mean()),
            "consistency_max": float(off[k].max()),
        }
        for k, (factor, image, seed) in enumerate(cases.index)
    ]  # fmt: skip
    if cases.truth_features is None:
        return rows
    features = feature_measures(target.features(pictures), cases.truth_features, cases.index, cases.seeds)
    second = vgg.measures(pictures, cases.pictures, cases.index, cases.seeds)
    everywhere = np.ones(pictures.shape[1:3], bool)
    for row, picture, truth, more, vggs in zip(rows, pictures, cases.truth, features, second, strict=True):
        row |= {"psnr": psnr(picture, truth, everywhere), "hidden_pixel_mse": mse(picture, truth, everywhere)}
        row |= {"sharpness": sharpness(picture, truth, everywhere), **more, **vggs}
    return rows


def consistency(cases: Cases, factor: int, part: slice, pictures: np.ndarray) -> list[np.ndarray]:
    """|A I - y| in 8-bit levels."""
    operator, y = cases.given(factor, part)
    return list((255 * (operator.A(torch.from_numpy(pictures[part]).movedim(-1, 1)) - y)).abs().numpy())


Made = dict[str, tuple[Cases, np.ndarray]]


def run_all(target: CheckpointTarget, chosen: list[tuple[Entry, Cases]]) -> tuple[list[dict], Made]:
    """Rows of all methods, and their cases and pictures."""
    rows, pictures = [], {}
    with tqdm(total=sum(len(cases.index) for _, cases in chosen), unit="picture") as bar:
        for entry, cases in chosen:
            bar.set_description(entry.label)
            made, residuals, cost = run_entry(target, entry, cases, bar)
            pictures[entry.label] = cases, made
            head = {"task": "superres", "model": target.name, "method": entry.method, "preset": entry.preset}
            rows += [head | row | cost for row in measure(target, cases, made, residuals)]
    return rows, pictures


def write_sheets(out: Path, cases: Cases, made: Made, shown: int = 6) -> None:
    """A sheet per factor: the first pictures at the first seed."""
    for factor in cases.factors:
        rows = []
        for k, (f, image, seed) in enumerate(cases.index):
            if f != factor or seed or image >= shown:
                continue
            low = cases.given(factor, slice(k, k + 1))[1][0].movedim(0, -1).numpy()
            blocks = low.repeat(factor, 0).repeat(factor, 1)
            found = [pictures[c.index.index((f, image, seed))] for c, pictures in made.values()]
            line = [report.to_bytes(p) for p in (cases.truth[k], blocks, *found)]
            rows.append((cases.names[image].replace("_", " "), line, [""] * len(line)))
        sheet = report.draw_sheet(f"factor {factor}, {cases.filter}", ["truth", "input", *made], rows)
        sheet.save(out / f"sheet_{cases.split}_x{factor}.png")


def read_photos(count: int, size: int) -> tuple[list[str], np.ndarray]:
    """Largest centre squares of photographs, at `size`."""
    files = sorted(PHOTOS.glob("*/*.png"))
    if not files:
        sys.exit(f"--photos: no pictures in {PHOTOS} (NEWTON_ASSETS)")
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)]
    made = []
    for file in chosen:
        photo = Image.open(file).convert("RGB")
        side = min(photo.size)
        left, top = (photo.width - side) // 2, (photo.height - side) // 2
        small = photo.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
        made.append(np.asarray(small, np.float32) / 255)
    return [f.stem for f in chosen], np.stack(made)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="avatars", metavar="avatars|FILE")
    parser.add_argument("--folder", type=Path, help="PNG files to enlarge with a checkpoint of your own")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--published-seeds", type=int, help="of the published loops, which cost 420 calls")
    parser.add_argument("--split", choices=("heldout", "train"), default="heldout")
    parser.add_argument("--factors", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--filter", choices=list(sampler.FILTERS), default="area")
    parser.add_argument("--noise", type=float, default=0.0, help="sigma_y of the given picture, of white 1")
    parser.add_argument("--photos", type=int, help="how many photographs, one seed")
    add_dtype(parser)
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="method, preset or method/preset")
    return parser.parse_args()


def main() -> None:
    opts = parse()
    try:
        target = open_target(opts.model, opts.folder, opts.dtype)
    except FileNotFoundError as e:
        sys.exit(str(e))
    chosen = [e for e in entries(target.dtype) if e.chosen(opts.only)]
    pictures = target.truths(opts.split, opts.images)
    asked = opts.factors, opts.filter, opts.noise
    cases = Cases(target, opts.split, pictures, opts.seeds, *asked)
    fewer = Cases(target, opts.split, pictures, opts.published_seeds or opts.seeds, *asked)
    sets = [[(e, fewer if e.method == "published" else cases) for e in chosen]]
    if opts.photos:
        photos = read_photos(opts.photos, pictures[1].shape[1])
        sets.append([(e, Cases(target, "photos", photos, 1, *asked)) for e in chosen])
    opts.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for pairs in sets:
        more, made = run_all(target, pairs)
        rows += more
        write_sheets(opts.out, pairs[0][1], made)
    report.write(opts.out, LAYOUT, report.heading("superres", opts, target.notes | vgg.notes()), rows)


if __name__ == "__main__":
    main()
