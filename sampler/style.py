"""Style: the finished picture's features have the Gram matrix of a reference's (Graikos et al., after Gatys et al.)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .constraint import Update
from .denoiser import per_sample
from .least_squares import fitted_jacobian
from .pixel import Estimate, Identity, LatentMap, PixelMap

Features = Callable[[Tensor], Tensor]
"""Differentiable map from pictures (B, 3, H, W) in [0, 1] to feature tokens (B, N, C); its weights need no gradient."""

# What is done to the tokens before their Gram matrix is taken.
NORMALISATIONS = {
    "none": lambda f: f,
    "unit tokens": lambda f: F.normalize(f, dim=-1),
    "centred": lambda f: f - f.mean(1, keepdim=True),
}

# Steps towards the style at a noise level, a backward pass of the feature network each.
DESCENTS = 4


def gram(tokens: Tensor, normalisation: str = "none") -> Tensor:
    """Gram matrix G = F^T F / N of feature tokens F (B, N, C), as (B, C, C) in single precision or better.

    The mean over tokens instead of their sum makes pictures of different sizes comparable.

    Args:
        normalisation: of F first. "none" as published; "unit tokens" scales each token to length 1, so that a few
            large ones do not rule; "centred" takes the mean token away, which leaves a covariance, and the overall
            colours to the model.
    """
    f = NORMALISATIONS[normalisation](tokens if tokens.dtype == torch.float64 else tokens.float())
    return f.mT @ f / f.shape[1]


def reference_gram(features: Features, pictures: Tensor, normalisation: str = "none") -> Tensor:
    """Mean Gram matrix (1, C, C) of reference pictures (R, 3, H, W), one at a time."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.stack([gram(features(p[None].clone()), normalisation) for p in pictures]).mean(0)


def style_distance(tokens: Tensor, reference: Tensor, normalisation: str = "none") -> Tensor:
    """E = |G - G_ref|_F / |G_ref|_F of feature tokens (B, N, C), as (B,); 0 = the reference's own style.

    The division makes E comparable between feature networks and layers.
    """
    off = gram(tokens, normalisation) - reference
    return torch.linalg.matrix_norm(off) / torch.linalg.matrix_norm(reference)


@dataclass(frozen=True)
class StyleConstraint:
    """The style distance E of the picture Dec(x0) is small; E is the residual.

    Attributes:
        features: the network.
        reference: G_ref (1, C, C), the mean of the references' Gram matrices.
        decode: x0 to pictures (B, 3, H, W) in [0, 1].
        decoder_vjp: the decoder's vector-Jacobian product, which makes e = -grad_x0 E as published; None looks for a
            step of x0 by forward passes of the decoder alone.
        normalisation: as in `gram`.
    """

    features: Features
    reference: Tensor
    decode: PixelMap
    decoder_vjp: LatentMap | None = None
    normalisation: str = "none"
    unit = "distance to the style, relative"
    spatial = False

    def distance(self, picture: Tensor) -> Tensor:
        """E of each picture (B, 3, H, W), as (B,)."""
        return style_distance(self.features(picture), self.reference, self.normalisation)

    def descent(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """E and -grad E of each picture, (B,) and the shape of `picture`."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = picture.clone().requires_grad_()
            distance = self.distance(leaf)
            return distance.detach(), -torch.autograd.grad(distance.sum(), leaf)[0]

    def residual(self, x0: Tensor, sigma: float) -> Tensor:
        """E, without a backward pass."""
        return self.distance(self.decode(x0))

    def update(self, x0: Tensor, sigma: float) -> Update:
        estimate = Estimate(x0, self.decode)
        if self.decoder_vjp is None:
            step, distance = self.descend(estimate)
            return Update(step, distance, lambda: step, soft=True)
        distances = []

        def descent(picture: Tensor) -> Tensor:
            distance, down = self.descent(picture)
            distances.append(distance)
            return down

        return Update(self.decoder_vjp(estimate, descent, Identity()), distances[0])

    def descend(self, estimate: Estimate) -> tuple[Tensor, Tensor]:
        """A step z of x0 towards the style, and E before it, (B,).

        Each of `DESCENTS` goes along g = -D* grad E as far as E / |g|^2, where a linear E is zero (Polyak,
        "Introduction to optimization", 1987), and the nearest of them is taken, since they overshoot; D is the
        decoder's Jacobian at x0, fitted, and Dec(x0 + z) = Dec(x0) + D z.
        """
        D, z = fitted_jacobian(estimate), torch.zeros_like(estimate.x0)
        distance, down = self.descent(estimate.picture)
        first, least, best = distance, distance, z
        for k in range(1, DESCENTS + 1):
            g = D.adjoint(down)
            z = z + g * per_sample(distance / g.square().flatten(1).sum(1).clamp(min=1e-30), g)
            picture = (estimate.picture + D(z)).clamp(0, 1)
            distance, down = self.descent(picture) if k < DESCENTS else (self.distance(picture), down)
            best = torch.where(per_sample(distance < least, z), z, best)
            least = torch.minimum(distance, least)
        return best, first
