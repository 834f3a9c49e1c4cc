"""The denoiser's Jacobian J = dx0/dx at one noise level, seen through its products with vectors.

An ideal denoiser has J = alpha Cov(x0 | x) / s^2, which is symmetric: J v = J^T v. That of a trained network is not
(arXiv 2410.18804, section 3.2).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .denoiser import max_abs, unit_max

Function = Callable[[Tensor], Tensor]


class Products(NamedTuple):
    """J v and J^T v of one vector v, each of the shape of x, (B, C, ..., H, W)."""

    jv: Tensor
    jtv: Tensor

    @property
    def symmetric(self) -> Tensor:
        """(J + J^T) v / 2."""
        return (self.jv + self.jtv) / 2

    @property
    def skew(self) -> Tensor:
        """(J - J^T) v / 2."""
        return (self.jv - self.jtv) / 2

    def asymmetry(self) -> Tensor:
        """|J v - J^T v| / |J v| of each sample, (B,): 0 for a symmetric J, 2 for a skew one, 0 where both vanish."""
        difference, size = 2 * norm(self.skew), norm(self.jv)
        return torch.where(difference > 0, difference / size, 0.0)


class SavedCopies(torch.autograd.graph.saved_tensors_hooks):
    """A context in which autograd keeps copies of activations, and counts them.

    Some networks add to an activation in place after a layer has saved it, which autograd refuses otherwise.

    Attributes:
        nbytes: of the copies so far.
    """

    def __init__(self):
        super().__init__(self.keep, lambda t: t)
        self.nbytes = 0

    def keep(self, t: Tensor) -> Tensor:
        if t.is_leaf:  # weights, and what does not depend on x
            return t
        self.nbytes += t.nbytes
        return t.clone()


def norm(t: Tensor) -> Tensor:
    """Euclidean norm of each sample, (B,)."""
    return t.flatten(1).norm(dim=1)


def difference_product(f: Function, x: Tensor, x0: Tensor, v: Tensor, step: float) -> Tensor:
    """J v by a forward difference: one call of f, x0 = f(x). v = 0 gives 0.

    Args:
        step: largest element of the perturbation, in units of x: delta * nu.
    """
    return (f(x + step * unit_max(v)) - x0) * (max_abs(v) / step)


def exact_product(f: Function, x: Tensor, v: Tensor) -> Tensor:
    """J v by forward-mode automatic differentiation: one call of f at about twice its cost."""
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x, v))).tangent
    return torch.zeros_like(x) if tangent is None else tangent


def transposed(f: Function, x: Tensor) -> tuple[Tensor, Function]:
    """x0 = f(x), and the map from v to J^T v, a backward pass each; their graph lives as long as the map."""
    with torch.enable_grad(), SavedCopies():
        z = x.detach().clone().requires_grad_()
        x0 = f(z)

    def product(v: Tensor) -> Tensor:
        return torch.autograd.grad(x0, z, v, retain_graph=True)[0]

    return x0.detach(), product


def known_rows(product: Function, weights: Tensor) -> Tensor:
    """The rows of J, (k, n), that belong to the k elements of x0 with a weight above 0; `product` gives J^T v.

    Args:
        weights: (1, C, ..., H, W), n elements.
    """
    places = weights.flatten().nonzero().flatten()
    rows = []
    for place in places:
        v = torch.zeros_like(weights).flatten()
        v[place] = 1
        rows.append(product(v.reshape(weights.shape)).flatten())
    return torch.stack(rows)


def frobenius_asymmetry(probes: list[Products]) -> Tensor:
    """|J - J^T|_F / |J|_F of each sample, (B,), estimated from products with independent random vectors.

    E |A v|^2 = |A|_F^2 for v of independent elements with mean 0 and variance 1 (Hutchinson 1990).
    """
    difference, whole = (
        torch.stack([norm(t).square() for t in products]).sum(0)
        for products in ([2 * p.skew for p in probes], [p.jv for p in probes])
    )
    return (difference / whole).sqrt()


def exact_step(rows: Tensor, weights: Tensor, e: Tensor, cutoff: float) -> Tensor:
    """The Newton step of W x0(x) = W y: the smallest step with W J step = e, (1, C, ..., H, W), by least squares.

    Args:
        rows: those of J that belong to known elements (k, n), see `known_rows`.
        weights: W (1, C, ..., H, W).
        e: W (y - x0).
        cutoff: singular values below this share of the largest count as 0.
    """
    known = weights.flatten() > 0
    weighted = weights.flatten()[known, None] * rows
    target = e.flatten()[known, None]
    found = torch.linalg.lstsq(weighted.double().cpu(), target.double().cpu(), rcond=cutoff, driver="gelsd").solution
    return found.to(e).reshape(e.shape)
