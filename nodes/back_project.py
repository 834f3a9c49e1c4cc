"""A closing projection onto a pixel constraint."""

from functools import partial
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sampler import Measurement, back_project
from .checks import checked, rgb_picture
from .constraint_spec import repeated
from .pixel_spec import PixelSpec, for_each
from .sockets import CATEGORY, Constraint, schema


def levels_off(measurement: Measurement, picture: Tensor) -> tuple[float, float]:
    """Mean and largest |A I - y| in 8-bit levels."""
    off = 255 * measurement.data_residual(picture).abs()
    return off.mean().item(), off.max().item()


class BackProjectPixels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NewtonBackProjectPixels",
            search_aliases=["back projection", "exact", "consistency", "super resolution", "upscale"],
            display_name="Back-Project Pixels",
            category=CATEGORY,
            description="Changes a picture as little as possible so that it satisfies a pixel constraint: repeats "
            "I + A+ (y - A I) and the limits of black and white.",
            inputs=[
                io.Image.Input("image", tooltip="The finished picture, from VAE Decode."),
                Constraint.Input("constraint", tooltip="A pixel constraint, such as from Super-Resolution Constraint."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE",
                    tooltip="The picture that satisfies the constraint, in 8-bit levels, as files hold them.",
                ),
                io.String.Output(
                    display_name="report", tooltip="Mean and largest deviation in 8-bit levels, before and after."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, image: Tensor, constraint: Any) -> io.NodeOutput:
        if not isinstance(constraint, PixelSpec):
            raise ValueError(
                "constraint: it is no pixel constraint. Connect that of Super-Resolution Constraint, for example; "
                "for masks use Composite Inside Mask."
            )
        if constraint.size not in (None, tuple(image.shape[1:3])):
            raise ValueError(
                f"image: its size is {image.shape[2]}x{image.shape[1]}, but the constraint is for "
                f"{constraint.size[1]}x{constraint.size[0]}. Connect the result that was sampled under this constraint."
            )
        given = rgb_picture(image)
        measurement = for_each(constraint.measurement, partial(repeated, count=len(image)))  # as they were sampled
        projected = back_project(measurement, given, constraint.noise)
        saved = (255 * projected).round() / 255
        rows = [("before", given), ("projected", projected), ("as 8-bit picture", saved)]
        text = "\n".join("{}: mean {:.2f}, max {:.2f} levels".format(n, *levels_off(measurement, p)) for n, p in rows)
        return io.NodeOutput(saved.movedim(1, -1), text)  # Save Image would cut fractions of a level off
