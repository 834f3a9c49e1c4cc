"""Laws of warm restarts (section 4.1): levels, cost, noise, and what they leave as it is."""

from dataclasses import replace

import analytic
import pytest
import torch
from newton_pack.sampler import PRESETS, Denoiser, LatentMask, Plan, WeightedSum, levels_of, sample_constrained
from test_laws import LEVELS, PRIOR, TRUTH, WEIGHTS
from test_replacement import foreign_ancestral

MASK = LatentMask(TRUTH, WEIGHTS)


def run(settings, batch=8, constraint=MASK, prior=PRIOR, levels=LEVELS, **kw):
    x = analytic.start_noise(batch, 1000, levels[0]) * prior.scales(levels[0]).s / levels[0]
    denoise, told = prior.denoiser(), []
    out = sample_constrained(denoise, x, levels, constraint, settings, 0.005, callback=told.append, **kw)
    return out, denoise.calls, told


@pytest.mark.parametrize("preset", PRESETS)
def test_a_restart_runs_its_levels_again_and_costs_their_calls(preset):
    settings = replace(PRESETS[preset], restarts=2, restart_from=0.5)
    _, calls, told = run(settings)
    sigmas = [t["sigma"] for t in told]
    assert sigmas == LEVELS[:-1] + 2 * LEVELS[10:-1]
    assert calls == Plan(MASK, settings, levels_of(settings.with_restarts(LEVELS), PRIOR.scales)).total
    assert [t["i"] for t in told] == list(range(40))


def test_without_restarts_nothing_changes():
    assert torch.equal(run(replace(PRESETS["paper"], restart_from=0.2))[0], run(PRESETS["paper"])[0])


def test_a_limit_of_calls_counts_the_restarts():
    settings = replace(PRESETS["newton"], restarts=1, restart_from=0.5, max_calls=45)
    assert run(settings)[1] == 45
    with pytest.raises(ValueError, match=r"max_calls: 29 .* take 30"):
        run(replace(settings, max_calls=29))


@pytest.mark.parametrize("scales", [analytic.exploding, analytic.flow])
@pytest.mark.parametrize("eta", [0.0, 1.0, None])
def test_a_restart_is_the_estimate_with_fresh_noise_of_its_level(scales, eta):
    """A prior of one point: at every level x is it and noise of that level, whatever the sampler's own noise."""
    levels = [s / (1 + s) for s in LEVELS] if scales is analytic.flow else LEVELS
    point = torch.full((1, 1, 64, 64), 0.5)
    denoise, told = Denoiser(lambda x, sigma: point.expand_as(x), scales), []
    settings = replace(PRESETS["newton"], restarts=1, restart_from=0.4, eta=eta)
    x = torch.randn(point.shape, generator=torch.Generator().manual_seed(1)) * scales(levels[0]).s
    x = x + scales(levels[0]).alpha * point
    sample_constrained(denoise, x, levels, WeightedSum(()), settings, 0.005, callback=told.append)
    noises = [(t["x"] - scales(t["sigma"]).alpha * point) / scales(t["sigma"]).s for t in told]
    assert all(abs(n.std() - 1) < 0.04 for n in noises)
    before, after = noises[19], noises[20]
    assert abs(torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1]) < 0.05


@pytest.mark.parametrize("foreign", [False, True])
def test_known_values_stay_known(foreign):
    settings = replace(PRESETS["fast"], restarts=2, restart_from=0.3)
    kw = {"step": foreign_ancestral(PRIOR.scales, settings.with_restarts(LEVELS))} if foreign else {}
    out = run(settings, **kw)[0]
    assert torch.allclose(WEIGHTS * out, WEIGHTS * TRUTH, atol=1e-5) and out.isfinite().all()


@pytest.mark.parametrize("start", [0.0, 0.3, 0.97, 1.0])
def test_it_may_begin_anywhere(start):
    settings = replace(PRESETS["newton"], restarts=1, restart_from=start)
    levels = settings.with_restarts(LEVELS)
    first = min(round(20 * start), 19)
    assert levels == LEVELS[:-1] + LEVELS[first:] and run(settings)[0].isfinite().all()
