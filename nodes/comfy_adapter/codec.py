"""Between latents and pictures."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..constraint_spec import LatentSpace


def pixel_codec(vae: Any, space: LatentSpace) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], float]:
    """Decode and encode between x0 and pictures (B, 3, H, W) in [0, 1], and the step h of the encoder's difference.

    In half precision a smaller step than .1 drowns in rounding.
    """

    def decode(x0: Tensor) -> Tensor:
        return vae.decode(space.process_out(x0)).movedim(-1, 1).to(space.device, torch.float32)  # BHWC -> BCHW

    def encode(picture: Tensor) -> Tensor:
        return space.process_in(vae.encode(picture.movedim(1, -1)).to(space.device, torch.float32))

    return decode, encode, 0.005 if vae.vae_dtype == torch.float32 else 0.1
