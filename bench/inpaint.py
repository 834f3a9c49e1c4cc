"""Inpainting side by side: every method on the same model, pictures, masks and seeds, in one process.

    python dev.py bench inpaint --out DIR [--model avatars|mnist|fashion|FILE.safetensors [--folder PNGS]]

Writes inpaint.json (rows as in a table, one per method, mask, picture and seed), inpaint.md, inpaint.png (quality
against model calls) and a contact sheet per mask. `--folder` names square RGB pictures of one size for a checkpoint
of your own; with LANPAINT_PATH that pack's own node takes part. All measures are taken after pasting the known pixels
back, except known_psnr (capped at 100 dB). What begins "from filled" starts at denoise .8 from the picture whose hidden
part was filled by its edges.

Resumable: what was made is kept in DIR/made, and a run that was broken off goes on there. Use a new DIR after changes.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import report
import vgg
from entry import Entry
from judge import agreement, shared_judge
from masks import ALL_MASKS, bench_mask
from methods import entries
from metrics import composite, feature_measures, mse, psnr, seam, sharpness
from mosaic import Mosaic
from targets import CheckpointTarget, SmallTarget, Target, add_dtype, open_target
from tqdm import tqdm

HIGHEST_PSNR = 100.0
LAYOUT = report.Layout(
    name="inpaint",
    columns=(
        ("calls", 0, "calls"),
        ("backward_calls", 0, "backward"),
        ("known_psnr", 1, "known PSNR, dB"),
        ("hidden_pixel_mse", 4, "hidden MSE"),
        ("hidden_feature_distance", 2, "hidden feature distance"),
        ("energy_score", 2, "energy score"),
        ("vgg_distance", 3, "VGG distance"),
        ("vgg_energy", 3, "VGG energy score"),
        ("distribution_distance", 2, "distribution distance"),
        ("sharpness", 2, "sharpness"),
        ("diversity", 2, "diversity"),
        ("seam", 4, "seam"),
        ("seam_truth", 4, "seam of the truth"),
        ("agreement", 3, "agreement"),
        ("agreement_truth", 3, "agreement of the truth"),
    ),
    reading="Means over pictures and masks ± standard deviation over seeds; sharpness is a median. The energy score is "
    "proper: it is lowest for draws from the true conditional distribution. The feature distance to the one truth "
    "alone also falls with diversity. The distribution distance compares pasted pictures, which share their known "
    "parts with the truths: below zero even for perfect draws, so only its order counts. Agreement: share of an "
    "avatar's hair colour, skin, clothes' colour and background that the classifier of judge.py, which sees the hidden "
    "part alone, finds as they are.",
    plotted=(
        ("hidden_feature_distance", "hidden feature distance to the truth"),
        ("energy_score", "energy score (proper; lower is better)"),
        ("seam_error", "|seam - seam of the truth|"),
        ("diversity", "diversity over seeds"),
    ),
    baselines=("replacement_equal_calls", "published_eta1"),
    compared=("hidden_feature_distance", "vgg_distance", "energy_score", "seam_error", "hidden_pixel_mse", "diversity"),
)


class Cases:
    """All (mask, picture, seed) triples as one batch, in that order."""

    def __init__(self, target: Target, split: str, images: int, seeds: int, masks: list[str]):
        self.names, self.pictures = target.truths(split, images)
        self.masks, self.split, self.seeds = masks, split, seeds
        size, n = self.pictures.shape[1], len(self.pictures)
        self.index = [(m, i, s) for m in masks for i in range(n) for s in range(seeds)]
        self.truth = np.stack([self.pictures[i] for _, i, _ in self.index])
        self.hidden = np.stack([bench_mask(m, size, i) for m, i, _ in self.index])
        self.noise_seeds = [10_000 * (1 + s) + i for _, i, s in self.index]
        self.truth_features = target.features(self.pictures)


def run_entry(
    target: Target, entry: Entry, levels: int, cases: Cases, kept: Path, bar: tqdm
) -> tuple[np.ndarray, int, float]:
    """Pictures of all cases, the calls of a run and seconds per picture; batch by batch, or as kept earlier."""
    made, calls, seconds = [], 0, 0.0
    for first in range(0, len(cases.index), target.batch):
        part = slice(first, first + target.batch)
        file = kept / f"{entry.label.replace('/', '_')}_{len(cases.index)}_{first:05}.npz"
        if not file.exists():
            start = time.perf_counter()
            pictures, calls = target.inpaint(
                entry, levels, cases.truth[part], cases.hidden[part], cases.noise_seeds[part]
            )
            spent = time.perf_counter() - start
            np.savez(file, pictures=(255 * pictures).round().astype(np.uint8), calls=calls, seconds=spent)
        with np.load(file) as batch:
            made.append(batch["pictures"].astype(np.float32) / 255)
            calls, seconds = int(batch["calls"]), seconds + float(batch["seconds"])
        bar.update(len(made[-1]))
    return np.concatenate(made), calls, seconds / len(cases.index)


@np.errstate(divide="ignore")
def measure(target: Target, cases: Cases, pictures: np.ndarray) -> list[dict]:
    """One row of measures per case."""
    truth, hidden = cases.truth, cases.hidden
    pasted = np.stack([composite(t, p, h) for t, p, h in zip(truth, pictures, hidden, strict=True)])
    features = feature_measures(target.features(pasted), cases.truth_features, cases.index, cases.seeds)
    second = vgg.measures(pasted, cases.pictures, cases.index, cases.seeds)
    agreed = attribute_agreement(target, cases, pasted) if target.rows else [{}] * len(pasted)
    return [
        {
            "mask": mask, "image": cases.names[image], "seed": seed, "split": cases.split,
            "known_psnr": min(HIGHEST_PSNR, psnr(pictures[k], truth[k], ~hidden[k])),
            "hidden_pixel_mse": mse(pasted[k], truth[k], hidden[k]),
            "seam": seam(pasted[k], hidden[k]), "seam_truth": seam(truth[k], hidden[k]),
            "sharpness": sharpness(pasted[k], truth[k], hidden[k]),
            **features[k], **second[k], **agreed[k],
        }
        for k, (mask, image, seed) in enumerate(cases.index)
    ]  # fmt: skip


def attribute_agreement(target: Target, cases: Cases, pasted: np.ndarray) -> list[dict[str, float]]:
    """Share of an avatar's attributes, read from the hidden part alone, that are as in its row; also of the truth."""
    rows = [target.rows[cases.names[image]] for _, image, _ in cases.index]
    made, true = (agreement(shared_judge(), rows, p, cases.hidden) for p in (pasted, cases.truth))
    shares = np.nanmean(made, 1), np.nanmean(true, 1)
    return [{"agreement": float(a), "agreement_truth": float(b)} for a, b in zip(*shares, strict=True)]


Made = dict[str, tuple[Cases, np.ndarray]]


def run_all(target: Target, chosen: list[tuple[Entry, Cases]], levels: int, kept: Path) -> tuple[list[dict], Made]:
    """Rows of all methods, and their cases and pictures."""
    rows, made = [], {}
    kept.mkdir(parents=True, exist_ok=True)
    with tqdm(total=sum(len(cases.index) for _, cases in chosen), unit="picture") as bar:
        for entry, cases in chosen:
            bar.set_description(entry.label)
            n = entry.levels or levels
            pictures, calls, seconds = run_entry(target, entry, n, cases, kept, bar)
            made[entry.label] = cases, pictures
            head = {"task": "inpaint", "model": target.name, "method": entry.method, "preset": entry.preset}
            cost = {"levels": n, "calls": calls, "backward_calls": entry.backward_per_level * n, "seconds": seconds}
            rows += [head | row | cost for row in measure(target, cases, pictures)]
    return rows, made


def write_sheets(out: Path, cases: Cases, made: Made, shown: int = 6) -> None:
    """A sheet per mask: the first pictures at the first seed."""
    for mask in cases.masks:
        rows = []
        for image in range(min(shown, len(cases.names))):
            case = mask, image, 0
            truth, hidden = cases.pictures[image], cases.hidden[cases.index.index(case)]
            filled = [composite(truth, pictures[c.index.index(case)], hidden) for c, pictures in made.values()]
            line = [report.to_bytes(p) for p in (truth, np.where(hidden[..., None], 0.5, truth), *filled)]
            rows.append((cases.names[image].replace("_", " "), line, [""] * len(line)))
        report.draw_sheet(f"mask: {mask}", ["truth", "input", *made], rows).save(out / f"sheet_{mask}.png")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="avatars", metavar="avatars|mnist|fashion|FILE")
    parser.add_argument("--folder", type=Path, help="PNG files to inpaint with a checkpoint of your own")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--published-seeds", type=int, help="of the two published loops, which cost 220 calls")
    parser.add_argument("--mosaic", type=int, default=1, help="N: N x N pictures as one, in windows; one seed")
    parser.add_argument("--split", choices=("heldout", "train"), default="heldout")
    parser.add_argument("--levels", type=int, default=20)
    parser.add_argument("--masks", nargs="+", choices=list(ALL_MASKS), default=list(ALL_MASKS))
    add_dtype(parser)
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="method, preset or method/preset")
    return parser.parse_args()


def main() -> None:
    opts = parse()
    try:
        target = open_target(opts.model, opts.folder, opts.dtype)
    except FileNotFoundError as e:
        sys.exit(str(e))
    if opts.mosaic > 1:
        if not isinstance(target, CheckpointTarget):
            sys.exit(f"--mosaic: windows are for checkpoints, but --model is {opts.model}. Leave one of them out.")
        target, opts.images, opts.seeds = Mosaic(target, opts.mosaic), opts.mosaic**2, 1
    fills = not isinstance(target, SmallTarget)
    chosen = [e for e in entries(target.dtype) if e.chosen(opts.only) and (fills or e.strength == 1)]
    cases = Cases(target, opts.split, opts.images, opts.seeds, opts.masks)
    fewer = Cases(target, opts.split, opts.images, opts.published_seeds or opts.seeds, opts.masks)
    pairs = [(e, fewer if e.method.startswith("published") else cases) for e in chosen]
    rows, made = run_all(target, pairs, opts.levels, opts.out / "made")
    layout = replace(LAYOUT, baselines=()) if opts.mosaic > 1 else LAYOUT  # parts of one run are no independent cases
    report.write(opts.out, layout, report.heading("inpaint", opts, target.notes | vgg.notes()), rows)
    write_sheets(opts.out, cases, made)


if __name__ == "__main__":
    main()
