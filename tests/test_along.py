"""Laws of a movement sought along another direction, and of when it is asked for."""

from dataclasses import replace

import pytest
import torch
from newton_pack.sampler import (
    Along,
    Denoiser,
    EncoderDifference,
    NewtonSettings,
    PixelConstraint,
    Scales,
    Term,
    WeightedSum,
    sample_constrained,
)
from test_pixels import decode, encode, measured, noise, picture, transposed

TRUTH = picture()
TASK = measured("area", TRUTH)
GRADIENT = PixelConstraint(TASK.misfit, TASK.descent, transposed)
DIFFERENCE = PixelConstraint(TASK.misfit, TASK.correction, EncoderDifference(decode, encode, 1e-6))
X0 = noise(1, 3, 32, 32, seed=5)


class Counted:
    """`DIFFERENCE`, and how often it was asked."""

    asked = 0

    def error(self, x0, sigma):
        self.asked += 1
        return DIFFERENCE.error(x0, sigma)


def test_direction_and_movement_come_from_one_each():
    wish = Along(DIFFERENCE, GRADIENT).wish(X0, 1.0)
    assert torch.equal(wish.e, GRADIENT.error(X0, 1.0))
    assert torch.equal(wish.residual, GRADIENT.wish(X0, 1.0).residual)
    assert TASK.misfit(decode(X0 + wish.movement())).abs().max() < 1e-9


def test_in_a_sum_and_for_chosen_samples_it_is_the_movement_too():
    along = Along(DIFFERENCE, GRADIENT)
    both = torch.cat([X0, X0 + 0.1])
    only = along.wish(both, 1.0).only(torch.tensor([False, True]))
    assert not only.movement()[0].any() and only.movement()[1].any()
    twice = WeightedSum((Term(along, 1.0), Term(along, 3.0))).wish(X0, 1.0)
    torch.testing.assert_close(twice.movement(), along.wish(X0, 1.0).movement())


@pytest.mark.parametrize(("carry", "asked"), [(True, 4), (False, 0)])
def test_it_is_asked_for_once_a_level_and_only_where_x0_is_carried(carry, asked):
    counted = Counted()
    denoise = Denoiser(lambda x, sigma: 0.5 * x, lambda sigma: Scales(1.0, sigma))
    settings = replace(NewtonSettings(3), carry=carry)
    sample_constrained(denoise, X0, [4.0, 2.0, 1.0, 0.5, 0.0], Along(counted, GRADIENT), settings, 0.01)
    assert counted.asked == asked
