"""What other nodes leave on a model, and how the method lives with it."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("newton_constrained_sampling")


def without_step_caches(model_options: dict[str, Any]) -> dict[str, Any]:
    """Model options under which EasyCache and LazyCache let every call through to the network.

    They answer two close inputs with the same residual, so x0(x + delta e) - x0(x) would be delta e: J e
    collapses to e. Each asks its holder in these options whether its part of the run is over.
    """
    holder = model_options.get("transformer_options", {}).get("easycache")
    if holder is None:
        return model_options
    log.warning("%s is bypassed: constrained sampling compares close inputs, which it answers alike.", holder.name)
    over = holder.clone()
    over.end_t = float("inf")
    return model_options | {"transformer_options": model_options["transformer_options"] | {"easycache": over}}


class GuidanceMemory:
    """Variables that guidance functions keep between calls, such as the running average of APG's momentum.

    Every call moves such an average on by one step, and between x and x + delta e that jump would drown J e. Calls
    at one noise level therefore all start from what was remembered when the level began.
    """

    def __init__(self, model_options: dict[str, Any]):
        functions = [
            *model_options.get("sampler_pre_cfg_function", []),
            *model_options.get("sampler_post_cfg_function", []),
            model_options.get("sampler_cfg_function"),
        ]
        self.cells = [cell for f in functions for cell in getattr(f, "__closure__", None) or ()]
        self.sigma: Tensor | None = None

    def before_call(self, sigma: Tensor) -> None:
        if not self.cells:
            return  # nor does the host wait for the device, to compare
        if self.sigma is None or not torch.equal(sigma, self.sigma):
            self.sigma, self.remembered = sigma, [cell.cell_contents for cell in self.cells]
            return
        for cell, value in zip(self.cells, self.remembered, strict=True):
            cell.cell_contents = value


def weights_over_time(
    model_options: dict[str, Any], guider: Any, sigmas: Tensor
) -> Callable[[Tensor, float], Tensor] | None:
    """How DifferentialDiffusion on the model turns soft weights of a mask into weights at each noise level."""
    denoise_mask_at = model_options.get("denoise_mask_function")
    if denoise_mask_at is None:
        return None
    run = {"model": guider, "sigmas": sigmas}
    return lambda weights, sigma: 1 - denoise_mask_at(weights.new_tensor([sigma]), 1 - weights, extra_options=run)
