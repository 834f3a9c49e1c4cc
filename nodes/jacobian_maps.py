"""J v and J^T v of a few latent cells at a noise level, and how they are shown."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..sampler import NewtonSettings
from ..sampler.jacobian import Products, difference_product, frobenius_asymmetry, norm
from ..sampler.noise import noise_like, sample_generators
from .comfy_adapter import Inspection, NoGradient
from .heat_map import Cell, draw_sheet, heat, legend, marked, picture_of


class Level(NamedTuple):
    """What was found at one noise level.

    Attributes:
        ratio, sigma: noise over signal, and the host's name for it.
        x0: the estimate (1, C, h, w).
        cells: J v and J^T v for v = the marked cells in each channel; without J^T v its place holds J v.
        probes: the same for random v.
        gain: |J v| / |v| of the marked cells.
        reason: why there is no J^T v; empty where there is.
    """

    ratio: float
    sigma: float
    x0: Tensor
    cells: list[Products]
    probes: list[Products]
    gain: float
    reason: str

    def maps(self) -> list[Tensor]:
        """J v, and where there is a gradient J^T v, symmetric and skew part: norms over channels, (h, w) each."""
        parts = ["jv"] if self.reason else ["jv", "jtv", "symmetric", "skew"]
        return [sum(getattr(p, part)[0].square().sum(0) for p in self.cells).sqrt() for part in parts]

    def asymmetry(self) -> str:
        if self.reason:
            return "unknown"
        return f"{frobenius_asymmetry(self.cells).item():.2f}"

    def spread(self) -> str:
        """Asymmetry over the random probes."""
        if self.reason or not self.probes:
            return "unknown"
        found = torch.stack([p.asymmetry()[0] for p in self.probes])
        return f"{found.mean().item():.2f}" + (f" ± {found.std().item():.2f}" if len(found) > 1 else "")


def channel_vectors(like: Tensor, weights: Tensor) -> list[Tensor]:
    """The marked cells (h, w) in one channel at a time, each of the shape of `like` (1, C, h, w)."""
    eye = torch.eye(like.shape[1], device=like.device)
    return [row[None, :, None, None] * weights.to(like) for row in eye]


def exact_jv(inspection: Inspection, x: Tensor, sigma: float, v: Tensor) -> Tensor:
    try:
        return inspection.exact_product(x, sigma, v)
    except NoGradient as e:
        raise ValueError(
            f"derivative: exact is not possible here ({e}). Set derivative to 'forward difference'."
        ) from None


def look(
    inspection: Inspection, z: Tensor, ratio: float, weights: Tensor, probes: int, exact: bool, seed: int
) -> Level:
    """J v and J^T v at the picture's latent z with noise."""
    sigma = inspection.sigma_at("noise_levels", ratio)
    scales, generators = inspection.scales(sigma), sample_generators(seed, [0])
    x = scales.alpha * z + scales.s * noise_like(z, generators)
    x0_at, step = inspection.at(sigma), inspection.delta(NewtonSettings()) * scales.nu
    x0, reason = x0_at(x), ""
    try:
        jtv: Callable[[Tensor], Tensor] | None = inspection.transposed(x, sigma)[1]
    except NoGradient as e:
        jtv, reason = None, str(e)

    def products(v: Tensor) -> Products:
        jv = exact_jv(inspection, x, sigma, v) if exact else difference_product(x0_at, x, x0, v, step)
        return Products(jv, jtv(v) if jtv else jv)

    marks = channel_vectors(x, weights)
    cells = [products(v) for v in marks]
    gain = (sum(norm(p.jv) ** 2 for p in cells) / sum(norm(v) ** 2 for v in marks)).sqrt().item()
    found = [products(noise_like(z, generators)) for _ in range(probes)]
    return Level(ratio, sigma, x0, cells, found, gain, reason)


def sheet(levels: list[Level], weights: Tensor, decode: Callable[[Tensor], Tensor] | None) -> Tensor:
    """One row of maps a noise level; decode makes the picture (H, W, 3) of an estimate."""
    rows, marks = [], weights.cpu()
    for level in levels:
        maps = level.maps()
        top = max(m.max().item() for m in maps)
        first = marked(picture_of(decode(level.x0)), marks) if decode else heat(marks, 1.0, marks)
        cells = [Cell(first, f"|J v| / |v| = {level.gain:.3g}"), *(Cell(heat(m, top, marks)) for m in maps)]
        cells.append(Cell(legend(top)))
        if not level.reason:
            cells[2] = cells[2]._replace(caption=f"asymmetry {level.asymmetry()}")
            cells[4] = cells[4]._replace(caption=f"asymmetry, random v: {level.spread()}")
        rows.append((f"noise {level.ratio:g} x signal, sigma {level.sigma:.4g}", cells))
    names = ["J v"] if levels[0].reason else ["J v", "J^T v", "symmetric part", "skew part"]
    note = f"No J^T v: {levels[0].reason}." if levels[0].reason else "asymmetry: |J v - J^T v| / |J v|; 0 = symmetric"
    columns = ["estimate x0" if decode else "marked cells", *names]
    return draw_sheet("How the estimate x0 changes with a change v of x in the marked cells", columns, rows, note)


def table(levels: list[Level], notes: list[str]) -> str:
    lines = [
        f"noise {v.ratio:g} x signal (sigma {v.sigma:.4g}): |J v| / |v| {v.gain:.3g}, asymmetry {v.asymmetry()}, over "
        f"random v {v.spread()}"
        for v in levels
    ]
    reasons = sorted({f"No J^T v: {v.reason}." for v in levels if v.reason})
    return "\n".join([*lines, *reasons, *notes])
