"""Super-resolution: the finished picture, shrunk again, is the given one."""

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sampler import FILTERS, PixelConstraint, Resample
from .comfy_adapter import pixel_codec
from .constraint_spec import LatentSpace
from .latent_mask import check_image
from .sockets import CATEGORY, Constraint


@dataclass(frozen=True)
class PixelSpec:
    """A measurement as it travels over the CONSTRAINT socket.

    Attributes:
        operator: A, on pictures (B, 3, H, W).
        y: (B, 3, h, w) in [0, 1].
        size: (H, W) of the finished picture.
        noise: sigma_y, in the same units as y.
    """

    operator: Resample
    y: Tensor
    size: tuple[int, int]
    noise: float
    vae: Any

    def bind(self, space: LatentSpace) -> PixelConstraint:
        ratio = self.vae.spacial_compression_encode()
        expected = (self.size[0] // ratio, self.size[1] // ratio)
        if tuple(space.shape[-2:]) != expected or len(space.shape) != 4:
            raise ValueError(
                f"constraint: it is for pictures of {self.size[1]}x{self.size[0]}, a latent of {expected[1]}x"
                f"{expected[0]}, but the one being sampled is {'x'.join(map(str, reversed(space.shape[2:])))}. Use the "
                "LATENT output of the same constraint node, and the VAE that belongs to the model."
            )
        if self.y.shape[0] not in (1, space.shape[0]):
            raise ValueError(
                f"constraint: it holds {self.y.shape[0]} pictures, but the batch has {space.shape[0]} latents. Give "
                "one for all of them or as many as there are latents."
            )
        decode, encode, step = pixel_codec(self.vae, space)
        return PixelConstraint(self.operator, self.y.to(space.device), decode, encode, step, self.noise)


class PixelSRConstraint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PixelSRConstraint",
            display_name="Pixel SR Constraint",
            category=CATEGORY,
            description="Super-resolution: the finished picture, shrunk by the factor, is the given one. Follows the "
            "constraint with forward passes of the VAE only. End with Back-Project Pixels for exact consistency.",
            inputs=[
                io.Image.Input("image", tooltip="The low-resolution picture."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model; it needs its encoder."),
                io.Int.Input("factor", default=4, min=2, max=64, tooltip="How many times wider and higher."),
                io.Combo.Input(
                    "filter",
                    options=list(FILTERS),
                    default="area",
                    tooltip="How the picture was shrunk: area averages, bicubic and lanczos are those of Pillow.",
                ),
                io.Float.Input(
                    "noise",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.005,
                    tooltip="Standard deviation of the noise in the picture, 1 = white. What is below it is not "
                    "followed, so that noise is not drawn as detail.",
                ),
            ],
            outputs=[
                Constraint.Output(display_name="CONSTRAINT", tooltip="For the samplers of this pack."),
                io.Latent.Output(display_name="LATENT", tooltip="Latent of the right size to start from."),
                io.Image.Output(
                    display_name="upscaled", tooltip="The smoothest picture that satisfies the constraint."
                ),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, vae: Any, factor: int, filter: str, noise: float) -> io.NodeOutput:
        check_image(image, 1)
        y = image[..., :3].movedim(-1, 1).float()  # BHWC -> BCHW
        operator = Resample.by_factor(tuple(y.shape[-2:]), factor, filter)
        upscaled = operator.pinv(y).clamp(0, 1).movedim(1, -1)
        ratio, (height, width) = vae.spacial_compression_encode(), upscaled.shape[1:3]
        if height % ratio or width % ratio:
            raise ValueError(
                f"factor: {factor} makes the picture {width}x{height}, which is not a multiple of {ratio}, the VAE's "
                "ratio. Choose another factor, or crop the low-resolution picture."
            )
        samples = vae.encode(upscaled)
        if samples.ndim != 4:
            raise ValueError("vae: it is a video VAE; super-resolution works on pictures so far.")
        spec = PixelSpec(operator, y, (height, width), noise, vae)
        return io.NodeOutput(spec, {"samples": samples}, upscaled)


def levels_off(spec: PixelSpec, picture: Tensor) -> tuple[float, float]:
    """Mean and largest |A I - y| in 8-bit levels."""
    off = 255 * (spec.operator.A(picture) - spec.y).abs()
    return off.mean().item(), off.max().item()


def back_project(spec: PixelSpec, picture: Tensor, rounds: int = 20) -> Tensor:
    """Alternating projections onto A I = y, as far as its noise level asks, and onto pictures within [0, 1]."""
    for _ in range(rounds):
        residual = spec.y - spec.operator.A(picture)
        rms = residual.square().mean((1, 2, 3), keepdim=True).sqrt()
        share = (1 - spec.noise / rms.clamp(min=1e-9)).clamp(min=0)
        picture = (picture + share * spec.operator.pinv(residual)).clamp(0, 1)
    return picture


class BackProjectPixels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NewtonBackProjectPixels",
            display_name="Back-Project Pixels",
            category=CATEGORY,
            description="Changes a picture as little as possible so that it satisfies a pixel constraint: repeats "
            "I + A+ (y - A I) and the limits of black and white.",
            inputs=[
                io.Image.Input("image", tooltip="The finished picture, from VAE Decode."),
                Constraint.Input("constraint", tooltip="A pixel constraint, such as from Pixel SR Constraint."),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The picture that satisfies the constraint."),
                io.String.Output(
                    display_name="report", tooltip="Mean and largest deviation in 8-bit levels, before and after."
                ),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, constraint: Any) -> io.NodeOutput:
        if not isinstance(constraint, PixelSpec):
            raise ValueError(
                "constraint: this node needs a pixel constraint, such as from Pixel SR Constraint; for a latent mask "
                "use ImageCompositeMasked."
            )
        if tuple(image.shape[1:3]) != constraint.size:
            raise ValueError(
                f"image: its size is {image.shape[2]}x{image.shape[1]}, but the constraint is for "
                f"{constraint.size[1]}x{constraint.size[0]}."
            )
        given = image[..., :3].movedim(-1, 1).float()  # BHWC -> BCHW
        projected = back_project(constraint, given)
        saved = (255 * projected).round() / 255
        rows = [("before", given), ("projected", projected), ("as 8-bit picture", saved)]
        text = "\n".join("{}: mean {:.2f}, max {:.2f} levels".format(n, *levels_off(constraint, p)) for n, p in rows)
        return io.NodeOutput(projected.movedim(1, -1), text)
