"""Super-resolution: the low-resolution picture is known.

The filters and their windows are those of Pillow's `Image.resize` (libImaging/Resample.c, `precompute_coeffs`), which
widens a filter by the scale when it shrinks (antialiasing). Both agree to rounding. But Pillow rounds and clips 8-bit
pictures after each axis, columns first, so beside hard edges near black or white, where bicubic and Lanczos overshoot,
it is not linear: on photographs .06 and .2 % of the values are more than a level apart, by 12 and 24 at most.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .linear import computed, on_device


def box(t: Tensor) -> Tensor:
    return ((t > -0.5) & (t <= 0.5)).to(t)


def cubic(t: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -1/2."""
    t = t.abs()
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0))


def lanczos(t: Tensor) -> Tensor:
    """Sinc windowed by its own central lobe stretched to three."""
    return torch.where(t.abs() < 3, torch.sinc(t) * torch.sinc(t / 3), 0.0)


# Pillow's BOX, BICUBIC and LANCZOS: filter and half-width in low-resolution pixels.
FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "area": (box, 0.5),
    "bicubic": (cubic, 2.0),
    "lanczos": (lanczos, 3.0),
}


def axis_matrix(low: int, high: int, method: str) -> Tensor:
    """Weights (low, high) in double precision by which `high` pixels of one axis become `low`; each row sums to 1."""
    weight, support = FILTERS[method]
    scale = high / low
    centre = (torch.arange(low, dtype=torch.float64)[:, None] + 0.5) * scale
    pixel = torch.arange(high, dtype=torch.float64)
    first = (centre - support * scale + 0.5).floor()
    end = (centre + support * scale + 0.5).floor()
    weights = weight((pixel - centre + 0.5) * (1 / scale)) * ((pixel >= first) & (pixel < end))
    return weights / weights.sum(1, keepdim=True)


def right_inverse(matrix: Tensor, span: Tensor) -> Tensor:
    """R = S* (M S*)^-1 with M R = 1, whose columns are combinations of the rows of S; S = M: the pseudo-inverse."""
    return torch.linalg.solve(span @ matrix.T, span).T


def check_sizes(low: tuple[int, int], high: tuple[int, int], method: str) -> None:
    if method not in FILTERS:
        raise ValueError(f"method: {method!r} is unknown; choose one of {', '.join(FILTERS)}.")
    shown = f"low-resolution image: its size {low[0]}×{low[1]} (height × width)"
    if min(low) < 1:
        raise ValueError(f"{shown} is empty; give a picture of at least one pixel.")
    if low[0] > high[0] or low[1] > high[1]:
        raise ValueError(
            f"{shown} is larger than the target {high[0]}×{high[1]}; choose a larger target, or shrink the image first."
        )
    if low == high:
        raise ValueError(f"{shown} is already the target size, so there is nothing to enlarge; choose a larger target.")


@dataclass(frozen=True)
class Resample:
    """Shrinks (B, C, ..., H, W) to (B, C, ..., h, w); A_dagger is the pseudo-inverse, or a smoother right inverse.

    A is separable, so its pseudo-inverse is the product of those of the axes. Every filter here has independent rows
    (condition number per axis below 1.6 from factor 1.5 on, 11 for 500 of 501 pixels).

    Attributes:
        rows, columns: (h, H) and (w, W).
        rows_inverse, columns_inverse: (H, h) and (W, w).
    """

    rows: Tensor
    columns: Tensor
    rows_inverse: Tensor
    columns_inverse: Tensor

    @classmethod
    def between(
        cls, low: tuple[int, int], high: tuple[int, int], method: str = "area", smooth: bool = False
    ) -> "Resample":
        """From size `high` = (H, W) to `low` = (h, w) by "area", "bicubic" or "lanczos".

        Args:
            smooth: A_dagger enlarges, "area" bicubically, then corrects the means. Constants stay constant, where
                the pseudo-inverse shows blocks or darkens the border.
        """
        check_sizes(low, high, method)
        matrices = [axis_matrix(a, b, method) for a, b in zip(low, high, strict=True)]
        span = "bicubic" if smooth and method == "area" else method
        spans = [axis_matrix(a, b, span) for a, b in zip(low, high, strict=True)]
        if smooth:
            spans = [s / s.sum(0, keepdim=True) for s in spans]  # as weights of an interpolation
        return cls(*matrices, *map(right_inverse, matrices, spans))

    @classmethod
    def by_factor(cls, low: tuple[int, int], factor: int, method: str = "area", smooth: bool = False) -> "Resample":
        """To size `low` = (h, w) from pictures `factor` times as high and wide."""
        if factor % 1 != 0 or factor < 2:
            raise ValueError(
                f"factor: {factor} is not a whole number of at least 2; choose 2, 3, 4, ..., or give a target size."
            )
        return cls.between(low, (low[0] * int(factor), low[1] * int(factor)), method, smooth)

    def A(self, image: Tensor) -> Tensor:
        return along_axes(self.rows, self.columns, image)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return along_axes(self.rows.T, self.columns.T, y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return along_axes(self.rows_inverse, self.columns_inverse, y)

    def to(self, device: torch.device) -> "Resample":
        return on_device(self, device)


def along_axes(rows: Tensor, columns: Tensor, image: Tensor) -> Tensor:
    """rows @ image @ columns^T on the last two dimensions."""
    expected = (rows.shape[1], columns.shape[1])
    if image.shape[-2:] != expected:
        raise ValueError(
            f"image: its size {image.shape[-2]}×{image.shape[-1]} (height × width) is not {expected[0]}×{expected[1]}, "
            "for which this operator was made; make one for this size."
        )
    x = computed(image)
    return (rows.to(x) @ x @ columns.to(x).T).to(image.dtype)
