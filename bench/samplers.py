"""The host's samplers behind Constrain Model, beside the same samplers under a noise mask.

    python dev.py bench samplers --out DIR [--images 4] [--seeds 2]

The embedded model, half masks, scheduler `simple`, cfg 1. Samplers that Constrain Model replaces are left out, and so
are the `_gpu` forms of others. Writes samplers.json and samplers.md.
"""

import argparse
from pathlib import Path

import numpy as np
import report
from distilled import FAST, drawn
from inpaint import Cases, measure
from jacobian import write
from metrics import paired_interval
from report import by_picture
from targets import AVATARS, CheckpointTarget
from tqdm import tqdm

MEASURES = {"energy_score": "energy score", "hidden_feature_distance": "features", "seam": "seam"}
METHODS = {"ours": FAST, "stock": None}


def driven() -> list[str]:
    """The names of this host's samplers that take the steps themselves on flow models."""
    from comfy.samplers import SAMPLER_NAMES
    from newton_pack.nodes.comfy_adapter.base_sampler import NOT_FLOW, SINGLE_STEP, WHOLE_RUN

    names = [n for n in (*SINGLE_STEP, *WHOLE_RUN) if n in SAMPLER_NAMES]
    return [n for n in names if n not in NOT_FLOW and not n.endswith("_gpu")]


def table(rows: list[dict]) -> str:
    """A line a sampler: ours, and ours minus stock."""
    lines = [
        "| sampler | calls, ours and stock | "
        + " | ".join(f"{name} | ours - stock" for name in MEASURES.values()) + " | seam of the truth |",
        "|" + "---|" * (3 + 2 * len(MEASURES)),
    ]  # fmt: skip
    for name in dict.fromkeys(r["preset"] for r in rows):
        ours, stock = ([r for r in rows if (r["preset"], r["method"]) == (name, m)] for m in METHODS)
        cells = [name, f"{ours[0]['calls']}, {stock[0]['calls']}"]
        for key in MEASURES:
            mean, half = paired_interval(by_picture(ours, key), by_picture(stock, key))
            star = " *" if abs(mean) > half else ""
            cells += [f"{np.mean([r[key] for r in ours]):.3g}", f"{mean:+.3f} ± {half:.3f}{star}"]
        lines.append("| " + " | ".join([*cells, f"{np.mean([r['seam_truth'] for r in ours]):.3f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    opts = parser.parse_args()
    target = CheckpointTarget(AVATARS)
    cases, rows = Cases(target, "heldout", opts.images, opts.seeds, ["half"]), []
    for name in tqdm(driven(), unit="sampler"):
        for method, settings in METHODS.items():
            parts = [slice(i, i + target.batch) for i in range(0, len(cases.index), target.batch)]
            made = [drawn(target, (False, name, settings), opts.steps, cases, part, "simple") for part in parts]
            head = {"task": "inpaint", "model": target.name, "method": method, "preset": name, "calls": made[0][1]}
            rows += [head | row for row in measure(target, cases, np.concatenate([pictures for pictures, _ in made]))]
    reading = "Means over pictures and seeds; differences ± half the 95 % interval over pictures; * excludes 0."
    write(opts.out, "samplers", report.heading("samplers", opts, target.notes), rows, f"{reading}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
