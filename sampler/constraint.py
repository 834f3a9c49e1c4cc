"""What a constraint is: it names the movement of x0 that would satisfy it."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .denoiser import unit_max


class Constraint(Protocol):
    """Anything that can point from an estimate to where the constraint holds."""

    def error(self, x0: Tensor, sigma: float) -> Tensor:
        """Error direction e in x0 space, of the shape of `x0`; zero where the constraint holds or is silent.

        Only its direction matters to the step, not its length.
        """
        ...


@dataclass(frozen=True)
class Term:
    """One summand of a `WeightedSum`, active while sigma_end <= sigma <= sigma_start."""

    constraint: Constraint
    weight: float = 1.0
    sigma_start: float = float("inf")
    sigma_end: float = 0.0


@dataclass(frozen=True)
class WeightedSum:
    """e = sum_i a_i e_i / max|e_i|, per sample. J is linear, so one perturbation serves all of them."""

    terms: tuple[Term, ...]

    def error(self, x0: Tensor, sigma: float) -> Tensor:
        e = torch.zeros_like(x0)
        for term in self.terms:
            if term.sigma_end <= sigma <= term.sigma_start:
                e = e + term.weight * unit_max(term.constraint.error(x0, sigma))
        return e
