"""What a constraint is: it names the movement of x0 that would satisfy it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .denoiser import unit_max


class Constraint(Protocol):
    """Anything that can point from an estimate to where the constraint holds."""

    def error(self, x0: Tensor, sigma: float) -> Tensor | None:
        """Error direction e in x0 space, of the shape of `x0`; zero where the constraint holds.

        Only its direction matters to the step; its rms is what is reported and held against a residual target, unless
        the constraint has a `wish`. None: the constraint is silent at this noise level, so no call is spent on it.
        """
        ...


def residual(e: Tensor) -> Tensor:
    """How far each sample is from its constraint: rms of e over the elements that e speaks of (not 0), (B,)."""
    spoken = (e != 0).flatten(1).sum(1).clamp(min=1)
    return (e.square().flatten(1).sum(1) / spoken).sqrt()


class Wish(NamedTuple):
    """What a constraint asks of an estimate x0.

    Attributes:
        e: error direction, see `Constraint.error`.
        residual: how far each sample is from the constraint, in its own units, (B,).
        movement: gives that of x0 with which x0 + movement satisfies the constraint; None where only a direction, e,
            is known. Asked for only where it is made use of, since it may take passes of a VAE.
        partial: the movement satisfies some terms of a sum only.
    """

    e: Tensor
    residual: Tensor
    movement: Callable[[], Tensor] | None = None
    partial: bool = False

    def only(self, samples: Tensor) -> "Wish":
        """Nothing for samples that are False, (B,)."""
        keep = samples.reshape(-1, *(1,) * (self.e.ndim - 1))
        movement = self.movement
        return self._replace(e=self.e * keep, movement=movement and (lambda: movement() * keep))


def wish_of(constraint: Constraint, x0: Tensor, sigma: float) -> Wish | None:
    """By the constraint's own `wish`, if it knows more than its error."""
    if hasattr(constraint, "wish"):
        return constraint.wish(x0, sigma)
    e = constraint.error(x0, sigma)
    return None if e is None else Wish(e, residual(e))


def residual_at(constraint: Constraint, x0: Tensor, sigma: float) -> Tensor | None:
    """The residual at x0 (B,), or None; by the constraint's `measure`, if it knows a cheaper way."""
    if hasattr(constraint, "measure"):
        return constraint.measure(x0, sigma)
    wish = wish_of(constraint, x0, sigma)
    return None if wish is None else wish.residual


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

    Its residual is the largest of its active terms, its movement the weighted mean of those that are known.
    """

    terms: tuple[Term, ...]

    def active(self, sigma: float) -> list[Term]:
        return [t for t in self.terms if t.weight > 0 and t.sigma_end <= sigma <= t.sigma_start]

    def measure(self, x0: Tensor, sigma: float) -> Tensor | None:
        sizes = [residual_at(t.constraint, x0, sigma) for t in self.active(sigma)]
        sizes = [size for size in sizes if size is not None]
        return torch.stack(sizes).amax(0) if sizes else None

    def wish(self, x0: Tensor, sigma: float) -> Wish | None:
        wishes = [(t.weight, wish_of(t.constraint, x0, sigma)) for t in self.active(sigma)]
        wishes = [(weight, wish) for weight, wish in wishes if wish is not None]
        if len(wishes) < 2:
            return wishes[0][1] if wishes else None
        e = sum(weight * unit_max(wish.e) for weight, wish in wishes)
        known = [(weight, wish.movement) for weight, wish in wishes if wish.movement is not None]
        total = sum(a for a, _ in known)
        movement = (lambda: sum(a * m() for a, m in known) / total) if known else None
        residuals = torch.stack([wish.residual for _, wish in wishes])
        return Wish(e, residuals.amax(0), movement, partial=len(known) < len(wishes))

    def error(self, x0: Tensor, sigma: float) -> Tensor | None:
        wish = self.wish(x0, sigma)
        return wish and wish.e
