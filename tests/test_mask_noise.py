"""A mask's known values with measurement noise sigma_y: the noise is not kept."""

import analytic
import pytest
import torch
from newton_pack.sampler import PRESETS, LatentMask, sample_constrained
from test_laws import LEVELS, PRIOR, TRUTH, WEIGHTS

SIGMA_Y = 0.3
NOISE = SIGMA_Y * torch.randn(1, *analytic.SHAPE, generator=torch.Generator().manual_seed(5))
NOISY = TRUTH + NOISE


def rms(off):
    return ((WEIGHTS * off).square().flatten(1).sum(1) / WEIGHTS.sum()).sqrt()


def run(mask, preset, batch=16):
    x = analytic.start_noise(batch, 1000, LEVELS[0])
    return sample_constrained(PRIOR.denoiser(), x, LEVELS, mask, PRESETS[preset], 0.005)


def posterior_draws(y, sigma_y):
    """Exact draws of the picture given noisy values of its known half."""
    known = WEIGHTS.flatten().bool()
    gain = PRIOR.cov[:, known] @ torch.linalg.inv(PRIOR.cov[known][:, known] + sigma_y**2 * torch.eye(32).double())
    mean = PRIOR.mean + gain @ (y.double().flatten() - PRIOR.mean)[known]
    root = torch.linalg.cholesky(PRIOR.cov - gain @ PRIOR.cov[known] + 1e-9 * torch.eye(64).double())
    return mean + torch.randn(256, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64) @ root.T


@pytest.mark.parametrize("sigma_y", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("preset", ["fast", "newton"])
def test_noisy_values_give_the_posterior(preset, sigma_y):
    """Nearer to exact draws than a run that keeps the noise, and farther from the noisy values."""
    y = TRUTH + sigma_y / SIGMA_Y * NOISE
    kept, freed = (run(LatentMask(y, WEIGHTS, noise=noise), preset, 64) for noise in (0.0, sigma_y))
    exact = posterior_draws(y, sigma_y)
    far, near = (analytic.energy_distance(out.double().flatten(1), exact) for out in (kept, freed))
    print(f"\n{preset}, sigma_y {sigma_y}: energy distance {far:.3f} with the noise kept, {near:.3f} without")
    assert near < (1.02 if sigma_y == 0.1 else 0.6) * far
    assert rms(freed - y).mean() >= rms(kept - y).mean()


@pytest.mark.parametrize("preset", PRESETS)
def test_no_noise_changes_no_bit(preset):
    plain = run(LatentMask(TRUTH, WEIGHTS), preset)
    assert torch.equal(run(LatentMask(TRUTH, WEIGHTS, noise=torch.zeros(16)), preset), plain)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_sample_has_its_own(preset):
    y, noise = torch.cat([TRUTH, NOISY]), torch.tensor([0.0, SIGMA_Y])
    both = run(LatentMask(y, WEIGHTS, noise=noise), preset, batch=2)
    alone = run(LatentMask(TRUTH, WEIGHTS), preset, batch=1)
    assert torch.allclose(both[:1], alone, atol=1e-5)
    noisy = run(LatentMask(NOISY, WEIGHTS, noise=SIGMA_Y), preset, batch=2)
    assert torch.allclose(both[1:], noisy[1:], atol=1e-4)


def test_within_the_noise_nothing_is_asked():
    e = LatentMask(NOISY, WEIGHTS, noise=2 * SIGMA_Y).update(TRUTH, 1.0).e
    assert not e.any()
