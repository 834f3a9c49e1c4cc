"""What a constraint is: it names the movement of x0 that would satisfy it."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .denoiser import unit_max


class Constraint(Protocol):
    """Anything that can point from an estimate to where the constraint holds."""

    def error(self, x0: Tensor, sigma: float) -> Tensor | None:
        """Error direction e in x0 space, of the shape of `x0`; zero where the constraint holds.

        Only its direction matters to the step; its length is what is reported and held against a residual target,
        see `residual`. None: the constraint is silent at this noise level, so no call is spent on it.
        """
        ...


def residual(e: Tensor) -> Tensor:
    """How far each sample is from its constraint: rms of e over the elements that e speaks of (not 0), (B,)."""
    spoken = (e != 0).flatten(1).sum(1).clamp(min=1)
    return (e.square().flatten(1).sum(1) / spoken).sqrt()


def with_residual(e: Tensor, size: Tensor) -> Tensor:
    """e scaled so that `residual(e)` is `size` (B,); zero stays zero."""
    rms = residual(e)
    scale = size / torch.where(rms > 0, rms, 1.0)
    return e * scale.reshape(-1, *(1,) * (e.ndim - 1))


def residual_at(constraint: Constraint, x0: Tensor, sigma: float) -> Tensor | None:
    """The residual that the error at x0 has (B,), or None; by the constraint's `measure`, if it knows a cheaper way."""
    if hasattr(constraint, "measure"):
        return constraint.measure(x0, sigma)
    e = constraint.error(x0, sigma)
    return None if e is None else residual(e)


@dataclass(frozen=True)
class Term:
    """One summand of a `WeightedSum`, active while sigma_end <= sigma <= sigma_start."""

    constraint: Constraint
    weight: float = 1.0
    sigma_start: float = float("inf")
    sigma_end: float = 0.0


@dataclass(frozen=True)
class WeightedSum:
    """e = sum_i a_i e_i / max|e_i|, per sample. J is linear, so one perturbation serves all of them.

    Its residual is the largest of its active terms.
    """

    terms: tuple[Term, ...]

    def active(self, sigma: float) -> list[Term]:
        return [t for t in self.terms if t.weight > 0 and t.sigma_end <= sigma <= t.sigma_start]

    def measure(self, x0: Tensor, sigma: float) -> Tensor | None:
        sizes = [residual_at(t.constraint, x0, sigma) for t in self.active(sigma)]
        sizes = [size for size in sizes if size is not None]
        return torch.stack(sizes).amax(0) if sizes else None

    def error(self, x0: Tensor, sigma: float) -> Tensor | None:
        errors = [(t.weight, t.constraint.error(x0, sigma)) for t in self.active(sigma)]
        errors = [(weight, e) for weight, e in errors if e is not None]
        if not errors:
            return None
        largest = torch.stack([residual(e) for _, e in errors]).amax(0)
        return with_residual(sum(weight * unit_max(e) for weight, e in errors), largest)
