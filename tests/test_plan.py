"""Laws of the limits and of the report, against the analytic prior: what is counted, spent, saved and said."""

import dataclasses
import gc
import math
import pickle
from collections import Counter
from dataclasses import replace

import analytic
import pytest
import torch
from newton_pack.sampler import (
    PRESETS,
    LatentMask,
    Level,
    NewtonSettings,
    Plan,
    Recorder,
    Scales,
    Term,
    WeightedSum,
    levels_of,
)
from newton_pack.sampler import sample_constrained as sample
from newton_pack.sampler.operators.mask import masked_rms
from newton_pack.sampler.plan import MIDDLE, allocate

PRIOR = analytic.Gaussian(torch.full((64,), 0.3), analytic.smooth_covariance())
TRUTH = PRIOR.draw(1, seed=7)
WEIGHTS, KNOWN = analytic.half_mask()
CONSTRAINT = LatentMask(TRUTH, WEIGHTS)
LEVELS = analytic.released_levels()
FAST, PAPER = NewtonSettings(), PRESETS["paper"]
FREE = replace(FAST, iterations=0)
K3, K3_CARRIED = NewtonSettings(3, 0.5, 0.1, carry=False), NewtonSettings(3, 0.5, 0.1)


def planned(settings, constraint=CONSTRAINT):
    """The calls that are announced."""
    return Plan(constraint, settings, levels_of(LEVELS, analytic.exploding)).total


def run(settings, batch=4, constraint=CONSTRAINT, x=None, **kw):
    """The result, the calls, and what was told of each level."""
    x = analytic.start_noise(batch, 1000, LEVELS[0]) if x is None else x
    denoise, told = PRIOR.denoiser(), []
    out = sample(denoise, x, LEVELS, constraint, settings, delta=0.005, callback=told.append, **kw)
    return out, denoise.calls, told


@pytest.mark.parametrize("limit", [20, 23, 39, 40, 79, 80, 1000])
@pytest.mark.parametrize("settings", [FAST, K3_CARRIED, K3], ids=["K1", "K3, carry", "K3"])
def test_max_calls_is_honoured_and_spent(settings, limit):
    settings = replace(settings, max_calls=limit)
    _, calls, told = run(settings, batch=1)
    full = planned(replace(settings, max_calls=0))
    assert calls == planned(settings) <= limit
    assert calls > min(limit, full) - (1 if settings.iterations == 1 else 2)
    assert all((t["steps"].stop == "iterations") == (t["steps"].taken == settings.iterations) for t in told)
    assert all(t["steps"].stop in ("iterations", "budget") for t in told)


def test_limits_at_their_ends():
    """All but the plain calls forbidden is free sampling; a limit that is never met changes no bit."""
    assert torch.equal(run(replace(FAST, max_calls=20))[0], run(FREE)[0])
    assert torch.equal(run(replace(FAST, max_calls=40))[0], run(FAST)[0])
    with pytest.raises(ValueError, match=r"max_calls: 19 .* at least 20"):
        run(replace(FAST, max_calls=19))
    with pytest.raises(ValueError, match=r"max_calls: 38 .* take 39"):
        run(replace(FAST, max_calls=38), step_calls=19)


class KnownStep(LatentMask):
    """Says where x0 is to go, too."""

    def update(self, x0, sigma):
        return super().update(x0, sigma)._replace(x0_step=lambda: WEIGHTS * (TRUTH - x0))


@pytest.mark.parametrize("limit", [20, 21, 30])
def test_a_step_that_is_known_is_taken_where_no_calls_are_left(limit):
    _, calls, told = run(replace(FAST, max_calls=limit), constraint=KnownStep(TRUTH, WEIGHTS))
    assert calls == limit
    for t in told:
        assert torch.allclose(WEIGHTS * t["denoised"], WEIGHTS * TRUTH, atol=1e-6), t["i"]
    # Without carry x0 is the denoiser's own at every level, and K = 0 is sampling without the constraint.
    for settings in (replace(FAST, max_calls=20, carry=False), FREE):
        assert torch.equal(run(settings, constraint=KnownStep(TRUTH, WEIGHTS))[0], run(FREE)[0])


def test_a_larger_budget_comes_closer_to_the_constraint():
    def known_rms(x):
        return ((WEIGHTS * (x - TRUTH)).square().sum() / WEIGHTS.sum() / len(x)).sqrt().item()

    errors = [known_rms(run(replace(FAST, max_calls=limit), batch=64)[0]) for limit in (20, 25, 30, 40)]
    print(f"\nknown rms with 20, 25, 30, 40 calls: {errors}")
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0]


def test_what_is_over_goes_first_to_the_level_whose_noise_is_nearest_to_the_signal_times_1_4():
    levels = levels_of(LEVELS[:-1], analytic.exploding)
    chosen = [i for i in range(20) if allocate(1, 1, [levels[i], *levels[:i], *levels[i + 1 :]])]
    distance = [abs(math.log(level.sigma / 1.37)) for level in levels]
    assert chosen == [distance.index(min(distance))] and pytest.approx(math.atan(1.37), abs=1e-3) == MIDDLE


@pytest.mark.parametrize("steps", range(0, 61, 7))
def test_every_step_is_shared_out_evenly(steps):
    left, shares = steps, []
    levels = levels_of(LEVELS[:-1], analytic.exploding)
    for i in range(20):
        shares.append(allocate(left, 3, levels[i:]))
        left -= shares[-1]
    assert sum(shares) == steps and max(shares) - min(shares) <= 1
    # What is over lies together, in the middle.
    more = [i for i, s in enumerate(shares) if s > min(shares)]
    assert more == list(range(more[0], more[-1] + 1)) if more else True
    # Flow models start at alpha = 0.
    assert allocate(1, 1, [Level(0, 1.0, Scales(0.0, 1.0))]) == 1


def test_a_target_spares_exactly_the_samples_that_reached_it():
    x = analytic.start_noise(8, 5, LEVELS[0])
    settings = replace(FAST, residual_target=0.4)
    out, calls, told = run(settings, x=x)
    steps = [t["steps"] for t in told]
    for s in steps:
        assert torch.equal(s.length > 0, (s.residual[0] > 0.4) & torch.tensor(s.taken > 0))
        assert s.taken == int((s.residual > 0.4).any())
        assert s.stop == ("iterations" if s.taken else "target")
    assert calls == 20 + sum(s.taken for s in steps)
    partly = [s for s in steps if 0 < (s.length > 0).sum() < 8]
    print(f"\ncalls {calls}, levels at which some samples were spared {len(partly)}")
    assert calls < 40 and partly
    # A sample does not depend on its neighbours, though they keep the run going.
    assert torch.allclose(out[:1], run(settings, x=x[:1])[0], atol=1e-4)


def test_targets_at_their_ends():
    loose, calls, told = run(replace(FAST, residual_target=1e6))
    assert calls == 20 and {t["steps"].stop for t in told} == {"target"}
    assert torch.equal(loose, run(FREE)[0])
    strict, calls, _ = run(replace(FAST, residual_target=1e-9))
    assert calls == 40 and torch.equal(strict, run(FAST)[0])


def test_a_target_shortens_the_iterations_of_a_level():
    _, calls, told = run(replace(PAPER, residual_target=0.1))
    taken = [t["steps"].taken for t in told]
    assert calls == 20 + 2 * sum(taken)
    assert any(0 < k < 5 for k in taken)


def test_calls_that_a_target_spares_go_to_later_levels():
    early = WeightedSum((Term(CONSTRAINT, sigma_end=1.0),))
    late = WeightedSum((Term(CONSTRAINT, sigma_start=1.0),))
    limited = replace(FAST, max_calls=27)
    _, calls, told = run(limited, constraint=late)
    assert calls == 27 and [t["steps"].taken for t in told] == [0] * 13 + [1] * 7
    assert run(limited, constraint=early)[1] <= 27


@pytest.mark.parametrize("target", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("limit", [25, 40, 60, 90])
def test_a_limit_holds_whatever_a_target_spares(limit, target):
    """Steps spared go to later levels, where a second and third step cost more than a first."""
    for settings in (K3_CARRIED, K3):
        assert run(replace(settings, max_calls=limit, residual_target=target))[1] <= limit


def test_a_silent_constraint_costs_no_call():
    scheduled = WeightedSum((Term(CONSTRAINT, sigma_start=5.5, sigma_end=1.0),))
    _, calls, told = run(FAST, constraint=scheduled)
    inside = sum(1.0 <= sigma <= 5.5 for sigma in LEVELS[:-1])
    assert calls == 20 + inside
    assert Counter(t["steps"].stop for t in told) == {"silent": 20 - inside, "iterations": inside}


@pytest.mark.parametrize("scales", [analytic.exploding, analytic.flow])
def test_the_real_step_length_is_that_of_the_exact_jacobian(scales):
    """x moves by length * J e, with e as it is."""
    prior = analytic.Gaussian(PRIOR.mean, PRIOR.cov, scales)
    sigma = 2.0 if scales is analytic.exploding else 2 / 3
    start = analytic.start_noise(3, 2, sigma).double()
    told = []
    denoise = prior.denoiser()
    sample(denoise, start, [sigma, 0.0], CONSTRAINT, FAST, delta=0.005, callback=told.append)
    e = CONSTRAINT.error(prior.x0(start, torch.full((3,), sigma)), sigma)
    je = (e.flatten(1) @ prior.jacobian(sigma).T).reshape(e.shape)
    moved = told[0]["x"] - start
    length = told[0]["steps"].length.reshape(3, 1, 1, 1)
    assert torch.allclose(moved, length * je, rtol=1e-5, atol=1e-8)
    assert torch.allclose(moved.abs().amax((1, 2, 3)), torch.tensor(0.5 * scales(sigma).nu).double())


def test_residual_counts_the_elements_that_are_known():
    e = torch.zeros(2, 1, 2, 2)
    e[0, 0, 0, 0] = -3
    assert masked_rms(e).tolist() == [3, 0]


def test_each_term_of_a_sum_keeps_its_own_residual():
    x0 = torch.zeros(1, *analytic.SHAPE)
    near = LatentMask(0.01 * TRUTH, WEIGHTS)
    both = WeightedSum((Term(CONSTRAINT, 0.5), Term(near)))
    expected = torch.stack([CONSTRAINT.residual(x0, 1.0), near.residual(x0, 1.0)])
    assert torch.equal(both.update(x0, 1.0).residual, expected) and torch.equal(both.residual(x0, 1.0), expected)
    alone = WeightedSum((Term(CONSTRAINT, 0.5), Term(near, weight=0.0)))
    assert torch.equal(alone.update(x0, 1.0).e, CONSTRAINT.update(x0, 1.0).e)
    assert torch.equal(alone.update(x0, 1.0).residual.isnan(), torch.tensor([[False], [True]]))


def recorded(settings, batch=3, constraint=CONSTRAINT):
    x = analytic.start_noise(batch, 1000, LEVELS[0])
    plan = Plan(constraint, settings, levels_of(LEVELS, analytic.exploding))
    recorder, denoise = Recorder(plan, x), PRIOR.denoiser()
    out = sample(denoise, x, LEVELS, constraint, settings, delta=0.005, callback=recorder.level, plan=plan)
    return out, recorder.report(calls=denoise.calls, network_evals=0, target=settings.residual_target)


def test_report_holds_plain_numbers_of_what_happened():
    settings = replace(FAST, max_calls=35, residual_target=0.05)
    out, report = recorded(settings)
    _, calls, told = run(settings, batch=3)
    assert report.calls == calls == 20 + sum(level.corrections for level in report.levels)
    for level, t in zip(report.levels, told, strict=True):
        assert level.sigma == t["sigma"] and level.corrections == t["steps"].taken and level.stop == t["steps"].stop
        assert level.residual[0] == pytest.approx(t["steps"].residual[0].tolist())
        assert level.length == pytest.approx(t["steps"].length.tolist())
    final = ((WEIGHTS * (out - TRUTH)).square().sum((1, 2, 3)) / WEIGHTS.sum()).sqrt()
    assert report.residual[0] == pytest.approx(final.tolist(), rel=1e-4)
    assert report.seconds > 0 and b"torch" not in pickle.dumps(report)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.calls = 0


def test_the_run_says_why_it_stopped():
    for settings, said in (
        (FAST, "20 of 20 levels corrected in full"),
        (replace(FAST, max_calls=25), "15 of 20 levels short of corrections by max_calls"),
        (replace(FAST, residual_target=1e6), "20 of 20 levels stopped at the residual target"),
    ):
        assert said in recorded(settings)[1].stop_reason()
    assert "(target 1e+06 reached)" in recorded(replace(FAST, residual_target=1e6))[1].summary()
    assert "(target 1e-06 missed)" in recorded(replace(FAST, residual_target=1e-6))[1].summary()
    silent = recorded(FAST, constraint=WeightedSum(()))[1]
    assert "20 of 20 levels without an active constraint" in silent.summary() and silent.residual == ()
    assert len(silent.table().splitlines()) == 3 + 20


def on_meta(settings, callback=lambda info: None):
    """On torch's meta device no value exists, so that whatever waits for one fails."""
    from newton_pack.sampler import Denoiser

    x = torch.empty(2, *analytic.SHAPE, device="meta")
    constraint = WeightedSum((Term(LatentMask(TRUTH.to("meta"), WEIGHTS.to("meta"))),))
    denoise = Denoiser(lambda x, sigma: 0.5 * x, analytic.exploding)
    sample(denoise, x, LEVELS, constraint, settings, delta=0.005, callback=callback)
    return denoise.calls


@pytest.mark.parametrize("settings", [FAST, PAPER, replace(FAST, max_calls=30)], ids=["fast", "paper", "budget"])
def test_the_host_never_waits_for_the_device(settings):
    plan = Plan(CONSTRAINT, settings, levels_of(LEVELS, analytic.exploding))
    recorder = Recorder(plan, torch.empty(2, device="meta"))
    assert on_meta(settings, recorder.level) == plan.total


def test_only_a_residual_target_waits_for_the_device():
    with pytest.raises(Exception, match="meta"):
        on_meta(replace(FAST, residual_target=0.1))
    with pytest.raises(Exception, match="meta"):
        on_meta(FAST, lambda info: info["steps"].residual.mean().item())


def tensors_at_each_level(keep=None):
    counts = []

    def level(info):
        recorder.level(info)
        if keep is not None:
            keep.append(info["x"])
        counts.append(sum(type(o) is torch.Tensor for o in gc.get_objects()))

    x = analytic.start_noise(2, 1000, LEVELS[0])
    recorder = Recorder(Plan(CONSTRAINT, FAST, levels_of(LEVELS, analytic.exploding)), x)
    sample(PRIOR.denoiser(), x, LEVELS, CONSTRAINT, FAST, delta=0.005, callback=level)
    return counts


def test_no_allocation_grows_with_the_steps():
    steady, growing = tensors_at_each_level(), tensors_at_each_level(keep=[])
    assert len(set(steady[1:])) == 1
    assert growing[-1] - growing[1] == 18
