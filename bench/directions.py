"""Steps along J e against those along the gradient J^T e, and the exact Newton direction, from the same noisy picture.

    python dev.py bench directions --out DIR [--models emoji emoji-flow mnist fashion FILE.safetensors] [--seeds 6]

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
from inside import NO_GUIDANCE, View, add_models, over_models
from jacobian import DELTA, write
from pack import sampler
from PIL import Image, ImageDraw
from scipy.stats import t as student
from targets import EMOJI, FLOW, CheckpointTarget
from torch import Tensor
from tqdm import tqdm

from newton_pack.sampler.directions import along_exact, along_je, along_jte, follow  # isort: skip

CELLS = 16  # of the grid's latent, across; a square is 2 x 2 of them, every fourth pair is a crossing
CROSSINGS = [(i, j) for i in range(4) for j in range(4)]
SQUARE = (1, 1)  # the one that is to become red
STEPS = sampler.PRESETS["paper"].rates()
SHOWN = (0, 1, 2, 3, 5)
METHODS = {"ours": "J e", "gradient": "Jᵀ e", "exact": "exact"}


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


def no_grad(f):
    def wrapped(x: Tensor) -> Tensor:
        with torch.no_grad():
            return f(x)

    return wrapped


def run_grid(file: Path, opts: argparse.Namespace, bar: tqdm) -> list[dict]:
    """All rows of a checkpoint, and its sheet: the first seed at every noise level."""
    from inside import inspect

    target, rows, lines = CheckpointTarget(file, opts.folder), [], []
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
    sheet.save(opts.out / f"directions_{target.name.removeprefix('ncs_')}.jpg", quality=85)
    return rows


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
    figure.savefig(file, dpi=80)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=6, help="of the grid")
    parser.add_argument("--images", type=int, default=8, help="digits and garments")
    parser.add_argument("--size", type=int, default=128, help="of the grid in pixels, a multiple of 128")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.5, 2.0])
    add_models(parser, ["emoji", "emoji-flow", "mnist", "fashion"])
    opts = parser.parse_args()
    opts.out.mkdir(parents=True, exist_ok=True)
    head, rows = report.heading("directions", opts, {}), []
    small = [m for m in opts.models if m in ("mnist", "fashion")]
    with tqdm(unit="case") as bar:
        for model in (m for m in opts.models if m not in small):
            rows += run_grid({"emoji": EMOJI, "emoji-flow": FLOW}.get(model, Path(model)), opts, bar)

        def work(view: View) -> None:
            bar.set_description(view.name)
            for ratio in opts.noise:
                for i in range(len(view.z)):
                    rows.extend(step_rows(view, i, ratio, max(SHOWN)))
                    bar.update()

        opts.models = small
        over_models(opts, opts.images, work)
    on_grid, by_step = ([r for r in rows if r["task"] == task] for task in ("grid", "steps"))
    parts = ["Means ± half the 95 % interval, over seeds of the grid and over pictures."]
    if on_grid:
        parts += ["One red square asked for, five steps:", grid_table(on_grid)]
    if by_step:
        parts += ["Residual (rms, pixels in [-1, 1]):", step_table(by_step, "residual")]
        parts += ["Feature distance of the estimate to the true picture:", step_table(by_step, "feature_distance")]
        plot(by_step, opts.out / "directions.png")
    write(opts.out, "directions", head, rows, "\n\n".join(parts))


if __name__ == "__main__":
    main()
