"""Laws of the style distance and of its direction, with a small nonlinear feature network."""

import pytest
import torch
from newton_pack.sampler import (
    NORMALISATIONS,
    StyleConstraint,
    Term,
    Update,
    WeightedSum,
    reference_gram,
    style_distance,
)
from newton_pack.sampler import style as style_module
from newton_pack.sampler.denoiser import unit_max
from newton_pack.sampler.pixel import Estimate
from newton_pack.sampler.style import gram

WEIGHTS = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def features(pictures):
    return torch.tanh(torch.nn.functional.conv2d(pictures, WEIGHTS.to(pictures))).flatten(2).mT


def pictures(count, seed, size=12, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64).to(dtype)


def constraint(normalisation="none", decoder_vjp=None, count=1, decode=None):
    reference = reference_gram(features, pictures(count, 1), normalisation)
    return StyleConstraint(features, reference, decode, decoder_vjp, normalisation)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_gram_matrix_knows_what_but_not_where_nor_how_much(normalisation):
    tokens = torch.randn(2, 30, 5, generator=torch.Generator().manual_seed(2))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    g = gram(tokens, normalisation)
    assert torch.allclose(gram(tokens[:, order], normalisation), g, atol=1e-6)
    assert torch.allclose(gram(torch.cat([tokens, tokens], 1), normalisation), g, atol=1e-6)


def test_what_the_normalisations_leave_out():
    tokens = torch.randn(1, 30, 5, generator=torch.Generator().manual_seed(2))
    sizes = torch.rand(1, 30, 1, generator=torch.Generator().manual_seed(3)) + 0.1
    assert torch.allclose(gram(tokens * sizes, "unit tokens"), gram(tokens, "unit tokens"), atol=1e-6)
    assert torch.allclose(gram(tokens + torch.arange(5), "centred"), gram(tokens, "centred"), atol=1e-5)
    assert not torch.allclose(gram(tokens * sizes), gram(tokens), atol=1e-2)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_the_descent_is_the_steepest(normalisation):
    style, given = constraint(normalisation), pictures(2, 5)
    _, down = style.descent(given)
    d = torch.randn(given.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    numerical = (style.distance(given + 1e-6 * d) - style.distance(given - 1e-6 * d)) / 2e-6
    assert torch.allclose(-(down * d).flatten(1).sum(1), numerical, rtol=1e-6)


def test_the_reference_itself_is_left_alone():
    """No style is missing: distance 0, no move and no NaN, and its neighbour in the batch is not disturbed."""
    style = constraint()
    both = torch.cat([pictures(1, 1), pictures(1, 9)])
    assert style.distance(both)[0] == 0 and style.distance(both)[1] > 0.01
    assert torch.equal(style.descent(both)[1][0], torch.zeros(3, 12, 12, dtype=torch.float64))
    assert torch.allclose(style.descent(both)[1][1:], style.descent(both[1:])[1])


def test_the_distance_does_not_depend_on_the_networks_scale():
    tokens, reference = features(pictures(2, 3)), constraint().reference
    assert torch.allclose(style_distance(tokens, reference), style_distance(7 * tokens, 49 * reference))


def test_several_references_are_averaged():
    both = constraint(count=2).reference
    alone = [reference_gram(features, p[None]) for p in pictures(2, 1)]
    assert torch.allclose(both, (alone[0] + alone[1]) / 2)


def negative(t):
    """A decoder that is its own inverse: x0 -> 1 - x0, so the sign counts."""
    return 1 - t


def negative_vjp(estimate, residual, measurement):
    return -residual(estimate.picture)


def test_of_steps_that_overshoot_the_nearest_is_taken(monkeypatch):
    """A gradient that tells a fortieth of the slope makes steps of forty times the length: none of them is nearer."""
    style, x0 = constraint(decode=negative), pictures(2, 4)
    told = StyleConstraint.descent

    def fortieth(self, picture):
        distance, down = told(self, picture)
        return distance, down / 40

    monkeypatch.setattr(StyleConstraint, "descent", fortieth)
    step, _ = style.descend(Estimate(x0, negative))
    assert torch.equal(step, torch.zeros_like(x0))


@pytest.mark.parametrize("decoder_vjp", [None, negative_vjp])
def test_the_direction_in_the_latent_lowers_the_distance(decoder_vjp):
    style = constraint(decoder_vjp=decoder_vjp, decode=negative)
    x0 = pictures(2, 4)
    update = style.update(x0, 1.0)
    before, after = style.distance(1 - x0), style.distance(1 - (x0 + 0.02 * unit_max(update.e)))
    assert (after < before).all() and torch.allclose(update.residual, before)


def test_by_forward_passes_the_whole_step_is_known():
    """A backward pass of the features for each part of it, the last of which still brings the style nearer."""
    style, x0 = constraint(decode=negative), pictures(2, 4)
    step = style.update(x0, 1.0).x0_step()
    assert (style.distance(1 - (x0 + step)) < 0.5 * style.distance(1 - x0)).all()
    assert constraint(decoder_vjp=negative_vjp, decode=negative).update(x0, 1.0).x0_step is None


def test_in_a_sum_the_step_gives_way_to_those_that_satisfy():
    """So super-resolution is obeyed as without a style; the style has its part of e."""
    style, y, x0 = constraint(decode=negative), pictures(2, 7), pictures(2, 4)

    class Exact:
        unit = "any"
        spatial = True

        def update(self, x0, sigma):
            return Update(y - x0, (y - x0).flatten(1).norm(dim=1), lambda: y - x0)

    update = WeightedSum((Term(style), Term(Exact()))).update(x0, 1.0)
    assert torch.equal(update.x0_step(), y - x0) and update.incomplete
    expected = unit_max(style.update(x0, 1.0).e) + unit_max(y - x0)
    assert torch.allclose(update.e, expected)


def test_the_first_part_of_the_step_is_where_a_linear_distance_is_zero(monkeypatch):
    """<grad_x0 E, z> = -E, up to the ridge of the decoder's fit."""
    monkeypatch.setattr(style_module, "DESCENTS", 1)
    style, x0 = constraint(decode=negative), pictures(2, 4)
    step, (distance, down) = style.update(x0, 1.0).x0_step(), style.descent(1 - x0)
    assert torch.allclose((down * step).flatten(1).sum(1), -distance, rtol=3e-3)


def test_every_sample_is_by_itself_and_the_reference_stays():
    style = constraint(decode=negative)
    both = 1 - torch.cat([pictures(1, 1), pictures(1, 9)])
    step = style.update(both, 1.0).e
    assert torch.equal(step[0], torch.zeros(3, 12, 12, dtype=torch.float64))
    assert torch.allclose(step[1:], style.update(both[1:], 1.0).e)


@pytest.mark.parametrize("decoder_vjp", [None, negative_vjp])
def test_it_works_under_inference_mode(decoder_vjp):
    """The host runs everything so."""
    style = constraint(decoder_vjp=decoder_vjp, decode=negative)
    with torch.inference_mode():
        e = style.update(pictures(1, 4), 1.0).e
    assert torch.allclose(e, style.update(pictures(1, 4), 1.0).e)
