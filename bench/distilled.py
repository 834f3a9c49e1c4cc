"""A distilled model in few steps: the stock sampler lcm behind Constrain Model, beside the same under a noise mask.

    python dev.py bench distilled --out DIR [--hours H] [--steps 8 4]

No such network is at hand that is small enough, so one is made of the embedded checkpoint first (`distillation.py`;
kept in DIR). Everything is sampled by the host, at cfg 1, scheduler `sgm_uniform`. Writes distilled.json,
distilled.md and contact sheets.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import report
import torch
from counted import counted
from distillation import distil
from inpaint import LAYOUT, Cases, Made, measure, write_sheets
from masks import ALL_MASKS
from pack import sampler
from targets import AVATARS, CheckpointTarget, add_dtype, start_noise
from tqdm import tqdm

FAST = sampler.PRESETS["fast"]
ENTRIES = {  # (distilled, sampler, settings; None is the host's noise mask)
    "ours/lcm": (True, "lcm", FAST),
    "ours/lcm_held": (True, "lcm", replace(FAST, resample=False)),
    "ours/euler_ancestral": (True, "euler_ancestral", FAST),
    "stock/lcm": (True, "lcm", None),
    "undistilled/ours": (False, "euler_ancestral", FAST),
    "undistilled/stock": (False, "euler_ancestral", None),
}
LAST = 20  # steps of the undistilled lines at the end, for orientation


@torch.no_grad()
def drawn(
    target: CheckpointTarget, entry: tuple, steps: int, cases: Cases, part: slice, scheduler: str = "sgm_uniform"
) -> tuple[np.ndarray, int]:
    """Pictures of some cases, and the model calls of the run."""
    import comfy.sample
    import comfy.samplers
    from newton_pack.nodes.latent_mask import LatentMaskSpec

    _, name, settings = entry
    mask = torch.from_numpy(cases.hidden[part]).float()
    samples = target.vae.encode(target.fill(torch.from_numpy(cases.truth[part]).float(), mask))
    weights = sampler.known_weights(mask, *samples.shape[-2:])
    model, seen = counted(target.model)
    start, noise_mask = samples, 1 - weights
    if settings is not None:
        model = target.adapter.constrain_model(model, LatentMaskSpec(samples, weights), settings)
        start, noise_mask = torch.zeros_like(samples), None
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
    seeds = cases.noise_seeds[part]
    out = comfy.sample.sample_custom(
        model, start_noise(samples.shape[1:], seeds), 1.0, comfy.samplers.sampler_object(name), sigmas, target.prompt,
        target.prompt, start, noise_mask=noise_mask, disable_pbar=True, seed=seeds[0],
    )  # fmt: skip
    return target.decode(out), len(seen)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=1.0, help="of training, after the trajectories")
    parser.add_argument("--trajectories", type=int, default=40, help="in batches of 32")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--split", choices=("heldout", "train"), default="heldout")
    parser.add_argument("--masks", nargs="+", choices=list(ALL_MASKS), default=list(ALL_MASKS))
    parser.add_argument("--steps", nargs="+", type=int, default=[8, 4])
    add_dtype(parser)
    return parser.parse_args()


def main() -> None:
    opts = parse()
    teacher = CheckpointTarget(AVATARS, dtype=opts.dtype)
    file, log = distil(opts.out / "made", opts.hours, opts.trajectories)
    targets = {True: CheckpointTarget(file, dtype=opts.dtype), False: teacher}
    cases = Cases(teacher, opts.split, opts.images, opts.seeds, opts.masks)
    runs = [(steps, name) for steps in opts.steps for name in ENTRIES]
    runs += [(LAST, name) for name, entry in ENTRIES.items() if not entry[0]]
    rows: list[dict] = []
    made: dict[int, Made] = {}
    for steps, name in tqdm(runs, unit="setting"):
        entry, pictures, calls = ENTRIES[name], [], 0
        for first in range(0, len(cases.index), teacher.batch):
            part = slice(first, first + teacher.batch)
            some, calls = drawn(targets[entry[0]], entry, steps, cases, part)
            pictures.append(some)
        method, preset = name.split("/")
        made.setdefault(steps, {})[name] = cases, np.concatenate(pictures)
        head = {"task": "inpaint", "model": targets[entry[0]].name, "method": method, "preset": preset}
        cost = {"steps": steps, "levels": steps, "calls": calls, "backward_calls": 0}
        rows += [head | row | cost for row in measure(teacher, cases, made[steps][name][1])]
    for steps, pictures in made.items():
        sheets = opts.out / f"steps_{steps}"
        sheets.mkdir(exist_ok=True)
        write_sheets(sheets, cases, pictures)
    layout = replace(LAYOUT, name="distilled", sections=("steps",), plotted=(),
                     baselines=("stock/lcm", "undistilled/stock"))  # fmt: skip
    report.write(opts.out, layout, report.heading("distilled", opts, {"distilled": log} | teacher.notes), rows)


if __name__ == "__main__":
    main()
