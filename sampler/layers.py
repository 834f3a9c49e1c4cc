"""Layer inference: an image as two layers and the mask between them. Graikos et al., arXiv 2410.18804 v1, section 4.2.

x = m x_1 + (1 - m) x_2, with a denoiser for each layer (usually one model under two prompts). Each round draws binary
masks B from m, gives layer 1 the cells of B and layer 2 the others, and asks by a few Newton steps at one noise level
what each layer expects elsewhere. m becomes the posterior: the evidence of the rounds adds up over their noise levels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .constraint import as_sum
from .denoiser import Denoiser, levels_of
from .newton import newton_steps
from .noise import mixed_seed, noise_like, sample_generators
from .operators.mask import LatentMask
from .sample import sample_constrained
from .settings import NewtonSettings

# Mean-field sweeps of the neighbours' influence; the mask has settled by then.
SWEEPS = 5
SAMPLE = NewtonSettings(hold=True)  # one call a level: replacement of what a layer owns


@dataclass(frozen=True)
class LayerSettings:
    """How the mask is inferred.

    Attributes:
        samples: random masks per round.
        holdout: share of a layer's own cells that are hidden from it as well, so that the evidence of cells that are
            certain by now can still change.
        grain: size of the patches in which random masks hide cells, standard deviation in cells.
        exclude_given: judge a layer at a cell by the samples in which the cell was hidden from it; off: by all.
        coherence: how strongly a cell leans towards its neighbours' layer, in nats if all of them agree.
        newton: Newton steps at each noise level.
    """

    samples: int = 4
    holdout: float = 0.75
    grain: float = 1.5
    exclude_given: bool = True
    coherence: float = 4.0
    newton: NewtonSettings = field(default_factory=NewtonSettings)

    def calls(self, rounds: int) -> int:
        """Denoiser calls of two layers, one for each sample."""
        return 2 * rounds * self.samples * self.newton.calls_per_level()


def expectation(x0: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over the samples counted, (B, C, h, w) each; x0 (S, B, C, h, w), counted (S, B, 1, h, w)."""
    count = counted.sum(0).clamp(min=1)
    mean = (counted * x0).sum(0) / count
    return mean, (counted * (x0 - mean).square()).sum(0) / count


def log_likelihood_ratio(image: Tensor, expected: Sequence[tuple[Tensor, Tensor]], both: Tensor, m: Tensor) -> Tensor:
    """log p_1(x) - log p_2(x) per cell, (B, 1, h, w), with a Gaussian p for each layer, cell and channel.

    To each variance a floor is added, per channel: how far the layers are off the image on average where it is theirs
    under m, the maximum likelihood of a common variance.

    Args:
        expected: mean and variance of each layer.
        both: 1 where both layers were asked, (B, 1, h, w); elsewhere there is no evidence.
    """
    errors = [(image - mean).square() for mean, _ in expected]
    off = [error + variance for error, (_, variance) in zip(errors, expected, strict=True)]
    floor = (both * (m * off[0] + (1 - m) * off[1])).sum((2, 3), keepdim=True) / both.sum((2, 3), keepdim=True).clamp(1)
    spread = [variance + floor.clamp(min=1e-4) for _, variance in expected]
    logs = [-(error / v + v.log()) / 2 for error, v in zip(errors, spread, strict=True)]
    return (both * (logs[0] - logs[1])).sum(1, keepdim=True)


def random_uniform(shape: Sequence[int], generators: list[torch.Generator], grain: float) -> Tensor:
    """Uniform values in (0, 1), (N, 1, h, w), equal in patches: a smoothed normal field through its distribution."""
    noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).unsqueeze(1)
    for dim in (2, 3):
        distance = torch.arange(shape[dim - 2], dtype=noise.dtype)
        bell = torch.exp(-((distance[:, None] - distance[None]) ** 2) / (2 * grain**2))
        noise = noise.movedim(dim, -1) @ (bell / bell.square().sum(0).sqrt())  # unit variance, also at the edges
        noise = noise.movedim(-1, dim)
    return (0.5 * (1 + torch.erf(noise / math.sqrt(2)))).clamp(1e-6, 1 - 1e-6)


def neighbours(m: Tensor) -> Tensor:
    """Mean of the eight cells around each, (B, 1, h, w); diagonal ones count half."""
    kernel = m.new_tensor([[0.5, 1, 0.5], [1, 0, 1], [0.5, 1, 0.5]]) / 6
    return F.conv2d(F.pad(m, (1, 1, 1, 1), mode="replicate"), kernel[None, None])


def posterior(logit: Tensor, m: Tensor, coherence: float) -> Tensor:
    """m <- p_1(x) / (p_1(x) + p_2(x)) with `logit` = log p_1 - log p_2, neighbours leaning on each other (mean field).

    All of (B, 1, h, w).
    """
    for _ in range(SWEEPS):
        m = torch.sigmoid(logit + coherence * (2 * neighbours(m) - 1))
    return m


@torch.no_grad()
def infer_mask(
    denoisers: Sequence[Denoiser],
    image: Tensor,
    levels: Sequence[float],
    settings: LayerSettings,
    delta: float,
    seed: int = 0,
    prior: Tensor | None = None,
    on_round: Callable[[int, Tensor], None] = lambda i, m: None,
) -> Tensor:
    """Posterior probability m of the first layer, (B, 1, h, w) in [0, 1].

    The mask starts at random about the prior. Each call of a denoiser gets all samples of all pictures, (S B, C, h, w),
    sample by sample; picture b of a batch depends on (seed, b) only.

    Args:
        denoisers: of the two layers.
        image: the image in the denoisers' coordinates, (B, C, h, w).
        levels: noise level of each round; large ones first settle the layout, small ones the borders.
        delta: relative perturbation of the forward difference.
        prior: probability that a cell belongs to the first layer before the image is seen, (B, 1, h, w); 0 and 1 fix
            the cell. None is 1/2.
        on_round: told the number of each round and its mask.
    """
    batch, shape = len(image), image.shape[-2:]
    generators = [g for s in range(settings.samples) for g in sample_generators(seed, range(batch), offset=s)]

    def uniform() -> Tensor:
        return random_uniform(shape, generators, settings.grain).to(image)

    prior = image.new_full((batch, 1, *shape), 0.5) if prior is None else prior.to(image)
    logit = torch.logit(prior)  # of the evidence so far
    m = torch.sigmoid(logit + noise_like(prior, generators[:batch]) / 2)
    images = image.repeat(settings.samples, 1, 1, 1)
    for cur in levels_of(levels, denoisers[0].scales):
        alpha, s, _ = cur.scales
        first = (uniform() < m.repeat(settings.samples, 1, 1, 1)).to(image)  # B
        expected, both = [], torch.ones_like(m)
        for denoise, own in zip(denoisers, (first, 1 - first), strict=True):
            known = own * (uniform() >= settings.holdout)
            x = alpha * images + s * noise_like(images, generators)
            mask, newton = as_sum(LatentMask(images, known)), settings.newton
            x0 = newton_steps(denoise, x, denoise(x, cur.sigma), cur, mask, newton, delta, newton.iterations)[1]
            counted = (1 - known if settings.exclude_given else torch.ones_like(known)).unflatten(0, (-1, batch))
            expected.append(expectation(x0.unflatten(0, (-1, batch)), counted))
            both = both * counted.amax(0)
        logit = logit + log_likelihood_ratio(image, expected, both, m)
        m = posterior(logit, m, settings.coherence)
        on_round(cur.i, m)
    return m


def sample_layers(
    denoisers: Sequence[Denoiser],
    image: Tensor,
    m: Tensor,
    levels: list[float],
    seed: int = 0,
) -> list[Tensor]:
    """Both layers whole, (B, C, h, w) each: the image where the mask gives it to the layer, sampled elsewhere.

    Args:
        levels: L + 1 decreasing noise levels of the constrained sampling, usually ending in 0; L calls a layer.
    """
    layers = []
    for number, (denoise, own) in enumerate(zip(denoisers, (m, 1 - m), strict=True)):
        noise = noise_like(image, sample_generators(mixed_seed(seed, number), range(len(image)), offset=1))
        scales = denoise.scales(levels[0])
        x = scales.alpha * own * image + scales.s * noise
        mask, delta = LatentMask(image, own), 0.0  # without Newton steps nothing is perturbed
        layers.append(sample_constrained(denoise, x, levels, mask, SAMPLE, delta, mixed_seed(seed, number)))
    return layers
