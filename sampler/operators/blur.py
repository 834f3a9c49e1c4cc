"""Deblurring: the picture is known through a convolution.

Boundary: A keeps the pixels whose blur lies wholly inside the picture ("valid"), because what a camera smeared in
from outside is unknown. Measured on four photographs blurred beyond their frame and rounded to 8 bits, cut-off .05,
mean change of the *true* picture I under I + A_dagger(y − A I), in levels:

    kernel                      wrap-around   mirrored   valid
    Gaussian of 2 pixels                7.5        1.0     .65
    motion of 15 pixels, 30°           17.1        3.8     1.8
    motion of 31 pixels, level         22.7        5.8     1.3

What is left under `valid` is the rounding of y. Wrap-around and mirroring contradict y at the frame, and the inverse
spreads that over the picture. The frame that `valid` leaves out of y is still seen through its neighbours, and is
otherwise left to the model.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .linear import computed, on_device


def gaussian_kernel(sigma: float) -> Tensor:
    """Gaussian of standard deviation `sigma` pixels > 0, (n, n), cut at three of them."""
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma: {sigma} is not a blur radius; choose a number of pixels above 0.")
    radius = math.ceil(3 * sigma)
    bell = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return torch.outer(bell, bell) / bell.sum() ** 2


def motion_kernel(length: float, angle: float) -> Tensor:
    """Even motion along a line of `length` > 1 pixels, `angle` degrees anticlockwise from the horizontal, (n, m)."""
    if not (1 < length < math.inf and math.isfinite(angle)):
        raise ValueError(
            f"length {length}, angle {angle}: not a motion; choose a length above 1 pixel and an angle in degrees."
        )
    t = torch.linspace(-0.5, 0.5, 16 * math.ceil(length) + 1, dtype=torch.float64) * (length - 1)
    drop, run = -t * math.sin(math.radians(angle)), t * math.cos(math.radians(angle))
    return torch.einsum("ti,tj->ij", shared_out(drop), shared_out(run)) / len(t)


def shared_out(position: Tensor) -> Tensor:
    """Each position (T,) shared linearly between its two nearest pixels, (T, 2 r + 1) about the origin."""
    radius = math.ceil(position.abs().max().item() - 1e-9)
    return (1 - (position[:, None] - torch.arange(-radius, radius + 1)).abs()).clamp(min=0)


@dataclass(frozen=True)
class Blur:
    """Convolves (B, C, ..., H, W) with a kernel (n, m) to (B, C, ..., H - n + 1, W - m + 1).

    A_dagger is a truncated inverse on the torus: the missing frame of y is filled by smooth steps between opposite
    edges, then every frequency is divided by the kernel's response, or dropped where that is below the cut-off. If
    none is dropped, A A+ A = A exactly, though A+ y is not the smallest such picture, for its frame follows the fill.
    Otherwise |A A+ A x - A x| is about cutoff |x|: for white noise x .1 to .8 of that at cutoff .05, for the worst
    picture up to 6 times (16×16 to 31×40 pixels); on photographs .2 to .5 % of |A x|. Noise in y grows by about
    1 / cutoff at most.

    Attributes:
        kernel: (n, m), n and m odd, of sum 1.
        cutoff: smallest response still inverted, in (0, 1); a flat picture has response 1.
        responses: of the kernel, by size and precision of the pictures seen so far.
    """

    kernel: Tensor
    cutoff: float
    responses: dict = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, kernel: Tensor, cutoff: float = 0.05) -> "Blur":
        """By a kernel of odd height and width and a sum above 0, divided by it, so that brightness is kept."""
        check_kernel(kernel)
        if not 0 < cutoff < 1:
            raise ValueError(f"cutoff: {cutoff} is not between 0 and 1; .05 suits 8-bit pictures, noise needs more.")
        return cls(kernel.double() / kernel.double().sum(), cutoff)

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width (p, q) of the unmeasured edge on each side of the picture."""
        return self.kernel.shape[0] // 2, self.kernel.shape[1] // 2

    def measured(self, photograph: Tensor) -> Tensor:
        """y of a blurred photograph of the picture's size (..., H, W): its frame is cut off."""
        self.check_size(photograph)
        p, q = self.frame
        height, width = photograph.shape[-2:]
        return photograph[..., p : height - p, q : width - q]

    def check_size(self, image: Tensor) -> None:
        p, q = self.frame
        height, width = image.shape[-2:]
        if height <= 2 * p or width <= 2 * q:
            raise ValueError(
                f"image: {height}×{width} (height × width) is not larger than the blur's edges of {p} and {q} pixels "
                "on each side; use a larger picture or a smaller kernel."
            )

    def response(self, x: Tensor) -> Tensor:
        """Transfer function of the kernel for pictures of the size of `x`, (H, W // 2 + 1), complex."""
        key = (x.shape[-2:], x.dtype, x.device)
        if key not in self.responses:
            spread = x.new_zeros(x.shape[-2:])
            n, m = self.kernel.shape
            spread[:n, :m] = self.kernel.to(x)
            self.responses[key] = torch.fft.rfft2(spread.roll((-(n // 2), -(m // 2)), (0, 1)))
        return self.responses[key]

    def A(self, image: Tensor) -> Tensor:
        self.check_size(image)
        x = computed(image)
        return self.measured(filtered(x, self.response(x))).to(image.dtype)

    def A_adjoint(self, y: Tensor) -> Tensor:
        p, q = self.frame
        x = torch.nn.functional.pad(computed(y), (q, q, p, p))
        return filtered(x, self.response(x).conj()).to(y.dtype)

    def A_dagger(self, y: Tensor) -> Tensor:
        p, q = self.frame
        x = bridged(bridged(computed(y), p, -2), q, -1)
        response = self.response(x)
        kept = response.abs() >= self.cutoff
        return filtered(x, torch.where(kept, 1 / torch.where(kept, response, 1), 0)).to(y.dtype)

    def to(self, device: torch.device) -> "Blur":
        return replace(on_device(self, device), responses={})  # those of one run go with it


def check_kernel(kernel: Tensor) -> None:
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(
            f"kernel: its size {'×'.join(map(str, kernel.shape))} has no middle pixel; "
            "give one channel of odd height and width, or crop or pad it by a row or column."
        )
    if not torch.isfinite(kernel).all():
        raise ValueError("kernel: it contains NaN or infinite values; replace them by numbers.")
    if kernel.double().sum() <= 1e-6 * kernel.double().abs().sum():
        raise ValueError(
            f"kernel: its values sum to {kernel.double().sum().item():.3g}, which loses the picture's brightness; "
            "give one with a sum above 0, as a blur has."
        )


def filtered(x: Tensor, response: Tensor) -> Tensor:
    """Circular convolution of the last two dimensions."""
    return torch.fft.irfft2(torch.fft.rfft2(x) * response, s=x.shape[-2:])


def bridged(y: Tensor, frame: int, dim: int) -> Tensor:
    """Both ends of `dim` longer by `frame`, on a smooth step from the last value around to the first."""
    if frame == 0:
        return y
    first, last = y.narrow(dim, 0, 1), y.narrow(dim, y.shape[dim] - 1, 1)
    t = torch.arange(1, 2 * frame + 1, dtype=y.dtype, device=y.device) / (2 * frame + 1)
    t = t.unsqueeze(-1) if dim == -2 else t
    bridge = last + (first - last) * t * t * (3 - 2 * t)
    return torch.cat([bridge.narrow(dim, frame, frame), y, bridge.narrow(dim, 0, frame)], dim)
