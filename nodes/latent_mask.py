"""Inpainting and outpainting: keep the known part of a picture."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from comfy_api.latest import io, ui
from torch import Tensor

from ..sampler import Constraint as BoundConstraint
from ..sampler import WeightedSum, frame_weights, known_weights, masked_rms
from .checks import check_ratio, checked
from .constraint_spec import FilledMask, LatentSpace, repeated
from .fill import FILLS
from .sockets import CATEGORY, Constraint, noise_input, schema
from .vae_checks import encode

log = logging.getLogger("newton_constrained_sampling")


@dataclass(frozen=True)
class LatentMaskSpec:
    """Known latent and weights as they travel over the CONSTRAINT socket, in the VAE's coordinates.

    Attributes:
        samples: (B, C, ..., h, w), the encoded picture.
        weights: (B, 1, ..., h, w) in [0, 1], 1 = keep.
        noise: what noise of the picture's size does to `samples`, of their shape; None: the picture is clean.
        hidden: encodes the picture as it was before its unknown region was filled; None: it was not.
    """

    samples: Tensor
    weights: Tensor
    noise: Tensor | None = None
    hidden: Callable[[], Tensor] | None = None

    def bind(self, space: LatentSpace) -> BoundConstraint:
        if self.samples.shape[1:] != space.shape[1:]:
            raise ValueError(
                f"constraint: its latent is {describe(self.samples.shape)}, but the one being sampled is "
                f"{describe(space.shape)}. Use the VAE that belongs to the model, and for latent_image the LATENT "
                "output of the same constraint node. Detailers and tiles want Constrain Model without a constraint."
            )

        def as_sampled(samples: Tensor) -> Tensor:
            return space.process_in(space.per_latent(samples).to(space.device, torch.float32))

        y = as_sampled(self.samples)
        weights = space.per_latent(self.weights).to(y)
        rms = (weights * y).square().mean().sqrt() / weights.square().mean().sqrt().clamp(min=1e-6)
        if weights.any() and not 0.05 < rms < 4:
            log.warning(
                "constraint: the encoded picture has rms %.2f where a latent of this model has about 1. The VAE "
                "probably belongs to another model.", rms,
            )  # fmt: skip
        if not weights.any():
            return WeightedSum(())
        hidden = self.hidden and (lambda: as_sampled(self.hidden()))
        sigma_y = 0.0
        if self.noise is not None:
            sigma_y = masked_rms(weights * (as_sampled(self.samples + self.noise) - y))
        return FilledMask(y, weights, space.weights_at, sigma_y, hidden)


def noise_in_latent(vae: Any, picture: Tensor, samples: Tensor, noise: float) -> Tensor | None:
    """What noise of standard deviation `noise` in a picture (B, H, W, 3) does to its latent `samples`."""
    if not noise:
        return None
    drawn = torch.randn(picture.shape[1:], generator=torch.Generator().manual_seed(0)).to(picture)
    return encode(vae, picture + noise * drawn) - samples


def weights_of(samples: Tensor, weights: Tensor, vae: Any) -> Tensor:
    """Weights (B, 1, h, w) as they go with `samples`: the masks of one video are those of its pictures."""
    if samples.ndim == 4:
        return weights
    if len(samples) > 1:
        return weights.unsqueeze(2)
    return frame_weights(weights, samples.shape[2], vae.temporal_compression_decode())


def describe(shape: torch.Size) -> str:
    return f"{shape[1]} channels of {shape[-1]}x{shape[-2]}" + (f", {shape[2]} frames" if len(shape) == 5 else "")


def sized_mask(mask: Tensor, image: Tensor) -> Tensor:
    """Mask (N, H, W) at the size of `image` (B, H, W, C): N is 1, B, or any number where B is 1.

    Masks are repeated or cut to the pictures as the host does. A larger hard mask keeps every touched pixel, so that
    thin lines are not lost; a larger soft one is averaged.
    """
    mask = mask.reshape(-1, *mask.shape[-2:]).float().clamp(0, 1)
    if 1 not in (len(mask), len(image)):
        mask = repeated(mask, len(image))
    size = image.shape[1:3]
    if mask.shape[-2:] != size:
        log.warning(
            "mask: its size %dx%d differs from the picture's %dx%d; it was resized.",
            mask.shape[2], mask.shape[1], size[1], size[0],
        )  # fmt: skip
        mask = resized(mask, size)
    return mask


def fit_mask(mask: Tensor, image: Tensor) -> Tensor:
    """`sized_mask`, of which some pixel must be unknown."""
    mask = sized_mask(mask, image)
    if not mask.any():
        raise ValueError(
            "mask: it is empty, so there is nothing to generate. Paint the region to regenerate (white, 1), for "
            "example with the mask editor; a picture without transparency gives an empty mask."
        )
    return mask


def resized(mask: Tensor, size: tuple[int, int]) -> Tensor:
    if size[0] > mask.shape[1] or size[1] > mask.shape[2]:
        return F.interpolate(mask.unsqueeze(1), size=size, mode="bilinear").squeeze(1)
    hard = ((mask == 0) | (mask == 1)).all()
    return (F.adaptive_max_pool2d if hard else F.adaptive_avg_pool2d)(mask, size)


class LatentMaskConstraint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LatentMaskConstraint",
            search_aliases=[
                "inpaint",
                "outpaint",
                "mask",
                "fill",
                "complete picture",
                "remove object",
                "latent mask",
            ],
            display_name="Inpaint Constraint",
            category=CATEGORY,
            description="Inpainting and outpainting: what the mask leaves black stays, what it marks white is "
            "generated so that it fits.",
            inputs=[
                io.Image.Input("image", tooltip="The picture with a known part. Its size must suit the VAE."),
                io.Mask.Input(
                    "mask",
                    tooltip="1 (white) = regenerate, 0 = keep. Values between: the picture may change by that share.",
                ),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Combo.Input(
                    "fill",
                    options=list(FILLS),
                    default="extend",
                    tooltip="What stands in the unknown region while the picture is encoded. extend: the nearest known "
                    "pixels, which disturbs the border cells least. grey: as in the paper. none: the picture as it is.",
                ),
                io.Int.Input(
                    "erode",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Shrink the known region by this many latent cells (usually 8 pixels each), so that cells "
                    "next to the border may change.",
                ),
                io.Boolean.Input(
                    "partial_cells",
                    default=True,
                    tooltip="On: a latent cell that the mask cuts through is held by the share of its known pixels; "
                    "best for strokes and other masks finer than a cell. Off: a cell counts as known only if all its "
                    "pixels are (as in the paper); choose it with fill 'none', or hidden content shines through.",
                ),
                noise_input("the known part comes out cleaner than it is. 0 keeps it as it is.", optional=True),
            ],
            outputs=[
                Constraint.Output(display_name="CONSTRAINT", tooltip="For the samplers of this pack."),
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="To start from: of the right size, and with the constraint's cells as its noise mask, "
                    "which inpainting checkpoints read. Set Latent Noise Mask replaces it.",
                ),
                io.Image.Output(display_name="latent_mask", tooltip="The picture, dark where it will be generated."),
                io.Image.Output(
                    display_name="filled",
                    tooltip="The picture with its unknown region filled: the destination for a composite of the "
                    "result, so that known pixels stay untouched.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, image: Tensor, mask: Tensor, vae: Any, fill: str, erode: int, partial_cells: bool, noise: float = 0.0
    ) -> io.NodeOutput:
        check_ratio("image", *image.shape[1:3], vae.spacial_compression_encode())
        image = image[..., :3].float()
        mask = fit_mask(mask, image).to(image.device)  # the host may keep pictures on the GPU, but no masks
        batch = max(image.shape[0], mask.shape[0])
        whole = image.expand(batch, -1, -1, -1)
        filled = FILLS[fill](whole, mask.expand(batch, -1, -1))
        samples = encode(vae, filled)
        weights = known_weights(mask, *samples.shape[-2:], erode, partial_cells)
        shown = F.interpolate(weights, size=image.shape[1:3], mode="nearest-exact").movedim(1, -1)  # BHWC
        preview = filled * (0.25 + 0.75 * shown)
        hidden = None if fill == "none" else partial(encode, vae, whole)
        noise_of_y = noise_in_latent(vae, filled, samples, noise)
        spec = LatentMaskSpec(samples, weights_of(samples, weights, vae), noise_of_y, hidden)
        latent = {"samples": samples, "noise_mask": 1 - spec.weights}
        return io.NodeOutput(spec, latent, preview, filled, ui=ui.PreviewImage(preview, cls=cls))
