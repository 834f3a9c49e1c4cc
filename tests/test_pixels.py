"""Laws of constraints on the decoded picture, with linear autoencoders whose answers are known."""

import analytic
import pytest
import torch
from newton_pack.sampler import (
    EncoderDifference,
    Estimate,
    FixedPoint,
    Identity,
    LatentMask,
    LinearMeasurement,
    NewtonSettings,
    PixelConstraint,
    PixelMask,
    Resample,
    Term,
    WeightedSum,
    back_project,
    gaussian_kernel,
    grey,
    motion_kernel,
    sample_constrained,
)
from newton_pack.sampler.constraint import rms
from newton_pack.sampler.denoiser import unit_max
from newton_pack.sampler.operators.blur import Blur

SIZE = 32


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed=3):
    """An orthogonal map of the channels: an autoencoder that loses nothing."""
    return torch.linalg.qr(noise(3, 3, seed=seed))[0]


def decode(x0):
    return 0.5 + 0.1 * torch.einsum("dc,bchw->bdhw", rotation(), x0)


def encode(picture):
    return torch.einsum("dc,bdhw->bchw", rotation(), (picture - 0.5) / 0.1)


def decoder_vjp(estimate, residual, m):
    with torch.enable_grad():
        z = estimate.x0.clone().requires_grad_()
        picture = decode(z)
        return torch.autograd.grad(picture, z, m.A_adjoint(residual(picture.detach())))[0]


def identity(t):
    return t


def picture(seed=1, batch=1):
    return decode(noise(batch, 3, SIZE, SIZE, seed=seed)).clamp(0, 1)


OPERATORS = {
    "area": Resample.by_factor((8, 8), 4),
    "smooth area": Resample.by_factor((8, 8), 4, smooth=True),
    "lanczos": Resample.by_factor((8, 8), 4, "lanczos"),
    "grey": grey(),
    "mask": PixelMask.of(noise(SIZE, SIZE, seed=3) > 0.8),
    "blur": Blur.of(gaussian_kernel(1.0)),
    "motion": Blur.of(motion_kernel(5, 30)),
}


def measured(name, truth, sigma=0.0):
    y = OPERATORS[name].A(truth)
    return LinearMeasurement(OPERATORS[name], y + sigma * noise(*y.shape, seed=9))


@pytest.mark.parametrize("name", OPERATORS)
def test_the_gradient_is_that_of_the_residual_norm(name):
    m, x0 = measured(name, picture()), noise(1, 3, SIZE, SIZE)
    e = PixelConstraint(m, decode, decoder_vjp).update(x0, 1.0).e
    x0 = x0.requires_grad_()
    exact = -torch.autograd.grad(m.data_residual(decode(x0)).norm(), x0)[0]
    assert torch.nn.functional.cosine_similarity(e.flatten(), exact.flatten(), 0) > 1 - 1e-9


@pytest.mark.parametrize("name", ["area", "smooth area", "lanczos", "grey", "mask"])
def test_one_encoder_difference_satisfies_a_lossless_autoencoder(name):
    """Dec(x0 + e) measures as y, when e has its own length: a Newton step."""
    m, x0 = measured(name, picture()), noise(1, 3, SIZE, SIZE)
    e = EncoderDifference(encode, 1e-6)(Estimate(x0, decode), m.data_residual, m)
    assert m.data_residual(decode(x0 + e)).abs().max() < 1e-10


def test_both_ways_agree_where_they_must():
    """Area averaging has A* in proportion to A+, and a rotation is its own inverse transposed."""
    m, x0 = measured("area", picture()), noise(1, 3, SIZE, SIZE)
    forward = PixelConstraint(m, decode, EncoderDifference(encode, 0.005)).update(x0, 1.0).e
    gradient = PixelConstraint(m, decode, decoder_vjp).update(x0, 1.0).e
    assert torch.allclose(unit_max(forward), unit_max(gradient), atol=1e-9)


@pytest.mark.parametrize("way", ["forward", "gradient"])
def test_noise_is_not_fitted(way):
    """Of three samples the one above the noise level moves, the one below does not, nor one that fits exactly."""
    m = measured("area", picture().expand(3, -1, -1, -1))
    off = torch.tensor([0.03, 0.015, 0.0], dtype=torch.float64)
    x0 = encode(picture() + off.reshape(3, 1, 1, 1))
    to_latent = EncoderDifference(encode, 0.005) if way == "forward" else decoder_vjp
    update = PixelConstraint(m, decode, to_latent, noise=0.02).update(x0, 1.0)
    assert torch.allclose(update.residual, off, atol=1e-12)
    assert (update.e.abs().flatten(1).amax(1) > 0).tolist() == [True, False, False]
    if way == "forward":  # down to the noise level, no further
        left = m.data_residual(decode(x0 + update.e)).square().mean((1, 2, 3)).sqrt()
        assert torch.allclose(left, torch.tensor([0.02, 0.015, 0.0], dtype=torch.float64), atol=1e-12)


def test_small_changes_are_lengthened_for_the_encoder():
    seen = []

    def watched(p):
        seen.append(p)
        return encode(p)

    x0 = noise(2, 3, SIZE, SIZE)
    change = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.float64)
    change[0, 0, 0, 0], change[1, 0, 0, 0] = 1e-4, 0.5
    e = EncoderDifference(watched, 0.1)(Estimate(x0, decode), lambda p: change, Identity())
    longest = (seen[0] - seen[1]).abs().flatten(1).amax(1)
    assert torch.allclose(longest, torch.tensor([0.1, 0.5], dtype=torch.float64))
    assert torch.allclose(decode(x0 + e) - decode(x0), change, atol=1e-12)  # and e shortened in turn


def test_an_estimate_moved_by_the_whole_e_ends_on_the_measurement():
    """Carried along J e alone it comes near."""
    prior = analytic.Gaussian(torch.full((64,), 0.3), analytic.smooth_covariance())
    m = LinearMeasurement(Resample.by_factor((4, 4), 2, "area"), torch.zeros(1, 1, 4, 4))
    to_latent = EncoderDifference(identity, 0.005)
    left = {}
    for whole in (False, True):
        constraint = PixelConstraint(m, identity, to_latent, to_x0=to_latent if whole else None)
        x = analytic.start_noise(8, 3, analytic.LEVELS[0])
        out = sample_constrained(prior.denoiser(), x, analytic.LEVELS, constraint, NewtonSettings(), 0.005)
        left[whole] = rms(m.data_residual(out)).mean().item()
    print(f"\nrms left by whole: {left}")
    assert left[True] < 1e-6 < left[False]


def test_in_a_sum_the_measurement_still_holds_and_the_other_term_acts():
    """A measurement with Newton steps for a mask: nearer to it than by the joint step, and to the mask than alone."""
    prior = analytic.Gaussian(torch.full((64,), 0.3), analytic.smooth_covariance())
    truth, operator, half = prior.draw(1, 12), Resample.by_factor((4, 4), 2, "area"), torch.zeros(1, 1, 8, 8)
    half[..., :4] = 1
    m, mask = LinearMeasurement(operator, operator.A(truth)), LatentMask(truth.expand(8, -1, -1, -1), half)
    to_latent = EncoderDifference(identity, 0.005)

    def run(whole, *others):
        pixels = PixelConstraint(m, identity, to_latent, to_x0=to_latent if whole else None)
        both = WeightedSum((Term(pixels), *map(Term, others)))
        x = analytic.start_noise(8, 3, analytic.LEVELS[0])
        out = sample_constrained(prior.denoiser(), x, analytic.LEVELS, both, NewtonSettings(), 0.005)
        return rms(m.data_residual(out)).mean().item(), mask.residual(out, 0.0).mean().item()

    alone, joint, kept = run(True), run(False, mask), run(True, mask)
    print(f"\nleft of measurement and mask: alone {alone}, joint {joint}, kept {kept}")
    assert kept[0] < 0.8 * joint[0]
    assert kept[1] < 0.8 * alone[1]


@pytest.mark.parametrize("name", OPERATORS)
def test_back_projection_is_consistent_below_half_a_level(name):
    """Also after rounding to 8 bits, for a picture far off."""
    m = measured(name, picture())
    closed = back_project(m, picture(seed=2))
    assert closed.min() >= 0 and closed.max() <= 1
    saved = (255 * closed).round() / 255
    assert 255 * m.data_residual(saved).abs().mean() < 0.5 < 255 * m.data_residual(picture(seed=2)).abs().mean()


@pytest.mark.parametrize("name", OPERATORS)
def test_back_projection_never_leaves_more(name):
    """Even where no picture satisfies y: a sharp one given as blurred or shrunk, brighter than white."""
    impossible = LinearMeasurement(OPERATORS[name], 1.5 * noise(*OPERATORS[name].A(picture()).shape, seed=4))
    start = picture(seed=2)
    left = [impossible.data_residual(back_project(impossible, start, rounds=k)).norm().item() for k in (0, 1, 4, 16)]
    assert left == sorted(left, reverse=True) and left[-1] < 0.99 * left[0]


@pytest.mark.parametrize("sigma", [0.02, 0.05])
@pytest.mark.parametrize("name", ["area", "grey"])
def test_back_projection_stops_at_the_noise(name, sigma):
    """It ends at the noise level, and so nearer to the truth than an exact projection onto noisy data."""
    truth = picture()
    m = measured(name, truth, sigma)
    kept, exact = back_project(m, truth, sigma), back_project(m, truth)
    start = back_project(m, picture(seed=2), sigma)
    assert rms(m.data_residual(start)).item() == pytest.approx(sigma, rel=0.02)
    assert (kept - truth).norm() < 0.5 * (exact - truth).norm()


def test_a_target_is_reached():
    posterised = FixedPoint(lambda p: (4 * p).round() / 4)
    closed = back_project(posterised, picture())
    assert posterised.data_residual(closed).abs().max() == 0
    update = PixelConstraint(posterised, decode, EncoderDifference(encode, 1e-6)).update(encode(picture()), 1.0)
    assert update.residual.item() == pytest.approx(posterised.data_residual(picture()).square().mean().sqrt().item())
