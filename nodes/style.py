"""Style: reference pictures give the look, the prompt gives the content."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..sampler import NORMALISATIONS, Features, StyleConstraint, reference_gram
from .checks import checked
from .comfy_adapter import PixelCodec, block_features
from .constraint_spec import LatentSpace
from .pixel_spec import DIRECTIONS, tile_input
from .sockets import CATEGORY, Constraint, schema
from .vae_checks import check_pictures_vae, check_tile


@dataclass(frozen=True)
class StyleSpec:
    """References and where to look at them, as they travel over the CONSTRAINT socket.

    Attributes:
        pictures: (R, 3, H, W) in [0, 1].
        load: readies the feature network on a device, for one run.
        vae: of the model.
        normalisation: of the Gram matrix.
        direction: one of `DIRECTIONS`.
        tile: side of the VAE's tiles in pixels; 0 = the whole picture at once.
    """

    pictures: Tensor
    load: Callable[[torch.device], Features]
    vae: Any
    normalisation: str = "none"
    direction: str = DIRECTIONS[0]
    tile: int = 0

    def bind(self, space: LatentSpace) -> StyleConstraint:
        if len(space.shape) != 4:
            raise ValueError(
                "constraint: style works on pictures so far, but a video latent is being sampled. Use a picture model."
            )
        if space.shape[1] != self.vae.latent_channels:
            raise ValueError(
                f"vae: its latents have {self.vae.latent_channels} channels, but the one being sampled has "
                f"{space.shape[1]}. Use the VAE that belongs to the model."
            )
        check_tile(self.tile, self.vae, tuple(n * self.vae.spacial_compression_encode() for n in space.shape[-2:]))
        features = self.load(space.device)
        reference = reference_gram(features, self.pictures.to(space.device), self.normalisation)
        codec = PixelCodec(self.vae, self.tile, space.process_in, space.process_out)
        decoder_vjp = codec.decoder_vjp if self.direction == "decoder gradient" else None
        return StyleConstraint(features, reference, codec.decode, decoder_vjp, self.normalisation)


def check_references(images: Tensor) -> Tensor:
    """(R, H, W, 3 or more) to (R, 3, H, W)."""
    pictures = images[..., :3].movedim(-1, 1).float()  # BHWC -> BCHW
    for i, picture in enumerate(pictures):
        if picture.flatten(1).std(1).max() < 1 / 255:
            raise ValueError(f"images: reference {i + 1} is of one colour, so it has no style. Choose another picture.")
    return pictures


class StyleConstraintNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="StyleConstraint",
            search_aliases=["style transfer", "style reference", "match style", "ip adapter"],
            advanced=("direction", "normalisation"),
            display_name="Style Constraint",
            category=CATEGORY,
            description="The finished picture has the colours and textures of the references, and the prompt's "
            "content. No adapter, no training; any image encoder that Load CLIP Vision reads. Use a cfg of 1.5 to 3.",
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="One or more pictures whose look is wanted, of any size. Their styles are averaged.",
                ),
                io.ClipVision.Input(
                    "clip_vision", tooltip="From Load CLIP Vision: CLIP ViT-L, ViT-H or ViT-G, SigLIP or DINOv2."
                ),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Int.Input(
                    "block",
                    default=2,
                    min=0,
                    max=63,
                    tooltip="After which block of the image encoder its features are compared; 0 is the first. Early "
                    "ones see colour and texture, later ones objects.",
                ),
                io.Combo.Input(
                    "normalisation",
                    options=list(NORMALISATIONS),
                    default="none",
                    tooltip="Of the features, before their products are averaged. none: as in the paper. unit tokens: "
                    "every place in the picture counts alike. centred: without their mean, which leaves the overall "
                    "colours to the model.",
                ),
                io.Combo.Input(
                    "direction",
                    options=list(DIRECTIONS),
                    default=DIRECTIONS[0],
                    optional=True,
                    tooltip="From pixels to the latent. forward only: backpropagates through the image encoder alone, "
                    "and obeys more strongly. decoder gradient: as in the paper, through the VAE's decoder too, which "
                    "takes more memory.",
                ),
                tile_input(),
            ],
            outputs=[Constraint.Output(display_name="CONSTRAINT", tooltip="For the samplers of this pack.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        images: Tensor,
        clip_vision: Any,
        vae: Any,
        block: int,
        normalisation: str,
        direction: str = DIRECTIONS[0],
        tile: int = 0,
    ) -> io.NodeOutput:
        pictures, load = check_references(images), block_features(clip_vision, block)
        check_pictures_vae(vae)
        check_tile(tile, vae, (tile, tile))
        return io.NodeOutput(StyleSpec(pictures, load, vae, normalisation, direction, tile))
