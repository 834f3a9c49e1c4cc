"""Laws of the forward-only error direction, on decoders whose Jacobian is known."""

import pytest
import torch
import torch.nn.functional as F
from newton_pack.sampler import (
    EncoderDifference,
    Estimate,
    LinearMeasurement,
    PixelConstraint,
    Resample,
    grey,
    least_squares,
)
from newton_pack.sampler.least_squares import DAMPING, fitted_jacobian

CHANNELS, RATIO, SIDE = 4, 4, 6


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# (C, 3, 3 r, 3 r): every latent cell paints its own r x r pixels and those of its neighbours.
BRUSH = 0.05 * noise(CHANNELS, 3, 3 * RATIO, 3 * RATIO, seed=1)


def linear(x0, brush=BRUSH):
    return 0.5 + F.conv_transpose2d(x0, brush, stride=RATIO, padding=RATIO)


def curved(x0):
    return 0.5 + 0.5 * torch.tanh(2 * (linear(x0) - 0.5))


def point(batch=2, side=SIDE, seed=2):
    return noise(batch, CHANNELS, side, side, seed=seed)


def exact_jvp(decode, x0, z):
    return torch.func.jvp(decode, (x0,), (z,))[1]


def cosine(a, b):
    return F.cosine_similarity(a.flatten(1), b.flatten(1)).min().item()


def shrinking(factor=RATIO):
    side = SIDE * RATIO // factor
    return Resample.by_factor((side, side), factor)


def measured(operator, batch=2):
    return LinearMeasurement(operator, operator.A(linear(point(batch, seed=7))))


def direction(decode, m, x0, noise=0.0):
    return PixelConstraint(m, decode, least_squares, noise).update(x0, 1.0)


def test_a_decoder_that_is_a_convolution_is_found():
    x0, z = point(), point(seed=3)
    D = fitted_jacobian(Estimate(x0, linear))
    assert cosine(D(z), exact_jvp(linear, x0, z)) > 1 - 1e-5


def test_the_fit_is_near_the_jacobian_of_a_curved_decoder():
    x0, z = point(), point(seed=3)
    D = fitted_jacobian(Estimate(x0, curved))
    found, other = (cosine(D(z), exact_jvp(curved, at, z)) for at in (x0, 3 * point(seed=8)))
    print(f"\ncosine with the Jacobian here {found:.3f}, elsewhere {other:.3f}")
    assert found > 0.9 and found > other + 0.05


def test_the_adjoint_is_one():
    D = fitted_jacobian(Estimate(point(), curved))
    z, v = point(seed=3), noise(2, 3, SIDE * RATIO, SIDE * RATIO, seed=4)
    assert torch.allclose((D(z) * v).sum(), (z * D.adjoint(v)).sum())


@pytest.mark.parametrize("operator", [shrinking(), shrinking(2 * RATIO), grey()], ids=["x4", "x8", "grey"])
def test_it_solves_the_damped_normal_equations(operator):
    """Against a dense solution by the decoder's exact Jacobian."""
    m, x0 = measured(operator, 1), point(1)
    e = direction(linear, m, x0).e
    J = torch.autograd.functional.jacobian(lambda z: operator.A(linear(z)), x0)
    J = J.reshape(-1, x0.numel())
    g = J.T @ m.data_residual(linear(x0)).flatten()
    damping = DAMPING * (J @ g).square().sum() / g.square().sum()
    exact = torch.linalg.solve(J.T @ J + damping * torch.eye(len(g)).double(), g)
    assert torch.allclose(e.flatten(), exact, rtol=0, atol=1e-2 * exact.abs().max().item())


def test_weak_channels_are_not_left_behind():
    """Three that paint a tenth as strongly: a full step leaves less than the best one of the gradient."""
    brush = BRUSH.clone()
    brush[:3] *= 0.1

    def decode(x0):
        return linear(x0, brush)

    m, x0 = measured(shrinking(), 1), point(1)
    e = direction(decode, m, x0).e
    J = torch.autograd.functional.jacobian(lambda z: m.operator.A(decode(z)), x0).reshape(-1, x0.numel())
    r = m.data_residual(decode(x0)).flatten()
    down = J @ (J.T @ r)
    best_of_gradient = (r - (r @ down) / (down @ down) * down).norm() / r.norm()
    left = (r - J @ e.flatten()).norm() / r.norm()
    print(f"\nleft by least squares {left:.3f}, by the best step along the gradient {best_of_gradient:.3f}")
    assert left < 0.9 * best_of_gradient


def test_what_the_decoder_does_not_show_is_left_alone():
    """An encoder may answer in channels that its decoder ignores."""
    brush = BRUSH.clone()
    brush[3] = 0

    def decode(x0):
        return linear(x0, brush)

    def encode(picture):
        cells = F.avg_pool2d(picture, RATIO)
        return torch.cat([cells, cells.mean(1, keepdim=True)], 1)

    m, x0 = measured(shrinking()), point()
    e = direction(decode, m, x0).e
    other = EncoderDifference(encode, 0.005)(Estimate(x0, decode), m.data_residual, m)
    shares = [t[:, 3].abs().max() / t.abs().max() for t in (e, other)]
    assert shares[0] < 0.01 and shares[1] > 0.2


def test_a_batch_of_two_is_two_batches_of_one():
    m, x0 = measured(shrinking()), point()
    singles = [LinearMeasurement(m.operator, y) for y in m.y.split(1)]
    alone = [direction(curved, one, z).e for one, z in zip(singles, x0.split(1), strict=True)]
    assert torch.allclose(direction(curved, m, x0).e, torch.cat(alone), atol=1e-10)


def test_a_satisfied_sample_stays_and_noise_is_not_fitted():
    x0 = point(3)
    y = shrinking().A(linear(x0))
    off = torch.tensor([0.0, 0.03, 0.015]).double()
    update = direction(linear, LinearMeasurement(shrinking(), y + off.reshape(3, 1, 1, 1)), x0, noise=0.02)
    assert torch.allclose(update.residual, off)
    assert (update.e.abs().flatten(1).amax(1) > 0).tolist() == [False, True, False]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (2, 2), (5, 1)])
def test_small_latents_take_more_probes(height, width):
    """Even where cells have no neighbours to be told from."""
    x0 = noise(2, CHANNELS, height, width, seed=5)
    m = LinearMeasurement(grey(), grey().A(linear(noise(2, CHANNELS, height, width, seed=6))))
    e = direction(linear, m, x0).e
    step = 1e-3 * e / e.abs().max()
    assert (m.data_residual(linear(x0 + step)).norm() < m.data_residual(linear(x0)).norm()).item()


def test_it_needs_no_gradient():
    with torch.inference_mode():
        e = direction(curved, measured(shrinking()), point()).e
    assert e.is_inference()


def test_a_decoder_in_half_precision_does():
    """The fit averages its rounding away."""
    m, x0 = measured(shrinking()), point()
    rounded = direction(lambda z: curved(z).bfloat16().double(), m, x0).e
    assert cosine(rounded, direction(curved, m, x0).e) > 0.98
