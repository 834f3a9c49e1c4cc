"""The diffusion model as the method sees it: a denoiser and the scales of its input."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Scales(NamedTuple):
    """Scales of a noisy input `x = alpha * x0 + s * n`, n ~ N(0, I), at one noise level.

    `sigma_data` is the standard deviation of x0 that the model was trained for: 1, but .5 for most EDM models.
    """

    alpha: float
    s: float
    sigma_data: float = 1.0

    @property
    def nu(self) -> float:
        """Standard deviation of the noisy input; the paper's steps are stated for x / nu and data of variance 1."""
        return ((self.alpha * self.sigma_data) ** 2 + self.s**2) ** 0.5


class Level(NamedTuple):
    """One noise level of a run: its number from the top, sigma as the host gives it, and its scales."""

    i: int
    sigma: float
    scales: Scales


def levels_of(sigmas: Sequence[float], scales: Callable[[float], Scales]) -> list[Level]:
    return [Level(i, sigma, scales(sigma)) for i, sigma in enumerate(sigmas)]


class Denoiser:
    """`x0 = denoise(x, sigma)`: the guided, clean prediction, with its calls counted (NFE).

    Args:
        model: maps `x` (B, C, ..., H, W) and `sigma` (B,) to x0 of the shape of `x`.
        scales: maps a noise level to its `Scales`; sigma = 0 must give alpha > 0 and s = 0.
        perturbed_model: stands for the model close to where it was called last, at less cost.
        conditional: what the model's last call said before guidance was added, of the shape of x0; None where it does
            not tell.
        unguided_model: the model without guidance, called at noise levels where `guided` is False.

    Attributes:
        guided: whether guidance is added at a noise level; a run may limit it.
        calls: NFE so far.
        guidance: what guidance added to x0 in the last call, of its shape; 0 where the model does not tell.
    """

    def __init__(
        self,
        model: Callable[[Tensor, Tensor], Tensor],
        scales: Callable[[float], Scales],
        perturbed_model: Callable[[Tensor, Tensor], Tensor] | None = None,
        conditional: Callable[[], Tensor | None] = lambda: None,
        unguided_model: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):
        self.model = model
        self.scales = scales
        self.perturbed_model = perturbed_model
        self.conditional = conditional
        self.unguided_model = unguided_model
        self.guided: Callable[[float], bool] = lambda sigma: True
        self.calls = 0
        self.guidance: Tensor | float = 0.0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.calls += 1
        x0 = self.at(sigma, self.model)(x, x.new_full((x.shape[0],), sigma))
        before = self.conditional()
        self.guidance = 0.0 if before is None else x0 - before
        return x0

    def perturbed_call(self, x: Tensor, sigma: float) -> Tensor:
        """x0 at a small perturbation of the last input."""
        self.calls += 1
        return self.at(sigma, self.perturbed_model or self.model)(x, x.new_full((x.shape[0],), sigma))

    def at(self, sigma: float, model: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """What is called at a noise level: this model, or the one without guidance."""
        return model if self.unguided_model is None or self.guided(sigma) else self.unguided_model


def max_abs(t: Tensor) -> Tensor:
    """Largest magnitude of each sample, shaped (B, 1, ...) to broadcast over `t`."""
    return t.abs().amax(dim=tuple(range(1, t.ndim)), keepdim=True)


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """(B,) to (B, 1, ...), to broadcast over `like`."""
    return value.reshape(-1, *(1,) * (like.ndim - 1))


def beyond_noise(size: Tensor, noise: float | Tensor, like: Tensor) -> Tensor:
    """The share of a residual of rms `size` (B,) that its measurement noise sigma_y leaves to correct, for `like`."""
    return per_sample((1 - noise / size.clamp(min=1e-9)).clamp(min=0), like)


def unit_max(t: Tensor) -> Tensor:
    """Each sample scaled to largest magnitude 1; a sample that is all zeros stays zero."""
    scale = max_abs(t)
    return t / torch.where(scale > 0, scale, 1.0)
