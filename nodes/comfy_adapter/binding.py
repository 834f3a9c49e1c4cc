"""What a run of the host obeys, and where it begins."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...sampler import LatentMask, Level, Term, WeightedSum, as_sum
from ..constraint_spec import ConstraintSpec, FilledMask, LatentSpace
from .noise_mask import noise_mask_weights, weights_over_time

log = logging.getLogger("newton_constrained_sampling")

# Share of the run after which a start counts as that of a picture, not as one of noise.
LATE = 0.1


def latent_of(model_k: Any) -> Tensor | None:
    """The latent that a run starts from; None inside nodes that wrap the model and hand on how it is called only."""
    return getattr(model_k, "latent_image", None)


def leftover_noise(model_k: Any, mask: Tensor | None) -> bool:
    """Whether a noise mask would keep the noise that an earlier pass has left in the latent."""
    noise = getattr(model_k, "noise", None)
    if mask is None or noise is None or noise.any():
        return False
    log.warning(
        "latent_image: it still holds the noise of an earlier pass, so its noise mask has nothing to keep and is left "
        "out. Connect a constraint (Inpaint Constraint) for both passes, or sample in one."
    )
    return True


def bind_constraint(
    constraint: ConstraintSpec | None,
    model_k: Any,
    x: Tensor,
    raw_mask: Tensor | None,
    mask: Tensor | None,
    model_options: dict[str, Any],
    batch_index: Sequence[int] | None,
) -> WeightedSum:
    """The constraint in the sampler's coordinates; where it has no mask of its own, with the latent's noise mask."""
    base = model_k.inner_model.inner_model
    weights_at = weights_over_time(model_options, model_k.inner_model, model_k.sigmas)
    given = WeightedSum(())
    if constraint is not None:
        space = LatentSpace(
            x.shape, x.device, base.process_latent_in, base.process_latent_out, base.model_sampling.percent_to_sigma,
            batch_index, weights_at,
        )  # fmt: skip
        given = as_sum(constraint.bind(space))
        if any(isinstance(term.constraint, LatentMask) for term in given.terms):
            return given
    weights = noise_mask_weights(raw_mask, mask, x.shape, weights_at, base.latent_format)
    if weights is None or not weights.any():
        return given
    latent = latent_of(model_k)
    if latent is None:
        raise ValueError(
            "latent_image: its noise mask cannot be kept, because the node that wraps this sampler does not hand the "
            "latent on. Connect an Inpaint Constraint to the sampler as well, or use Constrain Model."
        )
    own = LatentMask(latent, weights.to(x), weights_at)
    return WeightedSum((*given.terms, Term(own)))


def start_of_run(x: Tensor, model_k: Any, bound: WeightedSum, start: Level) -> Tensor:
    """x at the start of a run; below full noise with what masks hide instead of what it was filled with.

    Unless the latent that the run starts from is not the mask's own.
    """
    if start.sigma >= model_k.inner_model.inner_model.model_sampling.percent_to_sigma(LATE):
        return x
    latent = latent_of(model_k)
    if latent is None:
        return x
    for mask in (term.constraint for term in bound.terms):
        if isinstance(mask, FilledMask) and mask.hidden and torch.allclose(mask.y, latent.to(mask.y), 0.01, 0.01):
            log.info("denoise: below 1, sampling begins with the picture under the mask, not with its fill.")
            x = x + start.scales.alpha * (1 - mask.weights) * (mask.hidden() - mask.y)
    return x
