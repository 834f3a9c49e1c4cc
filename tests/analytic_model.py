"""A MODEL of the host whose network is an analytic denoiser: 8x8 pictures as latents of 4 channels and 4x4 cells."""

from typing import Any

import analytic
import torch.nn.functional as F
from newton_pack.sampler.pixel import Estimate, LinearMeasurement, PixelConstraint
from torch import Tensor


def to_latent(pictures: Tensor) -> Tensor:
    """(B, 1, 8, 8) to (B, 4, 4, 4)."""
    return F.pixel_unshuffle(pictures, 2)


def to_picture(latent: Tensor) -> Tensor:
    return F.pixel_shuffle(latent, 2)


def analytic_model(model: Any, prior: analytic.Gaussian) -> Any:
    """A clone of a MODEL of 4 channels, with the prior's denoiser for its network."""

    def network(apply_model: Any, args: dict[str, Any]) -> Tensor:
        x = args["input"]
        return to_latent(prior.x0(to_picture(x), args["timestep"])).to(x)

    model = model.clone()
    model.set_model_unet_function_wrapper(network)
    return model


class Means:
    """The mean of each 2x2 pixels, which is that of a cell's channels: 4x super-resolution in the latent itself."""

    def __init__(self, y: Tensor):
        self.y = y

    def bind(self, space: Any) -> PixelConstraint:
        def to_x0(estimate: Estimate, residual: Any, measurement: LinearMeasurement) -> Tensor:
            return measurement.A_dagger(residual(estimate.x0))

        return PixelConstraint(LinearMeasurement(self, self.y), lambda x0: x0, to_x0, to_x0=to_x0)

    def A(self, latent: Tensor) -> Tensor:
        return latent.mean(1, keepdim=True)

    def A_dagger(self, r: Tensor) -> Tensor:
        return r.expand(-1, 4, -1, -1)

    def A_adjoint(self, r: Tensor) -> Tensor:
        return r.expand(-1, 4, -1, -1) / 4
