"""Between latents and pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_management
import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from ...sampler import tiled
from ..constraint_spec import LatentSpace

# The decoder keeps about this many times the memory of a plain decode when its gradient is wanted.
GRADIENT_MEMORY = 3


def check_vae(vae: Any) -> None:
    if vae.latent_dim != 2:
        raise ValueError("vae: it is a video or audio VAE; pixel constraints work on pictures so far.")


def has_encoder(vae: Any) -> bool:
    """Whether a colour ramp survives the VAE: a missing encoder leaves its weights unset, without an error."""
    side = 8 * vae.spacial_compression_encode()
    ramp = torch.linspace(0, 1, side)
    pattern = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), ramp.flip(0).expand(side, side)])
    pattern = pattern.movedim(0, -1)[None]  # CHW -> BHWC
    try:
        back = vae.decode(vae.encode(pattern)).to(pattern)
    except (NotImplementedError, AttributeError):
        return False
    return bool((back - pattern).square().mean().sqrt() < 0.2)


def start_latent(vae: Any, image: Tensor, needs_encoder: bool) -> Tensor:
    """The VAE's latent of `image` (B, H, W, 3); an empty one without an encoder, where none is needed."""
    check_vae(vae)
    if has_encoder(vae):
        return vae.encode(image)
    if needs_encoder:
        raise ValueError(
            "vae: what it encodes does not come back when decoded, so it has no encoder or not that of its decoder. "
            "Load the complete VAE, or set direction to 'decoder gradient', which needs the decoder only."
        )
    ratio = vae.spacial_compression_encode()
    return torch.zeros(image.shape[0], vae.latent_channels, image.shape[1] // ratio, image.shape[2] // ratio)


class Decoder(torch.nn.Module):
    """The decoder of a VAE as a module's forward pass."""

    def __init__(self, first_stage: torch.nn.Module):
        super().__init__()
        self.first_stage = first_stage

    def forward(self, z: Tensor) -> Tensor:
        return self.first_stage.decode(z)


@dataclass(frozen=True)
class PixelCodec:
    """Between x0 and pictures (B, 3, H, W) in [0, 1], for one VAE in one run.

    Attributes:
        tile: side of the tiles, in pixels; 0 = the whole picture at once.
    """

    vae: Any
    space: LatentSpace
    tile: int = 0

    @property
    def step(self) -> float:
        """h of the encoder's difference: in half precision a smaller step than .1 drowns in rounding."""
        return 0.005 if self.vae.vae_dtype == torch.float32 else 0.1

    def over_tiles(self, apply: Callable[[Tensor], Tensor], x: Tensor, unit_in: int, unit_out: int) -> Tensor:
        def interruptible(part: Tensor) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            return apply(part)

        cells = self.cells(x, unit_in)
        return tiled(interruptible, x, cells, cells // 4, unit_in, unit_out)

    def cells(self, x: Tensor, unit: int) -> int:
        """Side of a tile in latent cells."""
        whole = max(x.shape[-2:]) // unit
        return min(whole, max(8, self.tile // self.ratio)) if self.tile else whole

    @property
    def ratio(self) -> int:
        return self.vae.spacial_compression_encode()

    def decode(self, x0: Tensor) -> Tensor:
        def one(z: Tensor) -> Tensor:
            return self.vae.decode(z).movedim(-1, 1).to(self.space.device, torch.float32)  # BHWC -> BCHW

        return self.over_tiles(one, self.space.process_out(x0), 1, self.ratio)

    def encode(self, picture: Tensor) -> Tensor:
        def one(part: Tensor) -> Tensor:
            return self.vae.encode(part.movedim(1, -1)).to(self.space.device, torch.float32)

        return self.space.process_in(self.over_tiles(one, picture, self.ratio, 1))

    def pull_back(self, x0: Tensor, wish: Callable[[Tensor], Tensor]) -> Tensor:
        """The unclamped decoder's transposed Jacobian at x0 times wish(Dec(x0)), by autograd."""
        self.make_room(x0)
        with torch.inference_mode(False), torch.enable_grad():
            decode = self.differentiable_decoder()
            z = x0.clone().requires_grad_()
            # Of several tiles only one at a time keeps what its gradient needs, for another forward pass.
            frugal = (
                decode if self.cells(z, 1) >= max(z.shape[-2:]) else partial(checkpoint, decode, use_reentrant=False)
            )
            picture = self.over_tiles(frugal, self.space.process_out(z), 1, self.ratio)
            return torch.autograd.grad(picture, z, wish(picture.detach()))[0]

    def make_room(self, x0: Tensor) -> None:
        cells = self.cells(x0, 1)
        needed = GRADIENT_MEMORY * self.vae.memory_used_decode((1, x0.shape[1], cells, cells), self.vae.vae_dtype)
        needed *= x0.shape[0]
        comfy.model_management.load_models_gpu([self.vae.patcher], memory_required=needed)
        free = comfy.model_management.get_free_memory(self.vae.device)
        if free < needed:
            raise ValueError(
                f"vae: its decoder's gradient on {x0.shape[0]} tiles of {cells * self.ratio} pixels needs about "
                f"{needed / 2**30:.1f} GB, but {free / 2**30:.1f} GB are free. Set tile to a smaller size, for example "
                "256, or direction to 'forward only'."
            )

    def differentiable_decoder(self) -> Callable[[Tensor], Tensor]:
        """Latent to unclamped picture, on copies of the weights made outside inference mode: autograd needs those."""
        vae, module = self.vae, Decoder(self.vae.first_stage_model)
        weights = {k: v.detach().to(vae.device).clone() for k, v in module.state_dict(keep_vars=True).items()}
        # The host's affine map from the decoder's range to pictures, measured inside of its clamp.
        black, quarter = (float(vae.process_output(torch.full((1,), v))) for v in (0.0, 0.5))

        def decode(z: Tensor) -> Tensor:
            raw = functional_call(module, weights, (z.to(vae.vae_dtype).to(vae.device),)).float()
            return (black + 2 * (quarter - black) * raw).to(self.space.device)

        return decode
