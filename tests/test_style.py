"""Laws of the style distance and of its direction, with a small nonlinear feature network."""

import pytest
import torch
from newton_pack.sampler import NORMALISATIONS, EncoderDifference, StyleConstraint, reference_gram, style_distance
from newton_pack.sampler.denoiser import unit_max
from newton_pack.sampler.style import gram

WEIGHTS = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def features(pictures):
    return torch.tanh(torch.nn.functional.conv2d(pictures, WEIGHTS.to(pictures))).flatten(2).mT


def pictures(count, seed, size=12, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator, dtype=torch.float64).to(dtype)


def constraint(normalisation="none", to_latent=None, count=1, decode=None):
    reference = reference_gram(features, pictures(count, 1), normalisation)
    return StyleConstraint(features, reference, decode, to_latent, normalisation)


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


def test_the_direction_in_the_latent_lowers_the_distance():
    """With an autoencoder whose encoder undoes its decoder: x0 -> 1 - x0, so the sign counts."""

    def codec(t):
        return 1 - t

    style = constraint(to_latent=EncoderDifference(codec, 0.005), decode=codec)
    x0 = pictures(2, 4)
    update = style.update(x0, 1.0)
    before, after = style.distance(codec(x0)), style.distance(codec(x0 + 0.02 * unit_max(update.e)))
    assert (after < before).all()
    assert torch.allclose(update.residual, before) and update.x0_step is None


def test_it_works_under_inference_mode():
    """The host runs everything so."""

    def identity(t):
        return t

    with torch.inference_mode():
        style = constraint(to_latent=EncoderDifference(identity, 0.005), decode=identity)
        e = style.update(pictures(1, 4), 1.0).e
    outside = constraint(to_latent=EncoderDifference(identity, 0.005), decode=identity).update(pictures(1, 4), 1.0).e
    assert torch.allclose(e, outside)
