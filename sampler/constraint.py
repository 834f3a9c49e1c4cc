"""What a constraint is: it maps an estimate x0 to an update that reduces its violation."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .denoiser import per_sample, unit_max


class Update(NamedTuple):
    """What a constraint asks of an estimate x0 (B, C, ..., H, W).

    Attributes:
        e: error direction in x0 space, of the shape of x0; zero where the constraint holds. Only its direction matters
            to the Newton step.
        residual: violation at x0 in the constraint's unit, (B,); of a sum (T, B), NaN for terms that are inactive.
        x0_step: gives the step of x0 with which x0 + x0_step() satisfies the constraint; None where only a direction
            is known. Called only where it is used, since it may take passes of a VAE.
        incomplete: x0_step satisfies some terms of a sum only.
        soft: x0_step comes nearer to what is asked without a claim to reach it; of a sum it is no part.
    """

    e: Tensor
    residual: Tensor
    x0_step: Callable[[], Tensor] | None = None
    incomplete: bool = False
    soft: bool = False

    def only(self, samples: Tensor) -> "Update":
        """Nothing for samples that are False, (B,)."""
        keep, step = per_sample(samples, self.e), self.x0_step
        return self._replace(e=self.e * keep, x0_step=step and (lambda: step() * keep))


class Constraint(Protocol):
    """Maps an estimate to an update that reduces its violation.

    Attributes:
        unit: of the residual, for people.
        spatial: whether it says what belongs where in the picture, as a mask does and a style does not.
    """

    unit: str
    spatial: bool

    def update(self, x0: Tensor, sigma: float) -> Update:
        """At the estimate x0 (B, C, ..., H, W) of noise level sigma."""
        ...

    def residual(self, x0: Tensor, sigma: float) -> Tensor:
        """The violation alone, (B,), without a direction."""
        ...


def rms(t: Tensor) -> Tensor:
    """Root mean square of each sample, (B,)."""
    return t.square().flatten(1).mean(1).sqrt()


@dataclass(frozen=True)
class Term:
    """One summand of a `WeightedSum`, active while sigma_end <= sigma <= sigma_start.

    Attributes:
        target: samples whose residual, in the constraint's own unit, is no larger are left alone; 0 is none.
    """

    constraint: Constraint
    weight: float = 1.0
    sigma_start: float = float("inf")
    sigma_end: float = 0.0
    target: float = 0.0

    def active(self, sigma: float) -> bool:
        return self.weight > 0 and self.sigma_end <= sigma <= self.sigma_start

    def update(self, x0: Tensor, sigma: float) -> Update:
        update = self.constraint.update(x0, sigma)
        return update.only(update.residual > self.target) if self.target else update


@dataclass(frozen=True)
class WeightedSum:
    """e = sum_i a_i e_i / max|e_i|, per sample. J is linear, so one perturbation serves all of them.

    Residuals stay with their terms, each in its own unit; the step of x0 is the weighted mean of those that are known.
    """

    terms: tuple[Term, ...]

    def with_target(self, target: float) -> "WeightedSum":
        return WeightedSum(tuple(replace(t, target=target) for t in self.terms))

    def active(self, sigma: float) -> bool:
        """Whether any term is."""
        return any(t.active(sigma) for t in self.terms)

    def update(self, x0: Tensor, sigma: float) -> Update:
        """Where a term is active."""
        updates = [t.update(x0, sigma) if t.active(sigma) else None for t in self.terms]
        found = [(t.weight, update) for t, update in zip(self.terms, updates, strict=True) if update is not None]
        residual = by_term([update and update.residual for update in updates], x0)
        if len(found) == 1:
            return found[0][1]._replace(residual=residual)
        e = total(weight * unit_max(update.e) for weight, update in found)
        known = [(weight, update.x0_step) for weight, update in found if update.x0_step is not None and not update.soft]

        def x0_step() -> Tensor:
            return total(weight * step() for weight, step in known) / sum(weight for weight, _ in known)

        return Update(e, residual, x0_step if known else None, incomplete=len(known) < len(found))

    def residual(self, x0: Tensor, sigma: float) -> Tensor:
        """(T, B), NaN for terms that are inactive."""
        return by_term([t.constraint.residual(x0, sigma) if t.active(sigma) else None for t in self.terms], x0)

    def no_residual(self, x0: Tensor) -> Tensor:
        return by_term([None] * len(self.terms), x0)

    def unsatisfied(self, residual: Tensor) -> Tensor:
        """Whether any sample has a term above its target, (); waits for no device."""
        targets = residual.new_tensor([t.target for t in self.terms])
        return (residual > targets[:, None]).any()


def total(tensors: Iterable[Tensor]) -> Tensor:
    """Their sum, one after the other, so that no more than two are held."""
    return functools.reduce(torch.add, tensors)


def by_term(residuals: list[Tensor | None], x0: Tensor) -> Tensor:
    """(B,) each to (T, B), with NaN for None."""
    missing = x0.new_full((len(x0),), float("nan"))
    rows = [missing if r is None else r for r in residuals]
    return torch.stack(rows) if rows else x0.new_zeros(0, len(x0))


def as_sum(constraint: "Constraint | WeightedSum") -> WeightedSum:
    return constraint if isinstance(constraint, WeightedSum) else WeightedSum((Term(constraint),))
