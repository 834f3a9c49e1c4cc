"""Measurements of a picture other than a smaller one: blurs, grey, single pixels, mixed channels, JPEG."""

from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..sampler import Blur, ChannelMix, LinearMeasurement, PixelMask, gaussian_kernel, grey, motion_kernel
from .checks import check_ratio, checked, rgb_picture
from .comfy_adapter import start_latent
from .fill import extend_fill
from .latent_mask import fit_mask
from .pixel_spec import ADVANCED, DIRECTIONS, PixelSpec, vae_inputs
from .sockets import CATEGORY, Constraint, dead_unless, noise_input, schema
from .targets import Compressed, Jpeg
from .vae_checks import check_tile

MOST_ROWS, LARGEST_WEIGHT = 64, 1e3  # of a matrix
OPERATORS = ("gaussian blur", "motion blur", "kernel", "grey", "pixel mask", "channel mix", "jpeg")

# Widgets that one operator reads.
READ_BY = {
    "radius": "gaussian blur",
    "length": "motion blur",
    "angle": "motion blur",
    "quality": "jpeg",
    "matrix": "channel mix",
}


class PixelOperatorConstraint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PixelOperatorConstraint",
            search_aliases=["deblur", "colorize", "colourise", "sharpen", "restore", "jpeg", "pixel operator"],
            dead_if={name: dead_unless("operator", OPERATORS, operator) for name, operator in READ_BY.items()},
            advanced=ADVANCED,
            display_name="Deblur and Colorize Constraint",
            category=CATEGORY,
            description="The finished picture, measured, is the given one: deblurring, colourisation, single known "
            "pixels, mixed channels, JPEG. End with Back-Project Pixels for exact consistency.",
            inputs=[
                io.Image.Input("image", tooltip="The picture as measured: blurred, grey, compressed, …"),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model; 'forward only' needs its encoder."),
                io.Combo.Input(
                    "operator",
                    options=list(OPERATORS),
                    default=OPERATORS[0],
                    tooltip="What was done to the picture. pixel mask: pixels were lost (see mask). channel mix: only "
                    "mixtures of its channels are kept (see matrix).",
                ),
                io.Float.Input(
                    "radius", default=2.0, min=0.1, max=100.0, step=0.1,
                    tooltip="gaussian blur: its standard deviation in pixels.",
                ),
                io.Float.Input(
                    "length", default=15.0, min=1.5, max=500.0, step=0.5, tooltip="motion blur: length in pixels."
                ),
                io.Float.Input(
                    "angle", default=0.0, min=-180.0, max=180.0, step=1.0,
                    tooltip="motion blur: degrees anticlockwise from the horizontal.",
                ),
                io.Int.Input("quality", default=20, min=1, max=95, tooltip="jpeg: quality it was saved with."),
                io.String.Input(
                    "matrix", default="0.5 0.5 0; 0 0 1",
                    tooltip="channel mix: a row of three weights (red, green, blue) for every mixture that is kept, "
                    "rows separated by semicolons.",
                ),
                noise_input("noise is not drawn as detail."),
                io.Image.Input(
                    "kernel", optional=True,
                    tooltip="kernel: the blur of one point as a small picture of odd height and width.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="pixel mask: 1 (white) = unknown, 0 = known."),
                *vae_inputs(),
            ],
            outputs=[
                Constraint.Output(display_name="CONSTRAINT", tooltip="For the samplers of this pack."),
                io.Latent.Output(display_name="LATENT", tooltip="Latent of the right size to start from."),
                io.Image.Output(display_name="start", tooltip="The picture that LATENT encodes."),
            ],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(
        cls,
        image: Tensor,
        vae: Any,
        operator: str,
        radius: float,
        length: float,
        angle: float,
        quality: int,
        matrix: str,
        noise: float,
        kernel: Tensor | None = None,
        mask: Tensor | None = None,
        direction: str = DIRECTIONS[0],
        tile: int = 0,
    ) -> io.NodeOutput:
        picture = rgb_picture(image)
        size = tuple(picture.shape[-2:])
        check_ratio("image", *size, vae.spacial_compression_encode())
        check_tile(tile, vae, size)
        measure: dict[str, Callable[[], tuple[LinearMeasurement, Tensor]]] = {
            "gaussian blur": lambda: blurred(Blur.of(gaussian_kernel(radius)), picture),
            "motion blur": lambda: blurred(Blur.of(motion_kernel(length, angle)), picture),
            "kernel": lambda: blurred(Blur.of(kernel_weights(kernel)), picture),
            "grey": lambda: mixed(grey(), picture),
            "pixel mask": lambda: masked(picture, mask),
            "channel mix": lambda: mixed(ChannelMix.of(mix_matrix(matrix)), picture),
            "jpeg": lambda: (Compressed(Jpeg(quality), picture), picture),
        }
        measured, start = measure[operator]()
        start = start.movedim(1, -1)
        samples = start_latent(vae, start, tile, needs_encoder=direction == "forward only")
        spec = PixelSpec(measured, vae, size, start.shape[0], noise, direction, tile)
        return io.NodeOutput(spec, {"samples": samples}, start)


def blurred(blur: Blur, photograph: Tensor) -> tuple[LinearMeasurement, Tensor]:
    return LinearMeasurement(blur, blur.measured(photograph)), photograph


def mixed(mix: ChannelMix, picture: Tensor) -> tuple[LinearMeasurement, Tensor]:
    y = mix.A(picture)
    flat = y.expand(-1, 3, -1, -1) if y.shape[1] == 1 else mix.A_dagger(y).clamp(0, 1)
    return LinearMeasurement(mix, y), flat


def masked(picture: Tensor, mask: Tensor | None) -> tuple[LinearMeasurement, Tensor]:
    if mask is None:
        raise ValueError(
            "mask: nothing is connected, but the operator 'pixel mask' needs it. Connect a mask, 1 (white) = unknown."
        )
    image = picture.movedim(1, -1)
    mask = fit_mask(mask, image).to(image.device)  # the host may keep pictures on the GPU, but no masks
    pictures = max(len(image), len(mask))
    image, mask = image.expand(pictures, -1, -1, -1), mask.expand(pictures, -1, -1)
    mask = (mask > 0).float()  # a pixel is measured or it is not
    known = PixelMask.of((1 - mask).unsqueeze(1))
    return LinearMeasurement(known, known.A(image.movedim(-1, 1))), extend_fill(image, mask).movedim(-1, 1)


def kernel_weights(kernel: Tensor | None) -> Tensor:
    """(n, m) from a picture (1, n, m, C) of the blurred point."""
    if kernel is None:
        raise ValueError(
            "kernel: nothing is connected, but the operator 'kernel' needs it. Connect a picture of the blurred point."
        )
    if kernel.shape[0] != 1:
        raise ValueError(f"kernel: there are {kernel.shape[0]} pictures. Give one.")
    return kernel[0, ..., :3].mean(-1)


def mix_matrix(text: str) -> Tensor:
    """(c, 3) from rows separated by semicolons."""
    try:
        rows = [[float(v) for v in row.replace(",", " ").split()] for row in text.split(";") if row.strip()]
    except ValueError:
        rows = []
    if not rows or any(len(row) != 3 for row in rows):
        raise ValueError(
            f"matrix: {text!r} is not rows of three numbers. Write for example '0.5 0.5 0; 0 0 1', one row for every "
            "mixture of red, green and blue that is kept."
        )
    if len(rows) > MOST_ROWS:
        raise ValueError(f"matrix: it has {len(rows)} rows; three say all. Give up to {MOST_ROWS}.")
    matrix = torch.tensor(rows, dtype=torch.float64)
    if not (matrix.abs() <= LARGEST_WEIGHT).all() or not matrix.any():
        raise ValueError(
            f"matrix: {text!r} measures nothing. Write numbers of at most {LARGEST_WEIGHT:g} that are not all zero, "
            "for example '0.5 0.5 0; 0 0 1'."
        )
    return matrix
