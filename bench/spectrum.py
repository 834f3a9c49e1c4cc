"""The spectrum of the denoisers' Jacobians, and the step length that it allows against the one that is used.

    python dev.py bench spectrum --out DIR [--models avatars mnist fashion FILE.safetensors] [--images 2]

No matrix is formed: SciPy's Arnoldi and Lanczos iterations (`eigs`, `svds`) ask for products J v (forward differences)
and J^T v alone. Steps x <- x + c J e turn the error of a mask M into (I - c M J J M) e, to first order: it shrinks if
|1 - c mu| < 1 for all eigenvalues mu of M J J M, so if c < 2 Re(mu) / |mu|^2; for a symmetric J that is 2 / mu_max.
Used is c = lambda nu / max|J e|, lambda .5 in the first of the published five steps, .1 in the last. Half masks. All
figures are for x / alpha (noise s / alpha on pictures of scale 1), in which families of models compare: alpha J, and
c / alpha^2. Writes spectrum.json, spectrum.md, spectrum.png.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import report
import torch
from inside import View, add_models, over_models
from jacobian import DELTA, half_error, table, write
from scipy.sparse.linalg import LinearOperator, eigs, svds
from torch import Tensor
from tqdm import tqdm

from newton_pack.sampler.denoiser import max_abs  # isort: skip
from newton_pack.sampler.jacobian import Function, difference_product  # isort: skip

NOISE = (0.5, 2.0)
LEADING = 4
TOLERANCE = 0.02


def operator(product: Function, like: Tensor, transposed: Function | None = None) -> LinearOperator:
    """A map of tensors of the shape of `like` as one of vectors."""

    def of_vectors(f: Function) -> Callable[[np.ndarray], np.ndarray]:
        return lambda v: f(torch.from_numpy(v).to(like).reshape(like.shape)).double().flatten().numpy()

    size = (like.numel(), like.numel())
    return LinearOperator(size, of_vectors(product), transposed and of_vectors(transposed), dtype=np.float64)


def leading(a: LinearOperator, count: int) -> np.ndarray:
    """The eigenvalues of largest magnitude, complex, largest first."""
    start = np.random.default_rng(0).standard_normal(a.shape[0])
    found = eigs(a, count, v0=start, tol=TOLERANCE, return_eigenvectors=False)
    return found[np.argsort(-abs(found))]


def spectral_norm(a: LinearOperator) -> float:
    start = np.random.default_rng(0).standard_normal(a.shape[0])
    return float(svds(a, 1, v0=start, tol=TOLERANCE, return_singular_vectors=False)[0])


def allowed_step(mu: np.ndarray) -> float:
    """The largest c for which all |1 - c mu| <= 1; 0 where an eigenvalue has a negative real part."""
    return float(np.min(np.clip(2 * mu.real / abs(mu) ** 2, 0, None)))


def measure(view: View, i: int, ratio: float) -> dict:
    """One row: picture i at one noise level."""
    sigma = view.sigma_at(ratio)
    alpha, nu = view.scales(sigma).alpha, view.scales(sigma).nu
    x = view.noisy(view.other[i : i + 1], sigma, seed=i)
    x0, jtv = view.transposed(x, sigma)

    @torch.no_grad()
    def jv(v: Tensor) -> Tensor:
        return difference_product(view.at(sigma), x, x0, v, DELTA * nu)

    known = torch.zeros_like(x)
    known[..., : x.shape[-1] // 2] = 1
    mu = alpha**2 * leading(operator(lambda v: known * jv(jv(known * v)), x), LEADING)
    eigenvalues, largest = alpha * leading(operator(jv, x), LEADING), max_abs(jv(half_error(view, i, x0))).item()
    first, allowed = 0.5 * nu / largest / alpha**2, allowed_step(mu)
    return {
        "task": "spectrum", "model": view.name, "guidance": view.guidance, "noise": ratio, "image": view.names[i],
        "radius": float(abs(eigenvalues[0])), "norm": alpha * spectral_norm(operator(jv, x, jtv)),
        "imaginary": float(np.max(abs(eigenvalues.imag) / abs(eigenvalues))),
        "eigenvalues": [f"{v:.3g}" for v in eigenvalues], "mask_eigenvalues": [f"{v:.3g}" for v in mu],
        "step_allowed": allowed, "step_first": first, "step_last": first / 5,
        "used_over_allowed": first / allowed if allowed else None,
    }  # fmt: skip


def plot(rows: list[dict], file: Path) -> None:
    """Leading eigenvalues, and the steps used and allowed, a line for each model, guidance and noise level."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cases = list(dict.fromkeys((r["model"], r["guidance"], r["noise"]) for r in rows))[::-1]
    figure, axes = plt.subplots(1, 2, figsize=(13, 1 + 0.4 * len(cases)), layout="constrained", sharey=True)
    for k, case in enumerate(cases):
        for row in (r for r in rows if (r["model"], r["guidance"], r["noise"]) == case):
            sizes = [abs(complex(v)) for v in row["eigenvalues"]]
            axes[0].plot(sizes, [k] * len(sizes), "o", color="#1f5fa8", alpha=0.5)
            axes[0].plot(row["norm"], k, "|", color="#c03030", ms=14)
            axes[1].plot(row["step_allowed"], k, "|", color="#c03030", ms=14)
            axes[1].plot([row["step_last"], row["step_first"]], [k, k], "-o", color="#1f5fa8", alpha=0.5)
    axes[0].set(title="leading |eigenvalues| of J; red: spectral norm")
    axes[1].set(title="step c, lambda .1 to .5; red: the longest that converges", xscale="log")
    axes[0].set_yticks(range(len(cases)), [f"{m}, {g}, noise {n:g}" for m, g, n in cases])
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=75)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--noise", type=float, nargs="+", default=list(NOISE))
    add_models(parser, ["avatars", "mnist", "fashion"])
    opts = parser.parse_args()
    rows: list[dict] = []
    with tqdm(unit="case") as bar:

        def work(view: View) -> None:
            bar.set_description(f"{view.name}, {view.guidance}")
            for i in range(len(view.z)):
                for ratio in opts.noise:
                    rows.append(measure(view, i, ratio))
                    bar.update()

        over_models(opts, opts.images, work)
    titles = {
        "radius": "Largest |eigenvalue| of J", "norm": "Spectral norm of J",
        "imaginary": f"Largest |Im| / |eigenvalue| among the {LEADING} leading ones",
        "step_allowed": "Step c that the theory allows", "step_first": "Step c of lambda .5",
        "used_over_allowed": "The one over the other",
    }  # fmt: skip
    parts = [f"{title}:\n\n{table(rows, key)}" for key, title in titles.items()]
    body = "\n\n".join(
        [
            "Means over pictures ± standard deviation; noise is that over signal, s / alpha; J and c for x / alpha.",
            *parts,
        ]
    )
    write(opts.out, "spectrum", report.heading("spectrum", opts, {}), rows, body)
    plot(rows, opts.out / "spectrum.png")


if __name__ == "__main__":
    main()
