"""Steps of x at one noise level along J e, J^T e and the exact Newton direction, side by side."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .denoiser import max_abs
from .jacobian import Function, difference_product, exact_step

# From x, its estimate x0 and the error direction e to a direction in x.
Direction = Callable[[Tensor, Tensor, Tensor], Tensor]
# From x to the map from v to J^T v there.
Transposed = Callable[[Tensor], Function]


def along_je(x0_at: Function, step: float) -> Direction:
    """J e by a forward difference; see `difference_product`."""
    return lambda x, x0, e: difference_product(x0_at, x, x0, e, step)


def along_jte(transposed: Transposed) -> Direction:
    """J^T e, minus half the gradient of |e|^2."""
    return lambda x, x0, e: transposed(x)(e)


def along_exact(rows_at: Function, weights: Tensor, cutoff: float = 0.1) -> Direction:
    """See `exact_step`; one picture at a time, `rows_at` maps x to the rows of J there."""
    return lambda x, x0, e: exact_step(rows_at(x), weights, e, cutoff)


def follow(
    direction: Direction,
    x0_at: Function,
    x: Tensor,
    error: Function,
    rates: Sequence[float],
    nu: float,
    longest: float = torch.inf,
) -> list[Tensor]:
    """The estimates before the first step and after each, x <- x + min(rate nu / max|d|, longest) d.

    Args:
        error: x0 to e.
        rates: lambda of each step.
        nu: standard deviation of the noisy input.
        longest: most multiple of d; 1 for an exact Newton direction.
    """
    estimates = [x0_at(x)]
    for rate in rates:
        d = direction(x, estimates[-1], error(estimates[-1]))
        largest = max_abs(d)
        x = x + (rate * nu / torch.where(largest > 0, largest, 1.0)).clamp(max=longest) * d
        estimates.append(x0_at(x))
    return estimates
