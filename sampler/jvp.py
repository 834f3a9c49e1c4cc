"""The product J e of the denoiser's Jacobian J = dx0/dx with an error direction."""

from torch import Tensor

from .denoiser import Denoiser, max_abs, unit_max


def forward_difference(denoise: Denoiser, x: Tensor, sigma: float, x0: Tensor, e: Tensor, delta: float) -> Tensor:
    """J e of each sample by one extra denoiser call, up to a positive factor (section 3.2).

    The perturbation is `delta * nu` at its largest element, so the returned value is
    `J e * (delta * nu / max|e|)`: its direction is what the step uses. e = 0 gives 0.

    Args:
        x, x0, e: (B, C, ..., H, W); `x0 = denoise(x, sigma)`.
        delta: relative size of the perturbation; .005 suits fp32, half precision needs more.
    """
    moved = denoise.perturbed_call(x + delta * denoise.scales(sigma).nu * unit_max(e), sigma) - x0
    return moved * (max_abs(e) > 0)
