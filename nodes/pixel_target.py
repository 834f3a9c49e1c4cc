"""Pictures that are what a function makes of them: pixel art, few colours, or anything Python can say."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sampler import FixedPoint
from .checks import checked
from .pixel_spec import ADVANCED, DIRECTIONS, PixelSpec, vae_inputs
from .sockets import CATEGORY, Constraint, TargetFunction, dead_unless, schema
from .targets import ImageMap, as_picture_map, distinct_colours, named, pixel_art, posterise
from .vae_checks import NO_ENCODER, check_pictures_vae, check_tile, has_encoder

TARGETS = ("pixel art", "posterise", "function")


class PixelTargetConstraint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PixelTargetConstraint",
            search_aliases=["pixel art", "posterize", "palette", "pixel target"],
            dead_if={
                "cell": dead_unless("target", TARGETS, "pixel art"),
                "colours": dead_unless("target", TARGETS, "pixel art", "posterise"),
            },
            advanced=ADVANCED,
            display_name="Pixel Art Constraint",
            category=CATEGORY,
            description="The finished picture is what a function makes of it: pixel art, few levels, or a function of "
            "your own. It needs no gradient.",
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model; 'forward only' needs its encoder."),
                io.Combo.Input(
                    "target",
                    options=list(TARGETS),
                    default=TARGETS[0],
                    tooltip="pixel art: square cells in few colours. posterise: few levels a channel. function: the "
                    "one connected to the input of that name.",
                ),
                io.Int.Input("cell", default=8, min=1, max=256, tooltip="pixel art: side of a cell in pixels."),
                io.Int.Input(
                    "colours",
                    default=16,
                    min=2,
                    max=256,
                    tooltip="pixel art: how many colours, chosen for each picture. posterise: levels a channel.",
                ),
                io.Image.Input(
                    "palette", optional=True, tooltip="pixel art: the colours to use, those of this picture."
                ),
                TargetFunction.Input(
                    "function",
                    optional=True,
                    tooltip="From a node of your own: a Python function from IMAGE to IMAGE, (batch, height, width, 3) "
                    "in [0, 1], that returns what the picture should be.",
                ),
                *vae_inputs(),
            ],
            outputs=[Constraint.Output(display_name="CONSTRAINT", tooltip="For the samplers of this pack.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        vae: Any,
        target: str,
        cell: int,
        colours: int,
        palette: Tensor | None = None,
        function: ImageMap | None = None,
        direction: str = DIRECTIONS[0],
        tile: int = 0,
    ) -> io.NodeOutput:
        check_pictures_vae(vae)
        check_tile(tile, vae, (tile, tile))
        if direction == DIRECTIONS[0] and not has_encoder(vae):
            raise ValueError(NO_ENCODER)
        if target == "function" and function is None:
            raise ValueError(
                "function: nothing is connected. Connect a node that gives a NEWTON_TARGET, or choose another target."
            )
        colour_list = None if palette is None else distinct_colours(palette)
        functions = {
            "pixel art": lambda image: pixel_art(image, cell, colours, colour_list),
            "posterise": lambda image: posterise(image, colours),
            "function": function and named(function),
        }
        return io.NodeOutput(
            PixelSpec(
                FixedPoint(as_picture_map(functions[target])),
                vae,
                direction=direction,
                tile=tile,
            )
        )
