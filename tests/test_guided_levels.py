"""Laws of the levels at which guidance is added, against the analytic prior."""

from dataclasses import replace

import analytic
import pytest
import torch
from constraints import ByError
from newton_pack.sampler import PRESETS, Denoiser, LatentMask, NewtonSettings, Plan, Term, WeightedSum, levels_of
from newton_pack.sampler import sample_constrained as sample
from newton_pack.sampler.plan import noise_to_signal

PRIOR = analytic.Gaussian(torch.full((64,), 0.3), analytic.smooth_covariance())
WEIGHTS, _ = analytic.half_mask()
MASK = LatentMask(PRIOR.draw(1, seed=7), WEIGHTS)
LEVELS = analytic.released_levels()


class Mean(ByError):
    """The picture's mean is 1, wherever that comes from."""

    spatial = False

    def error(self, x0, sigma):
        return (1 - x0.mean(dim=tuple(range(1, x0.ndim)), keepdim=True)).expand_as(x0)


def guided_denoiser():
    """Of a model that adds 3 to what it says without guidance."""
    said = []

    def unguided(x, sigma):
        said.append(PRIOR.x0(x, sigma))
        return said[-1]

    return Denoiser(
        lambda x, sigma: unguided(x, sigma) + 3.0, analytic.exploding, conditional=lambda: said[-1],
        unguided_model=unguided,
    )  # fmt: skip


def test_guidance_waits_for_noise_below_the_limit_where_nothing_says_what_belongs_where():
    settings, told = NewtonSettings(guided_up_to=2.0), []
    levels = levels_of(LEVELS, analytic.exploding)
    plan = Plan(Mean(), settings, levels)
    assert [plan.guided(level.sigma) for level in levels[:-1]] == [noise_to_signal(v) <= 2.0 for v in levels[:-1]]
    denoise, x = guided_denoiser(), analytic.start_noise(2, 1000, LEVELS[0])
    sample(denoise, x, LEVELS, Mean(), settings, 0.005, callback=lambda _: told.append(denoise.guidance))
    assert [torch.as_tensor(g).abs().max() > 1 for g in told] == [v <= 2.0 for v in LEVELS[:-1]]


@pytest.mark.parametrize(
    ("constraint", "settings"),
    [
        (MASK, PRESETS["fast"]),
        (MASK, NewtonSettings()),
        (WeightedSum((Term(Mean()), Term(MASK))), NewtonSettings()),
        (Mean(), NewtonSettings(iterations=0)),
        (WeightedSum(()), PRESETS["fast"]),
    ],
    ids=["replaced", "spatial", "with a spatial one", "no steps", "nothing"],
)
def test_guidance_is_added_at_all_levels_elsewhere(constraint, settings):
    plan = Plan(constraint, replace(settings, guided_up_to=2.0), levels_of(LEVELS, analytic.exploding))
    assert all(plan.guided(sigma) for sigma in LEVELS[:-1])
