"""Laws of held masks: cost, exactness, nearness to the exact posterior, and that the noise really learns."""

from dataclasses import replace

import analytic
import pytest
import torch
from constraints import ByError
from hypothesis import given
from hypothesis import strategies as st
from newton_pack.sampler import (
    PRESETS,
    Denoiser,
    LatentMask,
    Level,
    NewtonSettings,
    Plan,
    Recorder,
    Scales,
    Term,
    WeightedSum,
    as_sum,
    levels_of,
    sample_constrained,
)
from newton_pack.sampler.newton import LevelInfo
from newton_pack.sampler.replacement import FADE, Replacement, fade
from newton_pack.sampler.step import sigma_up
from scipy.ndimage import distance_transform_cdt
from test_laws import KNOWN, LEVELS, PRIOR, TRUTH, WEIGHTS, distance_to_posterior_mean, replacement

HELD, NEWTON = PRESETS["fast"], NewtonSettings()
ONCE = replace(HELD, resample=False)
MASK = LatentMask(TRUTH, WEIGHTS)
MIDDLE = sum(1.5 < sigma < 3.0 for sigma in LEVELS)


def run(settings=HELD, batch=64, prior=PRIOR, constraint=MASK, levels=LEVELS, **kw):
    denoise, told = prior.denoiser(), []
    x = analytic.start_noise(batch, 1000, levels[0]) * prior.scales(levels[0]).s / levels[0]
    out = sample_constrained(denoise, x, levels, constraint, settings, 0.005, callback=told.append, **kw)
    return out, denoise.calls, told


@pytest.mark.parametrize("resample", [False, True])
def test_one_call_a_level_and_one_a_resampling_and_known_values_exact(resample):
    out, calls, told = run(replace(HELD, resample=resample))
    assert calls == len(LEVELS) - 1 + resample * MIDDLE
    assert [t["steps"].resampled for t in told] == [resample and 1.5 < t["sigma"] < 3.0 for t in told]
    assert torch.allclose((WEIGHTS * out), WEIGHTS * TRUTH, atol=1e-6)
    assert {t["steps"].stop for t in told} == {"held"}


@pytest.mark.parametrize("limit", [20, 21, 23, 24, 100])
def test_a_budget_is_spent_on_resampling_to_the_call(limit):
    _, calls, told = run(replace(HELD, max_calls=limit))
    assert calls == min(limit, 20 + MIDDLE) == 20 + sum(t["steps"].resampled for t in told)


def test_what_takes_newton_steps_and_who_is_resampled():
    other = WeightedSum((Term(Mean()),))
    both = WeightedSum((Term(MASK), *other.terms))
    free, mask = WeightedSum(()), as_sum(MASK)
    cases = {
        (MASK, HELD): (free, mask, 0, 2, MIDDLE),
        (both, HELD): (other, mask, 1, 1, 0),
        (MASK, NEWTON): (mask, free, 1, 1, 0),
        (free, HELD): (free, free, 0, 2, 0),
    }
    for (constraint, settings), expected in cases.items():
        plan = Plan(constraint, settings, levels_of(LEVELS, PRIOR.scales))
        assert (plan.newton, plan.masks, plan.iterations, plan.order, plan.resamplings_left) == expected


def test_the_denoiser_comes_to_say_what_is_known():
    """Without learning (rate 0) the error stays what the drawn noise makes of it."""
    errors = {rate: run(replace(HELD, rate_first=rate))[2][-1]["steps"].residual.mean().item() for rate in (0, 0.5)}
    print(f"\nrms error of the known half at the last level, by rate: {errors}")
    assert errors[0.5] < 0.5 * errors[0]


def run_guided(added, told=True, settings=HELD):
    """The same run behind a guidance that adds `added` to every estimate."""
    seen = []

    def model(x, sigma):
        seen[:] = [PRIOR.x0(x, sigma)]
        return seen[0] + added

    denoise = Denoiser(model, PRIOR.scales, conditional=lambda: seen[0] if told else None)
    x = analytic.start_noise(64, 1000, LEVELS[0])
    return sample_constrained(denoise, x, LEVELS, MASK, settings, 0.005)


def test_guidance_of_what_is_known_changes_nothing():
    """Held values stand for it; where the model does not tell, the noise learns to make up for it."""
    plain, overshoot = run_guided(0.0), 0.5 * WEIGHTS
    assert torch.allclose(run_guided(overshoot), plain, atol=1e-4)
    assert (run_guided(overshoot, told=False) - plain).abs().max() > 0.1


def test_guidance_of_what_is_open_stays():
    plain, added = run_guided(0.0), 0.5 * (1 - WEIGHTS)
    moved = (run_guided(added) - plain).flatten(1)[:, ~KNOWN].mean()
    print(f"\nhidden mean moved by {moved:.2f} for .5 at every level")
    assert moved > 0.5


def chessboard(mask):
    """Cells to the nearest known one, by SciPy."""
    return torch.from_numpy(distance_transform_cdt(mask.numpy() < 0.5, "chessboard")).float()


def test_guidance_comes_in_over_cells_from_what_is_known():
    masks = torch.rand(20, 1, 12, 9, generator=torch.Generator().manual_seed(1)).gt(0.97).float()
    expected = torch.stack([(chessboard(m[0]) / FADE).clamp(max=1) for m in masks]).unsqueeze(1)
    torch.testing.assert_close(fade(masks), expected)
    video = masks.reshape(4, 1, 5, 12, 9)
    assert torch.equal(fade(video), fade(masks).reshape(video.shape))
    assert torch.equal(fade(torch.zeros(2, 1, 4, 4)), torch.ones(2, 1, 4, 4))  # nothing known: all of it


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 10))
def test_guidance_falls_with_what_is_known_nearby(low, high, seed):
    low, high = sorted((low, high))
    weights = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    less, more = fade(low * weights), fade(high * weights)
    assert (more <= less + 1e-6).all() and (more <= 1 - high * weights + 1e-6).all() and (more >= -1e-6).all()
    assert (less - more).abs().max() <= high - low + 1e-6  # continuous


def test_guidance_is_not_extrapolated():
    """An estimate that stays, under guidance that does not: second order has nothing to add."""
    fixed, x = PRIOR.draw(4, seed=1), analytic.start_noise(4, 1000, LEVELS[0])

    def run(order, told):
        guided = Denoiser(
            lambda x, sigma: fixed + float(sigma[0]) * (1 - WEIGHTS), PRIOR.scales,
            conditional=lambda: fixed if told else None,
        )  # fmt: skip
        return sample_constrained(guided, x, LEVELS[:-1], MASK, replace(ONCE, order=order), 0.005)

    assert torch.allclose(run(2, told=True), run(1, told=True), atol=1e-5)
    assert (run(2, told=False) - run(1, told=False)).abs().max() > 0.01


def resampled(mask, denoise, x, noise):
    return Replacement(as_sum(mask), 0.5, None, []).resample(denoise, x, Level(0, 2.0, denoise.scales(2.0)), noise)


def test_the_conditional_part_of_x0_has_the_known_values_by_their_weights():
    """Soft weights, guidance of 3, which fades: x0 without it is the mixture of y and the conditional estimate."""
    cond, mask = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), LatentMask(TRUTH, 0.3 * WEIGHTS)
    denoise = Denoiser(lambda x, sigma: cond + 3, PRIOR.scales, conditional=lambda: cond)
    level, x = Level(0, 2.0, PRIOR.scales(2.0)), torch.zeros(2, 1, 8, 8)
    replacement = Replacement(as_sum(mask), 0.5, Plan(mask, ONCE, [level, level]), [])
    replacement.begin(denoise, x, level)
    info = LevelInfo(torch.zeros(0, 2), torch.zeros(2), 0, "silent")
    x0 = replacement(denoise, x, denoise(x, 2.0), level, info)[1]
    mixture = torch.lerp(cond, TRUTH, 0.3 * WEIGHTS)
    torch.testing.assert_close(replacement.x0_cond(x0), mixture)
    torch.testing.assert_close(x0, mixture + 3 * fade(0.3 * WEIGHTS))


def test_what_is_drawn_anew_is_drawn_around_the_estimate_before_guidance():
    seen = [torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))]
    denoise = Denoiser(lambda x, sigma: seen[0] + 3, PRIOR.scales, conditional=lambda: seen[0])
    x = torch.zeros(2, 1, 8, 8)
    drawn = resampled(MASK, denoise, x, torch.zeros_like(x))
    assert torch.allclose(drawn[:, :, :, 4:], seen[0][:, :, :, 4:], atol=1e-6)


def test_hidden_mean_comes_nearer_to_the_posterior_mean_than_by_replacement():
    held = distance_to_posterior_mean(run(batch=400)[0])
    stock = distance_to_posterior_mean(replacement(analytic.start_noise(400, 1000, LEVELS[0]), PRIOR, TRUTH, WEIGHTS))
    print(f"\ndistance to the posterior mean over 400 seeds: held {held:.2f}, replacement {stock:.2f}")
    assert held < 0.6 * stock


def test_mixture_comes_nearer_to_the_exact_posterior():
    ramp = torch.linspace(-1.5, 1.5, 8).repeat(8, 1)
    parts = [analytic.Gaussian(sign * ramp.flatten(), 0.2 * analytic.smooth_covariance()) for sign in (1, -1)]
    prior = analytic.Mixture(parts, [0.5, 0.5])
    truth = parts[0].draw(1, seed=3)
    exact = prior.posterior_draws(truth.flatten(), KNOWN, 300, seed=1)
    mask = LatentMask(truth, WEIGHTS)

    def distance(samples):
        return analytic.energy_distance(samples.flatten(1)[:, ~KNOWN].double(), exact)

    settings = {"resampled": HELD, "held": ONCE, "newton": NEWTON}
    found = {name: distance(run(s, 300, prior, mask)[0]) for name, s in settings.items()}
    found["replacement"] = distance(replacement(analytic.start_noise(300, 17, LEVELS[0]), prior, truth, WEIGHTS))
    print(f"\nenergy distance to the posterior: {found}")
    assert found["held"] < min(found["newton"], found["replacement"])
    assert found["resampled"] < found["held"]


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_a_mask_that_knows_nothing_is_free_sampling(rate):
    nothing = LatentMask(TRUTH, torch.zeros_like(WEIGHTS))
    free = run(batch=2, constraint=WeightedSum(()))[0]
    assert torch.equal(run(replace(ONCE, rate_first=rate, order=1), batch=2, constraint=nothing)[0], free)


def test_batch_of_two_is_two_batches_of_one_and_the_seed_counts():
    x = analytic.start_noise(2, 5, LEVELS[0]) * torch.tensor([1.0, 40.0]).view(2, 1, 1, 1)

    def sample(x, seed=0):
        return sample_constrained(PRIOR.denoiser(), x, LEVELS, MASK, HELD, 0.005, seed)

    assert torch.allclose(sample(x)[:1], sample(x[:1]), atol=1e-5)
    assert torch.equal(sample(x), sample(x)) and not torch.allclose(sample(x), sample(x, seed=1))


def test_flow_is_variance_exploding_after_scaling():
    flow_levels = [s / (1 + s) for s in LEVELS]
    flowing = analytic.Gaussian(PRIOR.mean, PRIOR.cov, analytic.flow)
    x = analytic.start_noise(3, 2, LEVELS[0]).double()
    ve = sample_constrained(PRIOR.denoiser(), x, LEVELS, MASK, HELD, 0.005)
    flow = sample_constrained(flowing.denoiser(), x / (1 + LEVELS[0]), flow_levels, MASK, HELD, 0.005)
    assert torch.allclose(ve, flow, atol=1e-4)


def test_edm_scaling_changes_nothing():
    """A prior half as wide, its noise too: the same run in other units."""
    half = analytic.Gaussian(PRIOR.mean / 2, PRIOR.cov / 4, lambda sigma: Scales(1.0, sigma, 0.5))
    x = analytic.start_noise(2, 2, LEVELS[0]).double()
    ve = sample_constrained(PRIOR.denoiser(), x, LEVELS, MASK, HELD, 0.005)
    edm = sample_constrained(
        half.denoiser(), x / 2, [s / 2 for s in LEVELS], LatentMask(TRUTH / 2, WEIGHTS), HELD, 0.005
    )
    assert torch.allclose(ve, 2 * edm, atol=1e-4)


def foreign_ancestral(scales, levels, seed=0):
    """Another sampler's ancestral step, with noise of its own."""
    generator = torch.Generator().manual_seed(seed)

    def advance(i, x, x0):
        cur, nxt = scales(levels[i]), scales(levels[i + 1])
        up, n = sigma_up(cur, nxt, 1.0), (x - cur.alpha * x0) / cur.s
        down = max(0.0, nxt.s**2 - up**2) ** 0.5
        return nxt.alpha * x0 + down * n + up * torch.randn(x.shape, generator=generator)

    return advance


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("scales", [analytic.exploding, analytic.flow])
def test_soft_weights_keep_the_noise_at_its_level(scales, foreign, weight):
    """A prior of one point: x is that point and noise alone, whose deviation must stay s at every level."""
    levels = [s / (1 + s) for s in LEVELS] if scales is analytic.flow else LEVELS
    point, shape = torch.full((1, 1, 64, 64), 0.5), (1, 1, 64, 64)
    denoise = Denoiser(lambda x, sigma: point.expand_as(x), scales)
    mask, told = LatentMask(point, torch.full(shape, weight)), []
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * scales(levels[0]).s
    x = x + scales(levels[0]).alpha * point
    advance = foreign_ancestral(scales, levels) if foreign else None
    sample_constrained(denoise, x, levels, mask, HELD, 0.005, 0, advance, callback=told.append)
    ratios = [(t["x"] - scales(t["sigma"]).alpha * point).std() / scales(t["sigma"]).s for t in told]
    assert max(abs(r - 1) for r in ratios) < 0.04, ratios  # 4096 cells: 1 % is one standard deviation


def test_a_target_of_a_mask_spares_the_samples_that_reached_it():
    """A generous one is free sampling, bit by bit; one that is never met is the run without."""
    free = run(replace(HELD, resample=False, order=1), batch=2, constraint=WeightedSum(()))[0]
    generous, _, told = run(replace(HELD, resample=False, order=1, residual_target=1e9), batch=2)
    assert torch.equal(generous, free) and {t["steps"].stop for t in told} == {"target"}
    assert torch.equal(run(replace(HELD, residual_target=1e-9), batch=2)[0], run(batch=2)[0])


def test_a_target_is_each_samples_and_each_terms_own():
    x = torch.cat([TRUTH, TRUTH + 1])
    level = Level(0, 0.1, PRIOR.scales(0.1))
    masks = WeightedSum((Term(MASK, target=0.5), Term(LatentMask(TRUTH + 0.2, WEIGHTS), target=0.1)))
    known = Replacement(masks, 0.5, None, []).known_at(x, level, level)
    assert torch.equal(known.weights[:, 0, 0, 0] > 0, torch.tensor([True, True]))  # both miss the second's
    assert torch.allclose(known.y[:, 0, 0, 0], torch.stack([TRUTH[0, 0, 0, 0] + 0.2, TRUTH[0, 0, 0, 0] + 0.1]))


def test_the_report_is_of_the_estimate_before_the_known_values_are_put_in():
    x = analytic.start_noise(4, 1000, LEVELS[0])
    plan = Plan(MASK, HELD, levels_of(LEVELS, PRIOR.scales))
    recorder, seen = Recorder(plan, x), []

    def model(x, sigma):
        seen[:] = [PRIOR.x0(x, sigma)]
        return seen[0]

    sample_constrained(Denoiser(model, PRIOR.scales), x, LEVELS, MASK, HELD, 0.005, callback=recorder.level, plan=plan)
    expected = MASK.residual(seen[0], LEVELS[-2])
    assert recorder.report().residual[0] == pytest.approx(expected.tolist(), rel=1e-5)
    assert expected.min() > 1e-3


def test_soft_weights_stay_soft():
    out = run(constraint=LatentMask(TRUTH, 0.5 * WEIGHTS), batch=1)[0]
    off = {
        w: (WEIGHTS * (run(constraint=LatentMask(TRUTH, w * WEIGHTS), batch=64)[0] - TRUTH)).std() for w in (0.2, 0.8)
    }
    assert not torch.allclose(WEIGHTS * out, WEIGHTS * TRUTH, atol=0.01) and 0 < off[0.8] < off[0.2]


@pytest.mark.parametrize("weight", [0.05, 0.3, 0.7, 1.0])
def test_resampled_noise_keeps_its_variance_under_soft_weights(weight):
    def noise(seed):
        return torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(seed))

    denoise = Denoiser(lambda x, sigma: torch.zeros_like(x), lambda sigma: Scales(0.4, 2.0))
    mask = LatentMask(torch.zeros(1, 1, 100, 100), torch.full((1, 1, 100, 100), weight))
    out = resampled(mask, denoise, 2 * noise(0), noise(1))
    assert abs(out.std() - 2.0) < 0.05 and denoise.calls == 1
    kept = torch.corrcoef(torch.stack([out.flatten(), noise(0).flatten()]))[0, 1]
    assert abs(kept - weight) < 0.03


def test_a_mask_is_held_in_its_part_of_the_run_only():
    term = Term(MASK, sigma_start=5.0, sigma_end=1.0)
    stops = {t["sigma"]: t["steps"].stop for t in run(constraint=WeightedSum((term,)))[2]}
    assert all((stop == "held") == (1.0 <= sigma <= 5.0) for sigma, stop in stops.items())


def test_masks_share_what_both_know_by_their_weights():
    other = LatentMask(TRUTH + 1, torch.ones_like(WEIGHTS))
    both = WeightedSum((Term(MASK, 3.0), Term(other, 1.0)))
    out = run(constraint=both, batch=1)[0]
    assert torch.allclose(out, torch.where(WEIGHTS > 0, TRUTH + 0.25, TRUTH + 1), atol=1e-5)


class Mean(ByError):
    """Wants the mean of x0 to be a given one: a constraint that is not a mask."""

    def error(self, x0, sigma):
        return (2.0 - x0.mean((1, 2, 3), keepdim=True)).expand_as(x0)


def test_other_constraints_take_their_newton_steps_beside_it():
    free = run(batch=16)[0]
    out, calls, told = run(constraint=WeightedSum((Term(MASK), Term(Mean()))), batch=16)
    assert calls == 2 * (len(LEVELS) - 1) and {t["steps"].stop for t in told} == {"iterations"}
    assert torch.allclose(WEIGHTS * out, WEIGHTS * TRUTH, atol=1e-6)
    assert abs(out.mean() - 2) < 0.7 * abs(free.mean() - 2)


def test_it_survives_another_samplers_noise():
    """An ancestral sampler drives: what it does to known values is undone, or they would be off by its noise."""
    generator = torch.Generator().manual_seed(0)

    def ancestral(i, x, x0):
        return x0 + LEVELS[i + 1] * torch.randn(x.shape, generator=generator)

    out, _, told = run(step=ancestral)
    assert torch.allclose(WEIGHTS * out, WEIGHTS * TRUTH, atol=1e-6)
    assert told[-1]["steps"].residual.mean() < 1.3 * run()[2][-1]["steps"].residual.mean()
