"""Denoisers with a known answer: exact x0, exact Jacobian, exact posterior. Ground truth for the laws."""

import torch
from newton_pack.sampler import Denoiser, Scales
from torch import Tensor

SIDE = 8
SHAPE = (1, SIDE, SIDE)

# Stable-diffusion noise levels of 20 steps with the `simple` scheduler, as the design states them.
LEVELS = [14.615, 10.904, 8.303, 6.443, 5.088, 4.082, 3.321, 2.735, 2.276, 1.910, 1.613, 1.367, 1.161, 0.984, 0.830,
          0.693, 0.569, 0.454, 0.342, 0.223, 0.0]  # fmt: skip


def released_levels() -> list[float]:
    """The same levels without rounding, from the training schedule."""
    abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    picked = abar[torch.arange(1000, 0, -50) - 1]
    return [*((1 - picked) / picked).sqrt().tolist(), 0.0]


def exploding(sigma: float) -> Scales:
    return Scales(1.0, sigma)


def flow(sigma: float) -> Scales:
    return Scales(1.0 - sigma, sigma)


def smooth_covariance(length: float = 2.0) -> Tensor:
    """Covariance (64, 64) of smooth unit-variance pictures, correlated over `length` pixels."""
    grid = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
    return torch.exp(-(torch.cdist(grid, grid) ** 2) / (2 * length**2)) + 1e-3 * torch.eye(SIDE**2).double()


class Gaussian:
    """x0 ~ N(mean, cov) over (1, 8, 8)."""

    def __init__(self, mean: Tensor, cov: Tensor, scales=exploding):
        self.mean, self.cov, self.scales = mean.double(), cov.double(), scales

    def jacobian(self, sigma: float) -> Tensor:
        alpha, s, _ = self.scales(sigma)
        eye = torch.eye(len(self.cov), dtype=torch.float64)
        return torch.linalg.solve(alpha**2 * self.cov + s**2 * eye, alpha * self.cov).T

    def x0(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = float(sigma[0])
        alpha, *_ = self.scales(level)
        centred = x.double().flatten(1) - alpha * self.mean
        return (self.mean + centred @ self.jacobian(level).T).reshape(x.shape).to(x.dtype)

    def denoiser(self) -> Denoiser:
        return Denoiser(self.x0, self.scales)

    def draw(self, count: int, seed: int) -> Tensor:
        noise = torch.randn(count, len(self.cov), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (self.mean + noise @ torch.linalg.cholesky(self.cov).T).float().reshape(count, *SHAPE)

    def posterior(self, y: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the hidden pixels given the known ones; `y` (64,), `known` bool (64,)."""
        a = self.cov[~known][:, known] @ torch.linalg.inv(self.cov[known][:, known])
        mean = self.mean[~known] + a @ (y.double() - self.mean)[known]
        return mean, self.cov[~known][:, ~known] - a @ self.cov[known][:, ~known]


class Consistency(Gaussian):
    """The same pictures behind a distilled model: x0 is the end of the exact flow, not the posterior mean."""

    def x0(self, x: Tensor, sigma: Tensor) -> Tensor:
        values, modes = torch.linalg.eigh(self.cov)
        scaled = (x.double().flatten(1) - self.mean) @ modes * (values / (values + float(sigma[0]) ** 2)).sqrt()
        return (self.mean + scaled @ modes.T).reshape(x.shape).to(x.dtype)


class Mixture:
    """x0 drawn from Gaussians with weights; exact denoiser and exact posterior draws."""

    def __init__(self, parts: list[Gaussian], weights: list[float]):
        self.parts, self.weights, self.scales = parts, torch.tensor(weights, dtype=torch.float64), parts[0].scales

    def _log_evidence(self, x: Tensor, mean: Tensor, cov: Tensor) -> Tensor:
        return torch.distributions.MultivariateNormal(mean, cov).log_prob(x)

    def x0(self, x: Tensor, sigma: Tensor) -> Tensor:
        alpha, s, _ = self.scales(float(sigma[0]))
        flat, eye = x.double().flatten(1), torch.eye(len(self.parts[0].cov), dtype=torch.float64)
        logs = [self._log_evidence(flat, alpha * p.mean, alpha**2 * p.cov + s**2 * eye) for p in self.parts]
        share = torch.softmax(torch.stack(logs) + self.weights.log()[:, None], 0)
        x0s = torch.stack([p.x0(x, sigma).double().flatten(1) for p in self.parts])
        return (share[..., None] * x0s).sum(0).reshape(x.shape).to(x.dtype)

    def denoiser(self) -> Denoiser:
        return Denoiser(self.x0, self.scales)

    def posterior_draws(self, y: Tensor, known: Tensor, count: int, seed: int) -> Tensor:
        """Exact draws (count, hidden) of the hidden pixels given the known ones."""
        logs = [self._log_evidence(y.double()[known], p.mean[known], p.cov[known][:, known]) for p in self.parts]
        share = torch.softmax(torch.stack(logs) + self.weights.log(), 0)
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(share, count, replacement=True, generator=generator)
        out = torch.empty(count, int((~known).sum()), dtype=torch.float64)
        for i, part in enumerate(self.parts):
            mean, cov = part.posterior(y, known)
            noise = torch.randn(int((which == i).sum()), len(mean), generator=generator, dtype=torch.float64)
            out[which == i] = mean + noise @ torch.linalg.cholesky(cov).T
        return out


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Energy distance of two sets of points (n, d), (m, d); 0 only for equal distributions."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def half_mask() -> tuple[Tensor, Tensor]:
    """Weights (1, 1, 8, 8), 1 on the left half, and the same as a flat bool vector."""
    weights = torch.zeros(1, 1, SIDE, SIDE)
    weights[..., : SIDE // 2] = 1
    return weights, weights.flatten().bool()


def start_noise(count: int, seed: int, sigma: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return sigma * torch.randn(count, *SHAPE, generator=generator)
