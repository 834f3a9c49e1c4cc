"""What travels over a CONSTRAINT socket, and where it is to act."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..sampler import Constraint, LatentMask, WeightedSum


@dataclass(frozen=True)
class LatentSpace:
    """Where a constraint is to act: the sampler's own coordinates of one run.

    Attributes:
        shape: of the latent being sampled, (B, C, ..., h, w).
        device: of the sampler.
        process_in, process_out: from a VAE's latent to the sampler's coordinates and back.
        percent_to_sigma: from progress (0 = start, 1 = end) to a noise level.
        batch_index: the latents' places in the batch that they were taken from; None: not known.
        weights_at: from a mask's weights and a noise level to the weights there; None: they stay the same.
    """

    shape: torch.Size
    device: torch.device
    process_in: Callable[[Tensor], Tensor]
    process_out: Callable[[Tensor], Tensor]
    percent_to_sigma: Callable[[float], float]
    batch_index: Sequence[int] | None = None
    weights_at: Callable[[Tensor, float], Tensor] | None = None

    def per_latent(self, t: Tensor) -> Tensor:
        """One of `t` (N, ...) for each latent: of a batch sampled in part its own, else repeated or cut as the host
        does with masks; N = 1 stays, for it serves all.
        """
        count = self.shape[0]
        if len(t) in (1, count):
            return t
        if self.batch_index is not None and len(set(self.batch_index)) == count:  # alike: one seed for all of them
            return t[[i % len(t) for i in self.batch_index]]
        return repeated(t, count)


def repeated(t: Tensor, count: int) -> Tensor:
    """One of `t` (N, ...) for each of `count` pictures, repeated or cut as the host does with masks."""
    return t[torch.arange(count) % len(t)]


@dataclass(frozen=True)
class FilledMask(LatentMask):
    """A mask whose unknown region was filled before it was encoded.

    Attributes:
        hidden: gives the latent of the picture as it was, of the shape of y: there a run that starts below full noise
            begins; None: with y.
    """

    hidden: Callable[[], Tensor] | None = None


class ConstraintSpec(Protocol):
    """What travels over a CONSTRAINT socket: it becomes a constraint once the model is known."""

    def bind(self, space: LatentSpace) -> Constraint | WeightedSum: ...
