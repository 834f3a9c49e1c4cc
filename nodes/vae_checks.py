"""What a VAE can do, checked before it is needed."""

import logging
import math
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("newton_constrained_sampling")

# What a VAE without one half raises.
BROKEN = NotImplementedError, AttributeError, TypeError
INCOMPLETE = "vae: what it encodes does not come back when decoded, so it has no encoder or not that of its decoder. "
NO_ENCODER = INCOMPLETE + (
    "Load the complete VAE, or set direction to 'decoder gradient', which needs the decoder only."
)
MANY_TILES = 100


def check_vae(name: str, vae: Any, _: Any = None) -> None:
    """A VAE that turns a small latent into a picture; what needs its encoder asks `has_encoder` too."""
    methods = ("encode", "decode", "spacial_compression_encode")
    if not all(callable(getattr(vae, m, None)) for m in methods) or getattr(vae, "first_stage_model", vae) is None:
        raise ValueError(f"{name}: there is no VAE in it; a checkpoint may come without one. Connect Load VAE.")
    if vae.latent_dim != 2:
        return  # the nodes for pictures alone say so themselves
    try:
        picture = vae.decode(torch.zeros(1, vae.latent_channels, 8, 8))
    except BROKEN:
        picture = None
    if picture is None or picture.ndim != 4 or picture.shape[-1] != 3 or not picture.isfinite().all():
        raise ValueError(
            f"{name}: it gives no picture, so its decoder is missing or broken (NaN, or other channels). Load the "
            "complete VAE, in fp32 if fp16 gives black pictures."
        )
    told = vae.spacial_compression_encode()
    if picture.shape[1] != 8 * told:
        raise ValueError(
            f"{name}: it draws {picture.shape[1] // 8} pixels to a latent cell where ComfyUI expects {told}, as some "
            "small decoders for previews do. Load the complete VAE."
        )


def has_encoder(vae: Any) -> bool:
    """Whether a colour ramp survives the VAE: a missing encoder leaves its weights unset, without an error."""
    side = 8 * vae.spacial_compression_encode()
    ramp = torch.linspace(0, 1, side)
    pattern = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), ramp.flip(0).expand(side, side)])
    pattern = pattern.movedim(0, -1)[None]  # CHW -> BHWC
    try:
        back = vae.decode(vae.encode(pattern)).to(pattern)
    except BROKEN:
        return False
    return bool((back - pattern).square().mean().sqrt() < 0.2)


def check_pictures_vae(vae: Any) -> None:
    if vae.latent_dim != 2:
        raise ValueError(
            "vae: it is a video or audio VAE; this node works on pictures so far. Use the VAE of a picture model."
        )


def check_frames(vae: Any, count: int) -> None:
    """A picture VAE, or a video VAE that packs `count` pictures into whole latent frames."""
    if vae.latent_dim not in (2, 3):
        raise ValueError("vae: it is an audio VAE; this node works on pictures and video. Use the model's own VAE.")
    if vae.latent_dim == 2 or not is_video(vae) or pictures_of(vae, latent_frames(vae, count)) == count:
        return
    fewer = pictures_of(vae, latent_frames(vae, count))
    more = pictures_of(vae, latent_frames(vae, fewer) + 1)
    raise ValueError(
        f"image: {count} pictures are no whole number of the video VAE's latent frames. Give {fewer} or {more}."
    )


def is_video(vae: Any) -> bool:
    """Some VAEs of pictures have the shape of one for video, of one frame."""
    return vae.latent_dim == 3 and not getattr(vae, "not_video", False)


def latent_frames(vae: Any, pictures: int) -> int:
    return vae.downscale_ratio[0](pictures)


def pictures_of(vae: Any, frames: int) -> int:
    return vae.upscale_ratio[0](frames)


def as_frames(vae: Any, pictures: Tensor) -> Tensor:
    """(N, C, H, W) as the VAE takes them: N pictures, (1, C, N, H, W) one video, or (N, C, 1, H, W)."""
    if vae.latent_dim == 2:
        return pictures
    return pictures.movedim(0, 1)[None] if is_video(vae) else pictures.unsqueeze(2)


def encode(vae: Any, picture: Tensor) -> Tensor:
    """The VAE's latent of (B, H, W, 3).

    Raises:
        ValueError: no encoder, or not that of the decoder.
    """
    samples = None
    if vae.latent_dim != 2 or has_encoder(vae):
        try:
            samples = vae.encode(picture)
        except BROKEN:
            samples = None
    if samples is None or not samples.isfinite().all():
        raise ValueError(f"{INCOMPLETE}Load the complete VAE.")
    return samples


def check_tile(tile: int, vae: Any, size: tuple[int, int]) -> None:
    """Side of the tiles in pixels, 0 = no tiles, for a picture of `size` (H, W); many of them are announced."""
    ratio = vae.spacial_compression_encode()
    if 0 < tile < ratio:
        raise ValueError(
            f"tile: {tile} is below the VAE's ratio of {ratio}, so a tile would hold no latent cell. Set 512, or 0 for "
            "the whole picture at once."
        )
    cells = [max(1, n // ratio) for n in size]
    side = min(max(cells), tile // ratio) if tile else max(cells)
    count = math.prod(math.ceil(max(0, n - side) / (side - side // 4)) + 1 for n in cells)
    if count > MANY_TILES:
        log.warning(
            "tile: %d splits a picture of %dx%d into %d tiles for every decoding and encoding. Larger ones are faster.",
            tile, size[1], size[0], count,
        )  # fmt: skip
