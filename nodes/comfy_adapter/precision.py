"""How finely a device really computes, and the step of a difference that stands out of it."""

from typing import Any

import torch

from ...sampler import NewtonSettings

# TF32 rounds what goes into a convolution to 10 bits of mantissa, as float16 does, and keeps its sums in float32.
TF32_DELTA = 0.05
# Of an encoder, in units of the picture.
ENCODER_STEP, TF32_ENCODER_STEP, HALF_ENCODER_STEP = 0.005, 0.05, 0.1


def network_dtype(base: Any) -> torch.dtype:
    """In which the host computes a BaseModel."""
    return base.manual_cast_dtype or base.get_dtype()


def is_tf32(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a float32 network is computed in TF32: torch's default for convolutions since Ampere."""
    if dtype != torch.float32 or device.type != "cuda":
        return False
    try:
        allowed = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:  # set by operation (`fp32_precision`): torch refuses a common answer, and some may use it
        allowed = True
    return bool(allowed) and torch.cuda.get_device_capability(device) >= (8, 0)


def delta_for(settings: NewtonSettings, dtype: torch.dtype, device: torch.device) -> float:
    """The perturbation of the forward difference: the user's, or by the precision of the network."""
    return TF32_DELTA if settings.delta is None and is_tf32(dtype, device) else settings.delta_for(dtype)


def encoder_step(dtype: torch.dtype, device: torch.device) -> float:
    """Smallest movement of a picture whose encoding stands out of rounding."""
    if is_tf32(dtype, device):
        return TF32_ENCODER_STEP
    return ENCODER_STEP if dtype == torch.float32 else HALF_ENCODER_STEP
