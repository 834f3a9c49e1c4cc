"""How far the denoisers' Jacobians are from symmetric, by noise level, with and without guidance.

    python dev.py bench jacobian --out DIR [--models avatars mnist fashion FILE.safetensors] [--images 3]

Asymmetry is |J - J^T| / |J| in the Frobenius norm, by products with random vectors (J v by forward differences, J^T v
by backpropagation): 0 for an ideal denoiser, sqrt 2 for two unrelated matrices. The cosine is that of the method's
direction J e with the gradient's, J^T e, for the error of a half mask at another picture with noise. Writes
jacobian.json, jacobian.md, jacobian.png.
"""

import argparse
from pathlib import Path

import numpy as np
import report
import torch
import torch.nn.functional as F
from inside import View, add_models, over_models
from torch import Tensor
from tqdm import tqdm

from newton_pack.sampler.jacobian import Products, difference_product, frobenius_asymmetry, norm  # isort: skip

NOISE = (0.1, 0.3, 1.0, 3.0, 8.0)
DELTA = 0.005


def half_error(view: View, i: int, x0: Tensor) -> Tensor:
    """e = M (y - x0) of picture i, whose left half is known."""
    mask = torch.zeros_like(x0)
    mask[..., : x0.shape[-1] // 2] = 1
    return mask * (view.z[i : i + 1] - x0)


@torch.no_grad()
def measure(view: View, i: int, ratio: float, probes: int) -> dict:
    """One row: picture i at one noise level."""
    sigma = view.sigma_at(ratio)
    x = view.noisy(view.other[i : i + 1], sigma, seed=i)
    x0, jtv = view.transposed(x, sigma)
    alpha, step = view.scales(sigma).alpha, DELTA * view.scales(sigma).nu

    def products(v: Tensor) -> Products:
        return Products(difference_product(view.at(sigma), x, x0, v, step), jtv(v))

    generator = torch.Generator().manual_seed(i)
    found = [products(torch.randn(x.shape, generator=generator)) for _ in range(probes)]
    along = products(half_error(view, i, x0))
    return {
        "task": "jacobian", "model": view.name, "guidance": view.guidance, "noise": ratio, "image": view.names[i],
        "asymmetry": frobenius_asymmetry(found).item(),
        "asymmetry_spread": float(np.std([p.asymmetry().item() for p in found], ddof=1)),
        "asymmetry_error": along.asymmetry().item(),
        "cosine": F.cosine_similarity(along.jv.flatten(), along.jtv.flatten(), 0).item(),
        "size": float(alpha * np.mean([norm(p.jv).item() for p in found]) / x.numel() ** 0.5),
    }  # fmt: skip


def groups(rows: list[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(f"{row['model']}, {row['guidance']}", []).append(row)
    return found


def by_noise(rows: list[dict], key: str) -> dict[float, tuple[float, float]]:
    """Mean and standard deviation over pictures of each noise level."""
    levels = sorted({r["noise"] for r in rows})
    values = {n: [r[key] for r in rows if r["noise"] == n] for n in levels}
    return {n: (float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else 0.0) for n, v in values.items()}


def table(rows: list[dict], key: str) -> str:
    levels = sorted({r["noise"] for r in rows})
    lines = ["| model | " + " | ".join(f"noise {n:g}" for n in levels) + " |", "|---|" + "---|" * len(levels)]
    for name, part in groups(rows).items():
        found = by_noise(part, key)
        lines.append(f"| {name} | " + " | ".join(f"{found[n][0]:.2f} ± {found[n][1]:.2f}" for n in levels) + " |")
    return "\n".join(lines)


def plot(rows: list[dict], keys: dict[str, str], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(keys), figsize=(6 * len(keys), 5), layout="constrained")
    for axis, (key, title) in zip(np.atleast_1d(axes), keys.items(), strict=True):
        for k, (name, part) in enumerate(groups(rows).items()):
            found = by_noise(part, key)
            mean, spread = zip(*found.values(), strict=True)
            axis.errorbar(list(found), mean, spread, marker="os^vD<>pP*Xh"[k % 12], capsize=3, label=name)
        axis.set(xscale="log", xlabel="noise over signal", title=title)
        axis.grid(alpha=0.3)
    figure.legend(*np.atleast_1d(axes)[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(file, dpi=75)
    plt.close(figure)


def write(out: Path, name: str, head: dict, rows: list[dict], body: str) -> None:
    """JSON and Markdown of a benchmark with tables of its own."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(report.as_lines(head, rows), encoding="utf-8")
    text = f"`{head['command']}`, {head['date']}\n\n{body}\n"
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--noise", type=float, nargs="+", default=list(NOISE))
    add_models(parser, ["avatars", "mnist", "fashion"])
    opts = parser.parse_args()
    rows: list[dict] = []

    with tqdm(unit="case") as bar:

        def work(view: View) -> None:
            bar.set_description(f"{view.name}, {view.guidance}")
            for i in range(len(view.z)):
                for ratio in opts.noise:
                    rows.append(measure(view, i, ratio, opts.probes))
                    bar.update()

        over_models(opts, opts.images, work)
    keys = {"asymmetry": "|J - Jᵀ| / |J|", "cosine": "cosine of J e with Jᵀ e"}
    body = (
        "Means over pictures ± standard deviation; noise is that over signal, s / alpha.\n\n"
        f"Asymmetry |J - Jᵀ| / |J|:\n\n{table(rows, 'asymmetry')}\n\n"
        f"Cosine of J e with Jᵀe, e the error of a half mask:\n\n{table(rows, 'cosine')}"
    )
    write(opts.out, "jacobian", report.heading("jacobian", opts, {}), rows, body)
    plot(rows, keys, opts.out / "jacobian.png")


if __name__ == "__main__":
    main()
