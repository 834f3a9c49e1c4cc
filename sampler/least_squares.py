"""From an error in pixels to one in the latent, by least squares through the decoder's fitted Jacobian."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .denoiser import per_sample
from .pixel import Estimate, LinearMeasurement, PixelMap

# Latent cells, per axis, that a cell of the picture is taken to depend on; 1 fits worse, 5 no better.
WIDTH = 3
# Size of the probes in units of x0, equations per unknown, and what is added to the probes' covariance.
PROBE, EQUATIONS, RIDGE = 0.1, 1.5, 1e-3
# Levenberg's damping in units of the curvature along the gradient, and steps of the conjugate gradients.
DAMPING, STEPS = 0.1, 20


@dataclass(frozen=True)
class Convolution:
    """A linear map D from latents (B, C, h, w) to pictures (B, 3, r h, r w), alike in every cell; one per sample.

    Attributes:
        weights: (B, C WIDTH^2, 3 r^2), from the cells around one to its pixels.
        ratio: r.
    """

    weights: Tensor
    ratio: int

    def __call__(self, z: Tensor) -> Tensor:
        pixels = self.weights.mT @ neighbourhoods(z)
        return F.pixel_shuffle(pixels.unflatten(2, z.shape[-2:]), self.ratio)

    def adjoint(self, picture: Tensor) -> Tensor:
        cells = F.pixel_unshuffle(picture, self.ratio)
        return F.fold(self.weights @ cells.flatten(2), cells.shape[-2:], WIDTH, padding=WIDTH // 2)


def neighbourhoods(z: Tensor) -> Tensor:
    """(B, C, h, w) to (B, C WIDTH^2, h w)."""
    return F.unfold(z, WIDTH, padding=WIDTH // 2)


def fitted_jacobian(estimate: Estimate) -> Convolution:
    """The convolution that best explains how Dec(x0) answers to random probes: forward passes alone.

    The probes are of random signs, the same for every sample and in every call.

    Args:
        estimate: of x0 (B, C, h, w), its picture (B, 3, r h, r w).
    """
    x0, picture = estimate.x0, estimate.picture
    generator = torch.Generator().manual_seed(0)
    _, channels, height, width = x0.shape
    unknown, ratio = channels * WIDTH**2, picture.shape[-1] // width
    moved, answers = [], []
    for _ in range(math.ceil(EQUATIONS * unknown / (height * width))):
        signs = 2 * torch.randint(2, (1, channels, height, width), generator=generator) - 1
        probe = (PROBE * signs).to(x0, non_blocking=x0.is_cuda)
        moved.append(neighbourhoods(probe)[0])
        answers.append(F.pixel_unshuffle(estimate.decode(x0 + probe) - picture, ratio).flatten(2))
    X, Y = torch.cat(moved, 1), torch.cat(answers, 2)
    # Cells that no probe can tell from others, as in a latent of one row, count for nothing.
    ridge = RIDGE * PROBE**2 * X.shape[1] * torch.eye(unknown).to(X)
    solution, _ = torch.linalg.solve_ex(X @ X.T + ridge, X @ Y.mT)  # solve() would wait for the device
    return Convolution(solution, ratio)


def least_squares(estimate: Estimate, residual: PixelMap, measurement: LinearMeasurement) -> Tensor:
    """The smallest step of x0 (B, C, H, W) that undoes r, damped (Gauss-Newton); no gradients.

    e = (D* A* A D + lambda)^-1 D* A* r = D* A* (A D D* A* + lambda)^-1 r, where D is the decoder's Jacobian at x0,
    fitted. Without the inverse this is the gradient; with it no direction that the decoder shows weakly is left behind
    (Levenberg, "A method for the solution of certain non-linear problems in least squares", 1944).
    """
    r = residual(estimate.picture)
    D = fitted_jacobian(estimate)
    g = D.adjoint(measurement.A_adjoint(r))
    return damped_solution(lambda z: D.adjoint(measurement.A_adjoint_A(D(z))), g)


def damped_solution(matrix: Callable[[Tensor], Tensor], g: Tensor) -> Tensor:
    """(matrix + lambda)^-1 g by conjugate gradients, of each sample by itself.

    Args:
        matrix: symmetric, positive semi-definite, on tensors of the shape of `g`.
        g: (B, ...). lambda is in units of the curvature along it.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return per_sample((a * b).flatten(1).sum(1), a)

    def over(a: Tensor, b: Tensor) -> Tensor:
        return a / b.clamp(min=torch.finfo(b.dtype).tiny)

    damping = DAMPING * over(dot(g, matrix(g)), dot(g, g))
    e, left, p = torch.zeros_like(g), g, g
    for _ in range(STEPS):
        image = matrix(p) + damping * p
        length = over(dot(left, left), dot(p, image))
        e, after = e + length * p, left - length * image
        p = after + over(dot(after, after), dot(left, left)) * p
        left = after
    return e
