"""What travels over a CONSTRAINT socket, and where it is to act."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..sampler import Constraint


@dataclass(frozen=True)
class LatentSpace:
    """Where a constraint is to act: the sampler's own coordinates of one run.

    Attributes:
        shape: of the latent being sampled, (B, C, ..., h, w).
        device: of the sampler.
        process_in, process_out: from a VAE's latent to the sampler's coordinates and back.
        percent_to_sigma: from progress (0 = start, 1 = end) to a noise level.
        seed: of the run's noise.
        weights_at: from a mask's weights and a noise level to the weights there; None: they stay the same.
    """

    shape: torch.Size
    device: torch.device
    process_in: Callable[[Tensor], Tensor]
    process_out: Callable[[Tensor], Tensor]
    percent_to_sigma: Callable[[float], float]
    seed: int = 0
    weights_at: Callable[[Tensor, float], Tensor] | None = None


class ConstraintSpec(Protocol):
    """What travels over a CONSTRAINT socket: it becomes a constraint once the model is known."""

    def bind(self, space: LatentSpace) -> Constraint: ...
