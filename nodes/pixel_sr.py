"""Super-resolution: the finished picture, shrunk again, is the given one."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sampler import FILTERS, LinearMeasurement, Resample
from .checks import check_ratio, checked, rgb_picture
from .comfy_adapter import start_latent
from .pixel_spec import ADVANCED, DIRECTIONS, PixelSpec, vae_inputs
from .sockets import CATEGORY, Constraint, noise_input, schema
from .vae_checks import check_tile

LARGEST_MATRIX = 2**25  # elements, such as of 4096 to 8192 pixels


class PixelSRConstraint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PixelSRConstraint",
            search_aliases=["super resolution", "superresolution", "upscale", "enlarge", "pixel sr"],
            advanced=ADVANCED,
            display_name="Super-Resolution Constraint",
            category=CATEGORY,
            description="Super-resolution: the finished picture, shrunk again, is the given one. "
            "End with Back-Project Pixels for exact consistency.",
            inputs=[
                io.Image.Input("image", tooltip="The low-resolution picture."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model; 'forward only' needs its encoder."),
                io.Int.Input("factor", default=4, min=2, max=64, tooltip="How many times wider and higher."),
                io.Combo.Input(
                    "filter",
                    options=list(FILTERS),
                    default="area",
                    tooltip="How the picture was shrunk: area averages, bicubic and lanczos are those of Pillow.",
                ),
                noise_input("noise is not drawn as detail."),
                *(
                    io.Int.Input(
                        name,
                        default=0,
                        min=0,
                        max=16384,
                        optional=True,
                        tooltip=f"Target {name} in pixels, in place of the factor; 0 = from the other one, keeping "
                        "proportions, or from the factor where both are 0.",
                    )
                    for name in ("width", "height")
                ),
                *vae_inputs(),
            ],
            outputs=[
                Constraint.Output(display_name="CONSTRAINT", tooltip="For the samplers of this pack."),
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="The picture enlarged, to start from: the sampler's denoise says how much of it is left.",
                ),
                io.Image.Output(display_name="upscaled", tooltip="A smooth picture that satisfies the constraint."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        image: Tensor,
        vae: Any,
        factor: int,
        filter: str,
        noise: float,
        width: int = 0,
        height: int = 0,
        direction: str = DIRECTIONS[0],
        tile: int = 0,
    ) -> io.NodeOutput:
        y = rgb_picture(image)
        low = tuple(y.shape[-2:])
        size = target_size(low, factor, width, height)
        check_ratio(
            "width, height" if width or height else f"factor: {factor}", *size, vae.spacial_compression_encode()
        )
        check_tile(tile, vae, size)
        check_work(low, size)
        operator = Resample.between(low, size, filter, smooth=True)
        upscaled = operator.A_dagger(y).clamp(0, 1).movedim(1, -1)
        samples = start_latent(vae, upscaled, tile, needs_encoder=direction == "forward only")
        spec = PixelSpec(LinearMeasurement(operator, y), vae, size, y.shape[0], noise, direction, tile)
        return io.NodeOutput(spec, {"samples": samples}, upscaled)


def check_work(low: tuple[int, int], size: tuple[int, int]) -> None:
    """Refuse matrices (low, high) of an axis that take minutes to invert, which nothing can interrupt."""
    if any(a * b > LARGEST_MATRIX for a, b in zip(low, size, strict=True)):
        raise ValueError(
            f"image: {low[1]}x{low[0]} to {size[1]}x{size[0]} pixels is too much work for one piece. Cut it into "
            "parts, or choose a smaller target."
        )


def target_size(low: tuple[int, int], factor: int, width: int, height: int) -> tuple[int, int]:
    """(H, W) of the finished picture."""
    if not (width or height):
        return low[0] * factor, low[1] * factor
    return height or round(low[0] * width / low[1]), width or round(low[1] * height / low[0])
