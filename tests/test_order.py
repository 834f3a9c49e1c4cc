"""Laws of the second-order renoise step, against a Gaussian's exact flow and variance."""

from dataclasses import replace

import analytic
import numpy as np
import pytest
import torch
from newton_pack.sampler import PRESETS, Scales, WeightedSum, sample_constrained
from newton_pack.sampler.renoise import midway

PRIOR = analytic.Gaussian(torch.zeros(64), analytic.smooth_covariance())
VALUES, MODES = torch.linalg.eigh(PRIOR.cov)
FREE = WeightedSum(())


def sampled(order, levels, batch=1, eta=1.0, prior=PRIOR):
    settings = replace(PRESETS["fast"], order=order, eta=eta)
    x = analytic.start_noise(batch, 0, levels[0])
    return x, sample_constrained(prior.denoiser(), x, levels, FREE, settings, delta=0.005)


def error_of_the_flow(order, count):
    """Of the noise-free chain against x(sigma) = sqrt(v + sigma^2) / sqrt(v + sigma_0^2) x(sigma_0), mode by mode."""
    levels = np.geomspace(10, 0.1, count + 1).tolist()
    x, out = sampled(order, levels, eta=0.0)
    shrink = ((VALUES + levels[-1] ** 2) / (VALUES + levels[0] ** 2)).sqrt()
    exact = x.flatten(1).double() @ MODES * shrink
    return (out.flatten(1).double() @ MODES - exact).norm().item()


@pytest.mark.parametrize(("order", "least", "most"), [(1, 1.8, 2.2), (2, 3.4, 4.6)])
def test_half_the_step_leaves_a_half_of_the_error_or_a_quarter(order, least, most):
    ratio = error_of_the_flow(order, 40) / error_of_the_flow(order, 80)
    print(f"\norder {order}: the error falls by {ratio:.2f}")
    assert least < ratio < most


def test_second_order_keeps_the_variance_of_pictures():
    """Of the modes that are decided above the last noise level, .223."""
    large = VALUES > 0.5
    kept = {}
    for order in (1, 2):
        out = sampled(order, analytic.LEVELS, batch=4000)[1].flatten(1).double() @ MODES
        kept[order] = (out.var(0) / VALUES)[large].mean().item()
    print(f"\nshare of the variance in 20 levels, by order: {kept}")
    assert kept[1] < 0.85
    assert kept[2] == pytest.approx(1, abs=0.05)


def test_flow_is_variance_exploding_after_scaling():
    flow = analytic.Gaussian(torch.zeros(64), PRIOR.cov, analytic.flow)
    x0, earlier = torch.randn(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    levels = [0.8, 0.7, 0.5]
    a, b, c = (flow.scales(t) for t in levels)
    ve = [Scales(1.0, t / (1 - t)) for t in levels]
    torch.testing.assert_close(midway(x0, b, c, (earlier, a)), midway(x0, ve[1], ve[2], (earlier, ve[0])))


def test_where_there_is_no_step_before_or_no_middle_the_estimate_stays():
    x0, earlier = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    here, there = Scales(0.5, 0.5), Scales(0.75, 0.25)
    assert torch.equal(midway(x0, here, there, None), x0)
    assert torch.equal(midway(x0, here, there, (earlier, here)), x0)  # simple repeats levels beyond 1000 steps
    assert torch.equal(midway(x0, here, there, (earlier, Scales(0.0, 1.0))), x0)  # pure noise knows no picture
    assert torch.equal(midway(x0, here, Scales(1.0, 0.0), (earlier, Scales(0.4, 0.6))), x0)
