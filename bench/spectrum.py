"""The spectrum of the denoisers' Jacobians, and the step length that it allows against the one that is used.

    python dev.py bench spectrum --out DIR [--models emoji emoji-flow mnist fashion FILE.safetensors] [--images 2]

No matrix is formed: SciPy's Arnoldi and Lanczos iterations (`eigs`, `svds`) ask for products J v (forward differences)
and J^T v alone. Steps x <- x + c J e turn the error of a mask M into (I - c M J J M) e, to first order: it shrinks if
|1 - c mu| < 1 for all eigenvalues mu of M J J M, so if c < 2 Re(mu) / |mu|^2; for a symmetric J that is 2 / mu_max.
Used is c = lambda nu / max|J e|, lambda .5 in the first of the published five steps, .1 in the last. Half masks. Writes
spectrum.json, spectrum.md, spectrum.png.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import report
import torch
from inside import View, add_models, over_models
from jacobian import DELTA, half_error, plot, table, write
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
    nu, x = view.scales(sigma).nu, view.noisy(view.other[i : i + 1], sigma, seed=i)
    x0, jtv = view.transposed(x, sigma)

    @torch.no_grad()
    def jv(v: Tensor) -> Tensor:
        return difference_product(view.at(sigma), x, x0, v, DELTA * nu)

    e = half_error(view, i, x0)
    known = torch.zeros_like(x)
    known[..., : x.shape[-1] // 2] = 1
    mu = leading(operator(lambda v: known * jv(jv(known * v)), x), LEADING)
    eigenvalues, largest = leading(operator(jv, x), LEADING), max_abs(jv(e)).item()
    return {
        "task": "spectrum", "model": view.name, "guidance": view.guidance, "noise": ratio, "image": view.names[i],
        "radius": float(abs(eigenvalues[0])), "norm": spectral_norm(operator(jv, x, jtv)),
        "imaginary": float(np.max(abs(eigenvalues.imag) / abs(eigenvalues))),
        "eigenvalues": [f"{v:.3g}" for v in eigenvalues], "mask_eigenvalues": [f"{v:.3g}" for v in mu],
        "step_allowed": allowed_step(mu), "step_first": 0.5 * nu / largest, "step_last": 0.1 * nu / largest,
        "used_over_allowed": 0.5 * nu / largest / allowed_step(mu) if allowed_step(mu) else None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--noise", type=float, nargs="+", default=list(NOISE))
    add_models(parser, ["emoji", "emoji-flow", "mnist", "fashion"])
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
    }  # fmt: skip
    parts = [f"{title}:\n\n{table(rows, key)}" for key, title in titles.items()]
    body = "\n\n".join(["Means over pictures ± standard deviation; noise is that over signal, s / alpha.", *parts])
    write(opts.out, "spectrum", report.heading("spectrum", opts, {}), rows, body)
    plot(rows, {k: titles[k] for k in ("radius", "norm", "step_allowed", "step_first")}, opts.out / "spectrum.png")


if __name__ == "__main__":
    main()
