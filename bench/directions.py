"""Steps along J e against those along the gradient J^T e, and the exact Newton direction, from the same noisy picture.

    python dev.py bench directions --out DIR [--models avatars mnist fashion FILE.safetensors] [--seeds 6]

All models: the left half of a picture with noise is to become that of another one; residual, and feature distance of
the estimate to the true picture, by step; the exact direction where the model is small. Latent models too: a grid with
noise, one of whose crossings is to become a red square. Does the red appear at the other crossings? `share` is what of
the squared change of x0 away from the square lies at other crossings (chance: their share of the area), `painted` how
far a crossing has come towards red, 1 = all the way. Writes directions.json, directions.md, directions.png and two
sheets for every latent model.
"""

import argparse
from pathlib import Path

import numpy as np
import report
from half_steps import METHODS, SHOWN, run_halves
from inside import add_models
from jacobian import write
from metrics import paired_interval
from red_grid import run_grid
from scipy.stats import t as student
from targets import DEMO
from tqdm import tqdm


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student)."""
    n = len(values)
    half = student.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5 if n > 1 else float("nan")
    return float(np.mean(values)), float(half)


def pick(rows: list[dict], key: str, **wanted: object) -> list[float]:
    return [r[key] for r in rows if all(r.get(k) == v for k, v in wanted.items())]


def grid_table(rows: list[dict]) -> str:
    lines = [
        "| model | noise | direction | share at the other crossings | by chance | square painted | others painted | "
        "residual before | after |", "|" + "---|" * 9,
    ]  # fmt: skip
    for model, noise, method in dict.fromkeys((r["model"], r["noise"], r["method"]) for r in rows):
        cells = [model, f"{noise:g}", METHODS[method]]
        for key in ("share", "chance", "painted_square", "painted_others", "residual_before", "residual_after"):
            mean, half = interval(pick(rows, key, model=model, noise=noise, method=method))
            cells.append(f"{mean:.2f}" + (f" ± {half:.2f}" if half > 5e-3 else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def step_table(rows: list[dict], key: str) -> str:
    lines = ["| model | noise | direction | " + " | ".join(f"step {k}" for k in SHOWN) + " |"]
    lines.append("|" + "---|" * (3 + len(SHOWN)))
    for model, noise, method in dict.fromkeys((r["model"], r["noise"], r["method"]) for r in rows):
        found = [interval(pick(rows, key, model=model, noise=noise, method=method, step=k)) for k in SHOWN]
        cells = [model, f"{noise:g}", METHODS[method], *(f"{mean:.2f} ± {half:.2f}" for mean, half in found)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paired_table(rows: list[dict], keys: tuple[str, ...], **last: int) -> str:
    """J e minus the other directions, paired over seeds or pictures, after the last step; * excludes zero."""
    lines = ["| model | noise | J e minus | " + " | ".join(keys) + " |", "|" + "---|" * (3 + len(keys))]
    for model, noise, method in dict.fromkeys((r["model"], r["noise"], r["method"]) for r in rows):
        if method == "ours":
            continue
        cells = [model, f"{noise:g}", METHODS[method]]
        for key in keys:
            ours, other = (pick(rows, key, model=model, noise=noise, method=m, **last) for m in ("ours", method))
            mean, half = paired_interval(ours, other)
            cells.append(f"{mean:+.3g} ± {half:.2g}" + (" *" if abs(mean) > half else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def body(rows: list[dict]) -> str:
    """All tables."""
    on_grid, by_step = ([r for r in rows if r["task"] == task] for task in ("grid", "steps"))
    paired = "Paired differences after the last step, ± half the 95 % interval; * excludes zero:"
    parts = ["Means ± half the 95 % interval, over seeds of the grid and over pictures."]
    if on_grid:
        keys = ("share", "painted_square", "painted_others", "residual_after")
        parts += ["One red square asked for, five steps:", grid_table(on_grid), paired, paired_table(on_grid, keys)]
    if by_step:
        parts += ["Residual (rms; pixels in [-1, 1], or latents):", step_table(by_step, "residual")]
        parts += ["Feature distance of the estimate to the true picture:", step_table(by_step, "feature_distance")]
        parts += [paired, paired_table(by_step, ("residual", "feature_distance"), step=max(SHOWN))]
    return "\n\n".join(parts)


def plot(rows: list[dict], file: Path) -> None:
    """Residual and feature distance over steps; a row of panels a model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    models, noises = (list(dict.fromkeys(r[key] for r in rows)) for key in ("model", "noise"))
    columns = [(key, noise) for key in ("residual", "feature_distance") for noise in noises]
    size = len(models), len(columns)
    figure, axes = plt.subplots(*size, figsize=(2.6 * size[1], 2.4 * size[0]), layout="constrained", squeeze=False)
    for line, model in zip(axes, models, strict=True):
        for axis, (key, noise) in zip(line, columns, strict=True):
            for method in dict.fromkeys(r["method"] for r in rows if r["model"] == model):
                found = [interval(pick(rows, key, model=model, noise=noise, method=method, step=k)) for k in SHOWN]
                mean, half = zip(*found, strict=True)
                axis.errorbar(SHOWN, mean, half, marker="o", ms=4, capsize=3, label=METHODS[method])
            axis.set_title(f"{key.replace('_', ' ')}, noise {noise:g}", fontsize=9)
            axis.grid(alpha=0.3)
        line[0].set_ylabel(model)
    axes[-1, 0].legend()
    figure.supxlabel("step")
    figure.savefig(file, dpi=65)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=6, help="of the grid")
    parser.add_argument("--images", type=int, default=8, help="whose left half is asked for")
    parser.add_argument("--size", type=int, default=128, help="of the grid in pixels, a multiple of 128")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.5, 2.0, 6.0])
    add_models(parser, ["avatars", "mnist", "fashion"])
    opts = parser.parse_args()
    opts.out.mkdir(parents=True, exist_ok=True)
    head, rows = report.heading("directions", opts, {}), []
    with tqdm(unit="case") as bar:
        for model in opts.models:
            if model not in ("mnist", "fashion"):
                rows += run_grid(DEMO.get(model, Path(model)), opts, bar)
        rows += run_halves(opts, bar)
    if by_step := [r for r in rows if r["task"] == "steps"]:
        plot(by_step, opts.out / "directions.png")
    write(opts.out, "directions", head, rows, body(rows))


if __name__ == "__main__":
    main()
