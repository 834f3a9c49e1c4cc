"""The result inside the mask, the original outside it."""

import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from .checks import checked
from .constraint_spec import repeated
from .fill import extend_fill
from .latent_mask import sized_mask
from .sockets import CATEGORY, schema

MOST_PIXELS = 128  # of the fade


def fade(mask: Tensor, feather: int) -> Tensor:
    """Weight of the result: min over q of mask(q) + |p - q|^2 / feather^2, at most 1.

    The erosion of the mask by a parabola (van den Boomgaard, Smeulders 1994): 0 where the mask is 0, never above the
    mask, monotone in it, and of a hard mask (d / feather)^2 at d pixels from what is known.

    Args:
        mask: (B, H, W) in [0, 1], 1 = unknown.
        feather: in pixels; 0 leaves the mask as it is.
    """
    for axis in (1, 2) if feather else ():
        size, eroded = mask.shape[axis], mask.clone()
        for shift in range(1, min(feather, size)):
            cost = (shift / feather) ** 2
            for a, b in ((0, shift), (shift, 0)):
                here, there = eroded.narrow(axis, a, size - shift), mask.narrow(axis, b, size - shift)
                torch.minimum(here, there + cost, out=here)
        mask = eroded
    return mask


def spread(values: Tensor, weights: Tensor) -> Tensor:
    """Values carried smoothly to where their weight is small: pull-push over halved resolutions (Gortler et al. 1996).

    Args:
        values: (B, C, H, W).
        weights: (B, 1, H, W) in [0, 1].
    """
    size = values.shape[-2:]
    if max(size) == 1:
        return values
    total = F.avg_pool2d(weights, 2, ceil_mode=True)
    coarse = F.avg_pool2d(values * weights, 2, ceil_mode=True) / total.clamp(min=1e-6)
    coarse = spread(coarse, (4 * total).clamp(max=1))
    return torch.lerp(F.interpolate(coarse, size=size, mode="bilinear"), values, weights)


def composite(image: Tensor, original: Tensor, mask: Tensor, feather: int, match_colour: bool) -> Tensor:
    """(B, H, W, 3): the original's own numbers wherever the mask is 0.

    Args:
        image, original: (B, H, W, 3).
        mask: (B, H, W) in [0, 1], 1 = unknown.
        feather: over how many pixels within the mask the result fades in.
        match_colour: shift the result by how far it is off on known pixels, carried smoothly into the mask.
    """
    if match_colour:
        known = (1 - mask).unsqueeze(1)
        off = (original - image).movedim(-1, 1)  # BHWC -> BCHW
        image = (image + spread(off, known).movedim(1, -1)).clamp(0, 1)
    weight = fade(mask, feather).unsqueeze(-1)
    return torch.where(weight > 0, torch.lerp(extend_fill(original, mask), image, weight), original)


class CompositeInsideMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NewtonCompositeInsideMask",
            search_aliases=["composite", "inpaint", "paste", "feather", "blend", "seam", "color match"],
            display_name="Composite Inside Mask",
            category=CATEGORY,
            description="Puts a finished picture into the original: inside the mask the result, faded in at the "
            "border; outside it every pixel of the original, unchanged.",
            inputs=[
                io.Image.Input("image", tooltip="The result, from VAE Decode."),
                io.Image.Input(
                    "original",
                    tooltip="The picture that the result completes, or the output 'filled' of Inpaint Constraint. "
                    "What the mask covers of it is not used.",
                ),
                io.Mask.Input(
                    "mask", tooltip="The mask of the run: 1 (white) = from the result, 0 = from the original."
                ),
                io.Int.Input(
                    "feather",
                    default=4,
                    min=0,
                    max=MOST_PIXELS,
                    tooltip="Over how many pixels the result fades in, all of them within the mask. 0: a hard edge.",
                ),
                io.Boolean.Input(
                    "match_colour",
                    default=False,
                    tooltip="Shift the result's colours by how far they are off on known pixels, smoothly into the "
                    "mask. For models and VAEs that change the tone of a picture.",
                ),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="The completed picture.")],
        )

    @classmethod
    @checked
    def execute(cls, image: Tensor, original: Tensor, mask: Tensor, feather: int, match_colour: bool) -> io.NodeOutput:
        if image.shape[1:3] != original.shape[1:3]:
            raise ValueError(
                f"image: its size is {image.shape[2]}x{image.shape[1]}, but the original's is "
                f"{original.shape[2]}x{original.shape[1]}. Connect the picture that was encoded, after any scaling or "
                "padding."
            )
        mask = sized_mask(mask, original)
        count = max(len(image), len(original), len(mask))
        if count % len(image) or count % len(original):
            raise ValueError(
                f"image: {len(image)} pictures for {len(original)} originals and {len(mask)} masks. Give as many of "
                "each, or one for all. Cut a clip to a length that its video VAE packs whole: for Wan one and a "
                "multiple of four."
            )
        # The host may keep pictures on the GPU, but no masks; half precision shows in a blend.
        exact = torch.promote_types(original.dtype, torch.float32)
        image, target, mask = (
            repeated(t, count).to(original.device, exact) for t in (image[..., :3], original[..., :3], mask)
        )
        return io.NodeOutput(composite(image, target, mask, feather, match_colour).to(original.dtype))
