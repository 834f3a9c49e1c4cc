"""Between latents and pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import comfy.model_management
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...sampler import Backprojection, Estimate, tiled
from ..vae_checks import INCOMPLETE, NO_ENCODER, as_frames, check_frames, has_encoder
from .precision import encoder_step
from .weights import free_memory, with_copied_weights

Map = Callable[[Tensor], Tensor]

# Peak of a decoder's gradient over what autograd keeps for it: 1.25 to 1.31 with TAESD and the KL decoder of SD1.5 on a
# CPU. Split attention, which is not linear in area, adds 5 % at 1024 pixels and 18 % at 2048.
GRADIENT_PEAK = 1.4
TILE_STEP = 64  # pixels, of the widget
# Pictures in float32 that are alive while tiles are put together.
CANVASES = 5


def same(t: Tensor) -> Tensor:
    return t


def start_latent(vae: Any, image: Tensor, tile: int, needs_encoder: bool) -> Tensor:
    """The VAE's latent of `image` (B, H, W, 3); an empty one without an encoder, where none is needed."""
    check_frames(vae, len(image))
    if has_encoder(vae):
        return PixelCodec(vae, tile).encode(as_frames(vae, image.movedim(-1, 1)))
    if vae.latent_dim != 2:
        raise ValueError(f"{INCOMPLETE}Load the complete VAE.")
    if needs_encoder:
        raise ValueError(NO_ENCODER)
    ratio = vae.spacial_compression_encode()
    return torch.zeros(image.shape[0], vae.latent_channels, image.shape[1] // ratio, image.shape[2] // ratio)


@dataclass(frozen=True)
class PixelCodec:
    """Between x0 and pictures (B, 3, H, W) in [0, 1]; of a video VAE (B, 3, T, H, W).

    Attributes:
        tile: side of the tiles in pixels, a multiple of the VAE's ratio; 0 = the whole picture at once.
        process_in, process_out: from the VAE's latent to x0 and back, as in `LatentSpace`.
    """

    vae: Any
    tile: int = 0
    process_in: Map = same
    process_out: Map = same

    @property
    def step(self) -> float:
        """Smallest movement of a picture whose encoding stands out of rounding."""
        return encoder_step(self.vae.vae_dtype, self.vae.device)

    @property
    def ratio(self) -> int:
        return self.vae.spacial_compression_encode()

    def cells(self, x: Tensor, unit: int) -> int:
        """Side of a tile in latent cells, for an x of `unit` elements a cell."""
        whole = max(x.shape[-2:]) // unit
        return min(whole, self.tile // self.ratio) if self.tile else whole

    def over_tiles(self, apply: Map, x: Tensor, unit_in: int, unit_out: int) -> Tensor:
        def interruptible(part: Tensor) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            return apply(part).to(x.device, torch.float32)

        cells = self.cells(x, unit_in)
        return tiled(interruptible, x, cells, cells // 4, unit_in, unit_out)

    def decode(self, x0: Tensor) -> Tensor:
        def one(z: Tensor) -> Tensor:
            return self.vae.decode(z).movedim(-1, 1)[:, :3]  # BHWC -> BCHW; some VAEs have a fourth channel, alpha

        return self.over_tiles(one, self.process_out(x0), 1, self.ratio)

    def encode(self, picture: Tensor) -> Tensor:
        def one(part: Tensor) -> Tensor:
            pictures = part.movedim(1, -1)  # BCHW -> BHWC, of a video BCTHW -> BTHWC
            return self.vae.encode(pictures) if part.ndim == 4 else torch.cat([self.vae.encode(v) for v in pictures])

        return self.process_in(self.over_tiles(one, picture, self.ratio, 1))

    def decoder_vjp(self, estimate: Estimate, residual: Map, measurement: Backprojection) -> Tensor:
        """The vector-Jacobian product of the unclamped decoder at x0 with A* r, r = residual(Dec(x0)), by autograd.

        Raises:
            ValueError: there is not enough memory.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x0, decode = estimate.x0, self.differentiable_decoder
            self.make_room(x0)
            z = x0.clone().requires_grad_()
            if self.cells(z, 1) < max(z.shape[-2:]):
                # One tile at a time keeps what its gradient needs, for another forward pass.
                decode = partial(checkpoint, decode, use_reentrant=False)
            try:
                picture = self.over_tiles(decode, self.process_out(z), 1, self.ratio)
                return torch.autograd.grad(picture, z, measurement.A_adjoint(residual(picture.detach())))[0]
            except comfy.model_management.OOM_EXCEPTION:
                pass  # what the exception holds is free once it is gone
        comfy.model_management.soft_empty_cache()
        side = self.cells(x0, 1) * self.ratio
        raise ValueError(
            f"vae: the memory did not suffice for its decoder's gradient on {len(x0)} tiles of {side} pixels. "
            + self.smaller_tile(x0, side // 2)
        )

    @cached_property
    def differentiable_decoder(self) -> Map:
        """Copies of the weights are kept for the run that this codec belongs to."""
        comfy.model_management.load_models_gpu([self.vae.patcher])
        return differentiable_decoder(self.vae)

    @cached_property
    def gradient_bytes(self) -> float:
        """Bytes that the gradient of one picture takes at most, per latent cell."""
        few, more = (
            kept_for_gradient(self.differentiable_decoder, torch.zeros(1, self.vae.latent_channels, n, n))
            for n in (4, 8)
        )
        return GRADIENT_PEAK * (more - few) / (8**2 - 4**2)

    def make_room(self, x0: Tensor) -> None:
        """Free what a tile's gradient takes, as measured on small latents, and the whole picture that it is put in."""
        cells = self.cells(x0, 1)
        side, needed = cells * self.ratio, self.gradient_memory(x0, cells)
        comfy.model_management.load_models_gpu([self.vae.patcher], memory_required=needed)
        free = free_memory(self.vae.patcher, self.vae.device)
        if free < needed:
            raise ValueError(
                f"vae: its decoder's gradient on {len(x0)} tiles of {side} pixels needs about {needed / 2**30:.1f} GB, "
                f"but {free / 2**30:.1f} GB are free. " + self.smaller_tile(x0, side)
            )

    def gradient_memory(self, x0: Tensor, cells: int) -> float:
        """Bytes that the gradient at x0 takes in tiles of so many cells a side."""
        batch, _, *shape = x0.shape
        height, width = (min(n, cells) for n in shape)
        return batch * (self.gradient_bytes * height * width + CANVASES * 3 * 4 * self.ratio**2 * shape[0] * shape[1])

    def smaller_tile(self, x0: Tensor, most: int) -> str:
        """The remedy where memory is short: the largest tile that fits now, of at most so many pixels a side."""
        free = free_memory(self.vae.patcher, self.vae.device)
        sides = range(most // TILE_STEP * TILE_STEP, 0, -TILE_STEP)
        fits = (side for side in sides if self.gradient_memory(x0, side // self.ratio) <= free)
        forward = "Set direction to 'forward only', which needs no gradient."
        return next((f"Set tile to {side}, which fits, or direction to 'forward only'." for side in fits), forward)


def kept_for_gradient(function: Map, z: Tensor) -> int:
    """Bytes that autograd keeps of `function` at z, its weights among them."""
    kept = {}

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t.detach()  # t itself would hold the graph that holds it, for good

    with torch.autograd.graph.saved_tensors_hooks(keep, same):
        _graph = function(z.requires_grad_())  # alive, or a storage's address would come twice
    return sum(kept.values())


def differentiable_decoder(vae: Any) -> Map:
    """Latent to unclamped picture, on copies of the decoder's weights."""
    raw = with_copied_weights(
        vae.first_stage_model, vae.first_stage_model.decode, vae.device, lambda name: "encoder" not in name
    )
    # The host's affine map from the decoder's range to pictures, measured inside of its clamp.
    black, quarter = (float(vae.process_output(torch.full((1,), v))) for v in (0.0, 0.5))

    def decode(z: Tensor) -> Tensor:
        return black + 2 * (quarter - black) * raw(z.to(vae.vae_dtype).to(vae.device)).float()

    return decode
