"""Guidance and few steps: ours beside replacement from 4 to 20 noise levels and at cfg 1 to 12.

    python dev.py bench cfg --out DIR [--cfg 1 4 8 12] [--levels 20 8 4] [--split train]

Half-hidden avatars with their own words as prompt, on the demo checkpoint. Writes cfg.json, cfg.md and contact sheets.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import report
import torch
import vgg
from entry import Entry
from inpaint import LAYOUT, Cases, Made, measure, write_sheets
from methods import entries
from targets import AVATARS, CheckpointTarget, add_dtype, conditioning
from tqdm import tqdm

COMPARED = ("ours/fast", "ours/newton", "replacement")


def run_entry(target: CheckpointTarget, entry: Entry, levels: int, cases: Cases) -> tuple:
    """Pictures of all cases, each with its own prompt, and the calls of a run."""
    made, calls = [], 0
    for first in range(0, len(cases.index), target.batch):
        part = slice(first, first + target.batch)
        target.prompt = conditioning([target.rows[cases.names[i]]["prompt"] for _, i, _ in cases.index[part]])
        pictures, calls = target.inpaint(entry, levels, cases.truth[part], cases.hidden[part], cases.noise_seeds[part])
        made.append(torch.from_numpy(pictures))
    return torch.cat(made).numpy(), calls


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--split", choices=("heldout", "train"), default="heldout")
    parser.add_argument("--masks", nargs="+", default=["half"])
    parser.add_argument("--cfg", nargs="+", type=float, default=[1, 4, 8, 12])
    parser.add_argument("--levels", nargs="+", type=int, default=[20, 8, 4])
    parser.add_argument("--checkpoint", type=Path, default=AVATARS)
    add_dtype(parser)
    return parser.parse_args()


def main() -> None:
    opts = parse()
    target = CheckpointTarget(opts.checkpoint, dtype=opts.dtype)
    cases = Cases(target, opts.split, opts.images, opts.seeds, opts.masks)
    rows: list[dict] = []
    opts.out.mkdir(parents=True, exist_ok=True)
    for cfg, levels in tqdm([(c, n) for n in opts.levels for c in opts.cfg], unit="setting"):
        target.cfg = cfg
        made: Made = {}
        for entry in (e for e in entries(target.dtype) if e.label in COMPARED):
            pictures, calls = run_entry(target, entry, levels, cases)
            made[entry.label] = cases, pictures
            head = {"task": "inpaint", "model": target.name, "method": entry.method, "preset": entry.preset}
            cost = {"levels": levels, "cfg": cfg, "calls": calls, "backward_calls": 0}
            rows += [head | row | cost for row in measure(target, cases, pictures)]
        sheets = opts.out / f"levels_{levels}_cfg_{cfg:g}"
        sheets.mkdir(exist_ok=True)
        write_sheets(sheets, cases, made)
    layout = replace(LAYOUT, name="cfg", sections=("levels", "cfg"), baselines=("replacement",), plotted=())
    report.write(opts.out, layout, report.heading("cfg", opts, target.notes | vgg.notes()), rows)


if __name__ == "__main__":
    main()
