"""A measurement of the finished picture, as it travels over the CONSTRAINT socket."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..sampler import (
    Constraint,
    EncoderDifference,
    FixedPoint,
    LinearMeasurement,
    Measurement,
    PixelConstraint,
    PixelMask,
    least_squares,
)
from .comfy_adapter import PixelCodec
from .constraint_spec import LatentSpace
from .vae_checks import NO_ENCODER, as_frames, check_tile, has_encoder, is_video, latent_frames

DIRECTIONS = ("forward only", "decoder gradient")


@dataclass(frozen=True)
class PixelSpec:
    """What the finished picture must satisfy, and how the way there is found.

    Attributes:
        measurement: on pictures (B, 3, H, W) in [0, 1]; those of a video are the batch.
        vae: of the model.
        size: (H, W) of the finished picture; None = any.
        pictures: how many pictures are measured; 1 = one for the whole batch.
        noise: sigma_y, in units of the picture.
        direction: one of `DIRECTIONS`.
        tile: side of the VAE's tiles in pixels; 0 = the whole picture at once.
    """

    measurement: Measurement
    vae: Any
    size: tuple[int, int] | None = None
    pictures: int = 1
    noise: float = 0.0
    direction: str = DIRECTIONS[0]
    tile: int = 0

    def bind(self, space: LatentSpace) -> Constraint:
        self.check_latent(space)
        check_tile(self.tile, self.vae, tuple(n * self.vae.spacial_compression_encode() for n in space.shape[-2:]))
        codec = PixelCodec(self.vae, self.tile, space.process_in, space.process_out)
        measurement = for_each(self.for_vae(), space.per_latent).to(space.device)
        difference = EncoderDifference(codec.encode, codec.step)
        linear = isinstance(measurement, LinearMeasurement)
        if isinstance(measurement, FixedPoint):
            measurement.data_residual(self.grey_picture(space))  # a function that cannot do it says so before any call
        if self.direction != "forward only":
            to_latent = codec.decoder_vjp
        elif self.vae.latent_dim == 3:
            to_latent = difference  # the fitted Jacobian is one of single pictures
        else:
            to_latent = least_squares if linear else difference
            if not (linear or has_encoder(self.vae)):
                raise ValueError(NO_ENCODER)
        # The encoder knows how to move x0, J which way leads there.
        to_x0 = difference if linear and has_encoder(self.vae) else None
        return PixelConstraint(measurement, codec.decode, to_latent, self.noise, to_x0)

    def for_vae(self) -> Measurement:
        """The measurement of what the VAE's decoder gives: of a video VAE all pictures are one video.

        Raises:
            ValueError: the VAE's is video, and the way to the latent, or the measurement, is one of pictures alone.
        """
        if self.vae.latent_dim == 2:
            return self.measurement
        if self.direction != "forward only":
            raise ValueError("direction: 'decoder gradient' is for pictures. Set 'forward only' for a video VAE.")
        if type(self.measurement) is not LinearMeasurement:  # JPEG and functions take pictures
            raise ValueError(
                "vae: it is a video VAE, and this constraint works on pictures so far. For video use "
                "Super-Resolution Constraint, or a linear operator of Deblur and Colorize Constraint."
            )
        operator = self.measurement.operator
        if isinstance(operator, PixelMask):
            operator = PixelMask(as_frames(self.vae, operator.known))
        return replace(self.measurement, operator=operator, y=as_frames(self.vae, self.measurement.y))

    def grey_picture(self, space: LatentSpace) -> Tensor:
        ratio = self.vae.spacial_compression_encode()
        return torch.full((space.shape[0], 3, *(n * ratio for n in space.shape[-2:])), 0.5, device=space.device)

    def check_latent(self, space: LatentSpace) -> None:
        ratio = self.vae.spacial_compression_encode()
        found = tuple(space.shape[-2:])
        expected = found if self.size is None else (self.size[0] // ratio, self.size[1] // ratio)
        frames = space.shape[2] if is_video(self.vae) and len(space.shape) == 5 else 1
        wrong_frames = is_video(self.vae) and latent_frames(self.vae, self.pictures) not in (1, frames)
        if found != expected or len(space.shape) != 2 + self.vae.latent_dim or wrong_frames:
            wanted = (
                "pictures"
                if self.size is None
                else (f"pictures of {self.size[1]}x{self.size[0]}, a latent of {expected[1]}x{expected[0]}")
            )
            if is_video(self.vae):
                wanted += f" and {latent_frames(self.vae, self.pictures)} frames"
            raise ValueError(
                f"constraint: it is for {wanted}, but the one being sampled is "
                f"{'x'.join(map(str, reversed(space.shape[2:])))}. Use the LATENT output of the same constraint node, "
                "and the VAE that belongs to the model."
            )
        if space.shape[1] != self.vae.latent_channels:
            raise ValueError(
                f"vae: its latents have {self.vae.latent_channels} channels, but the one being sampled has "
                f"{space.shape[1]}. Use the VAE that belongs to the model."
            )


def for_each(measurement: Measurement, pictures: Callable[[Tensor], Tensor]) -> Measurement:
    """With a measured picture for each of a batch: `pictures` repeats, cuts or chooses them."""
    if not isinstance(measurement, LinearMeasurement):
        return measurement
    operator = measurement.operator
    if isinstance(operator, PixelMask):
        operator = PixelMask(pictures(operator.known))
    return replace(measurement, operator=operator, y=pictures(measurement.y))


def tile_input() -> io.Input:
    return io.Int.Input(
        "tile",
        default=0,
        min=0,
        max=8192,
        step=64,
        optional=True,
        tooltip="Side of the tiles, in pixels, in which the VAE sees the picture; 0 = all of it at once. For large "
        "pictures, 512 for example.",
    )


ADVANCED = ("direction",)  # of `vae_inputs`


def vae_inputs() -> list[io.Input]:
    """The widgets that every pixel constraint ends with."""
    return [
        io.Combo.Input(
            "direction",
            options=list(DIRECTIONS),
            default=DIRECTIONS[0],
            optional=True,
            tooltip="How an error in pixels becomes one in the latent. forward only: no gradient, least memory. "
            "decoder gradient: as in the paper, backpropagates through the VAE's decoder.",
        ),
        tile_input(),
    ]
