"""Steps along J e against those along the gradient J^T e, and the exact Newton direction, from the same noisy picture.

    python dev.py bench directions --out DIR [--models avatars mnist fashion FILE.safetensors] [--seeds 6]

Latent models: a grid with noise, one of whose crossings is to become a red square; five steps. Does the red appear at
the other crossings? `share` is what of the squared change of x0 away from the square lies at other crossings (chance:
their share of the area), `painted` how far a crossing has come towards red, 1 = all the way. Small pixel models: the
left half of a digit or garment is to become that of another one; residual, and feature distance to the true picture, by
step. Writes directions.json, directions.md, directions.png and a sheet for every latent model.
"""

import argparse
from pathlib import Path

import numpy as np
import report
import torch
from inside import View, add_models, no_grad, over_models
from jacobian import DELTA, write
from metrics import paired_interval
from red_grid import run_grid
from scipy.stats import t as student
from targets import DEMO
from torch import Tensor
from tqdm import tqdm

from newton_pack.sampler.directions import along_exact, along_je, along_jte, follow  # isort: skip

SHOWN = (0, 1, 2, 3, 5)
METHODS = {"ours": "J e", "gradient": "Jᵀ e", "exact": "exact"}


def known_rows_at_once(view: View, x: Tensor, sigma: float, known: Tensor) -> Tensor:
    """The rows of J (k, n) of known elements, in one batched backward pass."""
    z = x.clone().requires_grad_()
    with torch.enable_grad():
        x0 = view.at(sigma)(z)
    ones = torch.eye(known.numel())[known.flatten() > 0].reshape(-1, *x.shape)
    return torch.autograd.grad(x0, z, ones, is_grads_batched=True)[0].flatten(1)


def step_rows(view: View, i: int, ratio: float, steps: int) -> list[dict]:
    """All three directions on one picture: residual and feature distance by step."""
    sigma, y = view.sigma_at(ratio), view.z[i : i + 1]
    nu, x = view.scales(sigma).nu, view.noisy(view.other[i : i + 1], sigma, seed=i)
    known = torch.zeros_like(y)
    known[..., : y.shape[-1] // 2] = 1
    x0_at = no_grad(view.at(sigma))
    directions = {
        "ours": along_je(x0_at, DELTA * nu),
        "gradient": along_jte(lambda x: view.transposed(x, sigma)[1]),
        "exact": along_exact(lambda x: known_rows_at_once(view, x, sigma, known), known),
    }
    rates, rows = np.linspace(0.5, 0.1, steps), []
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
    return rows


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
        parts += ["Residual (rms, pixels in [-1, 1]):", step_table(by_step, "residual")]
        parts += ["Feature distance of the estimate to the true picture:", step_table(by_step, "feature_distance")]
        parts += [paired, paired_table(by_step, ("residual", "feature_distance"), step=max(SHOWN))]
    return "\n\n".join(parts)


def plot(rows: list[dict], file: Path) -> None:
    """Residual and feature distance over steps, a panel for each model and noise level."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = list(dict.fromkeys((r["model"], r["noise"]) for r in rows))
    figure, axes = plt.subplots(2, len(panels), figsize=(3.4 * len(panels), 7), layout="constrained", squeeze=False)
    for column, (model, noise) in enumerate(panels):
        for axis, key in zip(axes[:, column], ("residual", "feature_distance"), strict=True):
            for method, name in METHODS.items():
                found = [interval(pick(rows, key, model=model, noise=noise, method=method, step=k)) for k in SHOWN]
                mean, half = zip(*found, strict=True)
                axis.errorbar(SHOWN, mean, half, marker="o", capsize=3, label=name)
            axis.set(xlabel="step", title=f"{key.replace('_', ' ')}, {model}, noise {noise:g}")
            axis.grid(alpha=0.3)
    axes[0, 0].legend()
    figure.savefig(file, dpi=65)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=6, help="of the grid")
    parser.add_argument("--images", type=int, default=8, help="digits and garments")
    parser.add_argument("--size", type=int, default=128, help="of the grid in pixels, a multiple of 128")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.5, 2.0])
    add_models(parser, ["avatars", "mnist", "fashion"])
    opts = parser.parse_args()
    opts.out.mkdir(parents=True, exist_ok=True)
    head, rows = report.heading("directions", opts, {}), []
    small = [m for m in opts.models if m in ("mnist", "fashion")]
    with tqdm(unit="case") as bar:
        for model in (m for m in opts.models if m not in small):
            rows += run_grid(DEMO.get(model, Path(model)), opts, bar)

        def work(view: View) -> None:
            bar.set_description(view.name)
            for ratio in opts.noise:
                for i in range(len(view.z)):
                    rows.extend(step_rows(view, i, ratio, max(SHOWN)))
                    bar.update()

        opts.models = small
        over_models(opts, opts.images, work)
    if by_step := [r for r in rows if r["task"] == "steps"]:
        plot(by_step, opts.out / "directions.png")
    write(opts.out, "directions", head, rows, body(rows))


if __name__ == "__main__":
    main()
