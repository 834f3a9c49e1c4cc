"""Laws of a step of x0 beside another error direction, of sums of them, and of when it is asked for."""

from dataclasses import replace

import pytest
import torch
from newton_pack.sampler import (
    Denoiser,
    EncoderDifference,
    NewtonSettings,
    PixelConstraint,
    Scales,
    Term,
    WeightedSum,
    least_squares,
    sample_constrained,
)
from newton_pack.sampler.newton import extrapolate_x0
from test_pixels import decode, decoder_vjp, encode, measured, noise, picture

TRUTH = picture()
TASK = measured("area", TRUTH)
GRADIENT = PixelConstraint(TASK, decode, decoder_vjp)
DIFFERENCE = EncoderDifference(encode, 1e-6)
SPLIT = replace(GRADIENT, to_x0=DIFFERENCE)
X0 = noise(1, 3, 32, 32, seed=5)


class Counted:
    """A function, and how often it was asked."""

    def __init__(self, function):
        self.function, self.asked = function, 0

    def __call__(self, *args):
        self.asked += 1
        return self.function(*args)


def test_direction_and_step_come_from_one_each():
    update = SPLIT.update(X0, 1.0)
    assert torch.equal(update.e, GRADIENT.update(X0, 1.0).e)
    assert torch.equal(update.residual, GRADIENT.update(X0, 1.0).residual)
    assert TASK.data_residual(decode(X0 + update.x0_step())).abs().max() < 1e-9


def test_chosen_samples_alone_take_the_step():
    both = torch.cat([X0, X0 + 0.1])
    only = SPLIT.update(both, 1.0).only(torch.tensor([False, True]))
    assert not only.x0_step()[0].any() and only.x0_step()[1].any()


def test_steps_of_a_sum_are_averaged_by_their_weights():
    other = replace(SPLIT, measurement=measured("area", picture(seed=4)))
    found = WeightedSum((Term(SPLIT, 1.0), Term(other, 3.0))).update(X0, 1.0).x0_step()
    steps = [c.update(X0, 1.0).x0_step() for c in (SPLIT, other)]
    torch.testing.assert_close(found, 0.25 * steps[0] + 0.75 * steps[1])
    assert not torch.allclose(found, (steps[0] + steps[1]) / 2, atol=0.01)


def test_beside_a_term_without_a_step_x0_takes_the_known_one_in_full_and_the_rest_of_the_newton_step():
    update = WeightedSum((Term(SPLIT), Term(GRADIENT))).update(X0, 1.0)
    step, known = noise(1, 3, 32, 32, seed=8), update.x0_step()
    moved = extrapolate_x0(X0, step, update) - X0
    assert update.incomplete and torch.allclose((moved * known).sum(), known.square().sum())
    across = step - (step * known).sum() / known.square().sum() * known
    torch.testing.assert_close(moved - known, across)


@pytest.mark.parametrize(("carry", "end", "asked"), [(True, 0.0, 5), (True, 0.2, 4), (False, 0.0, 0)])
def test_it_is_asked_for_once_a_level_and_once_more_for_the_result_and_only_where_x0_is_carried(carry, end, asked):
    counted = Counted(DIFFERENCE)
    denoise = Denoiser(lambda x, sigma: 0.5 * x, lambda sigma: Scales(1.0, sigma))
    settings = replace(NewtonSettings(3), carry=carry)
    sample_constrained(denoise, X0, [4.0, 2.0, 1.0, 0.5, end], replace(GRADIENT, to_x0=counted), settings, 0.01)
    assert counted.asked == asked and denoise.calls == (24 if carry else 28)


def test_the_result_goes_twice_as_far_as_a_half_step_knows():
    """A step of half the way leaves a quarter of it, at the calls of one."""
    half = replace(GRADIENT, to_x0=lambda *args: 0.5 * DIFFERENCE(*args))
    denoise = Denoiser(lambda x, sigma: 0.5 * x, lambda sigma: Scales(1.0, sigma))
    before = TASK.data_residual(decode(0.5 * X0))
    made = sample_constrained(denoise, X0, [1.0, 0.0], half, NewtonSettings(), 0.01)
    torch.testing.assert_close(TASK.data_residual(decode(made)), 0.25 * before)
    assert denoise.calls == 2


def test_the_picture_is_decoded_once_for_both():
    counted = Counted(decode)
    split = PixelConstraint(TASK, counted, least_squares, to_x0=DIFFERENCE)
    split.update(X0, 1.0).x0_step()
    direction = Counted(decode)
    PixelConstraint(TASK, direction, least_squares).update(X0, 1.0)
    assert counted.asked == direction.asked
