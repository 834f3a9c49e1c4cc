"""Laws of the products with J, against exact Jacobians."""

from itertools import pairwise

import analytic
import pytest
import torch
from newton_pack.sampler import jacobian
from newton_pack.sampler.directions import along_exact, along_je, along_jte, follow
from torch import Tensor

SIGMA = 0.5
SCALES = {"eps": analytic.exploding, "flow": analytic.flow}


def gaussian(scales=analytic.exploding):
    return analytic.Gaussian(torch.full((64,), 0.3), analytic.smooth_covariance(), scales)


def at(prior, sigma=SIGMA):
    return lambda x: prior.x0(x, torch.full((len(x),), sigma))


def linear(matrix: Tensor):
    """A denoiser with this Jacobian, over (1, 2, 4)."""
    return lambda x: (x.flatten(1) @ matrix.T).reshape(x.shape)


def small_network():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(2, 6, 3, padding=1), torch.nn.SiLU(), torch.nn.GroupNorm(2, 6), torch.nn.Conv2d(6, 2, 3)]
    return torch.nn.Sequential(*layers, torch.nn.Upsample((4, 4))).double()


def noise(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
def test_all_products_are_those_of_the_exact_jacobian(scales):
    prior = gaussian(scales)
    x, v, exact = noise(2, 1, 8, 8), noise(2, 1, 8, 8, seed=2), prior.jacobian(SIGMA).float()
    x0, jtv = jacobian.transposed(at(prior), x)
    jv = (v.flatten(1) @ exact.T).reshape(v.shape)
    assert torch.equal(x0, at(prior)(x))
    assert torch.allclose(jacobian.difference_product(at(prior), x, x0, v, 0.005), jv, atol=2e-3)
    assert torch.allclose(jacobian.exact_product(at(prior), x, v), jv, atol=1e-5)
    assert torch.allclose(jtv(v), (v.flatten(1) @ exact).reshape(v.shape), atol=1e-5)


def test_products_of_a_network_are_those_of_its_whole_jacobian():
    network = small_network()
    x, v = noise(1, 2, 4, 4, dtype=torch.float64), noise(1, 2, 4, 4, seed=2, dtype=torch.float64)
    whole = torch.func.jacrev(network)(x).reshape(32, 32)
    x0, jtv = jacobian.transposed(network, x)
    assert torch.allclose(jacobian.exact_product(network, x, v).flatten(), whole @ v.flatten())
    assert torch.allclose(
        jacobian.difference_product(network, x, x0, v, 1e-6).flatten(), whole @ v.flatten(), atol=1e-5
    )
    assert torch.allclose(jtv(v).flatten(), whole.T @ v.flatten())
    weights = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    weights[..., :2, :] = 1
    assert torch.allclose(jacobian.known_rows(jtv, weights), whole[weights.flatten() > 0])


def test_an_ideal_denoiser_is_symmetric_and_a_network_is_not():
    mixture = analytic.Mixture([gaussian(), analytic.Gaussian(-torch.ones(64), 0.1 * torch.eye(64))], [0.5, 0.5])
    for f, shape, symmetric in ((at(mixture), (3, 1, 8, 8), True), (small_network(), (3, 2, 4, 4), False)):
        x, v = noise(*shape, dtype=torch.float64), noise(*shape, seed=2, dtype=torch.float64)
        found = jacobian.Products(jacobian.exact_product(f, x, v), jacobian.transposed(f, x)[1](v)).asymmetry()
        assert (found < 1e-6).all() if symmetric else (found > 0.1).all()


def test_asymmetry_of_symmetric_skew_and_vanishing_matrices():
    a, v = noise(8, 8, dtype=torch.float64), noise(1, 1, 2, 4, seed=3, dtype=torch.float64)
    for matrix, expected in ((a + a.T, 0.0), (a - a.T, 2.0), (0 * a, 0.0)):
        f = linear(matrix)
        found = jacobian.Products(jacobian.exact_product(f, v, v), jacobian.transposed(f, v)[1](v))
        assert found.asymmetry().item() == pytest.approx(expected, abs=1e-12)
        assert torch.allclose(found.symmetric + found.skew, found.jv)
        assert torch.allclose(found.symmetric - found.skew, found.jtv)


def test_random_probes_estimate_the_asymmetry_of_the_whole_matrix():
    a = noise(8, 8, dtype=torch.float64)
    x = torch.zeros(1, 1, 2, 4, dtype=torch.float64)
    _, jtv = jacobian.transposed(linear(a), x)
    probes = [noise(1, 1, 2, 4, seed=s, dtype=torch.float64) for s in range(2000)]
    found = jacobian.frobenius_asymmetry([jacobian.Products(linear(a)(v), jtv(v)) for v in probes])
    assert found.item() == pytest.approx(((a - a.T).norm() / a.norm()).item(), rel=0.05)


def test_zero_gives_zero_beside_a_sample_that_does_not():
    x, v = noise(2, 1, 8, 8), noise(2, 1, 8, 8, seed=2)
    v[0] = 0
    jv = jacobian.difference_product(at(gaussian()), x, at(gaussian())(x), v, 0.005)
    assert (jv[0] == 0).all() and jv[1].abs().max() > 0
    alone = jacobian.difference_product(at(gaussian()), x[1:], at(gaussian())(x[1:]), v[1:], 0.005)
    assert torch.allclose(jv[1:], alone, atol=1e-5)


def test_the_exact_step_is_the_smallest_that_meets_the_known_values():
    prior, (weights, known) = gaussian(), analytic.half_mask()
    x, y = noise(1, 1, 8, 8), prior.draw(1, 5)
    x0, jtv = jacobian.transposed(at(prior), x)
    e = weights * (y - x0)
    step = jacobian.exact_step(jacobian.known_rows(jtv, weights), weights, e, 1e-6)
    rows = prior.jacobian(SIGMA)[known]
    smallest = torch.linalg.pinv(rows, rtol=1e-6) @ e.flatten()[known].double()
    assert step.norm().item() == pytest.approx(smallest.norm().item(), rel=1e-3)
    assert (weights * (y - at(prior)(x + step))).abs().max() < 1e-3 * e.abs().max()


def test_steps_of_each_direction_shrink_the_residual_and_the_exact_one_ends_it():
    prior, (weights, _) = gaussian(), analytic.half_mask()
    x, y = noise(1, 1, 8, 8), prior.draw(1, 5)
    nu = analytic.exploding(SIGMA).nu

    def transposed(x):
        return jacobian.transposed(at(prior), x)[1]

    def rows_at(x):
        return jacobian.known_rows(transposed(x), weights)

    def residuals(direction, rates, **limits):
        found = follow(direction, at(prior), x, lambda x0: weights * (y - x0), rates, nu, **limits)
        return [(weights * (y - x0)).norm().item() for x0 in found]

    je = residuals(along_je(at(prior), 0.005 * nu), [0.3] * 5)
    jte = residuals(along_jte(transposed), [0.3] * 5)
    assert all(after < before for before, after in pairwise(je))
    assert je == pytest.approx(jte, rel=1e-2)  # J of an ideal denoiser is symmetric
    exact = residuals(along_exact(rows_at, weights, 1e-6), [100.0], longest=1.0)
    assert exact[1] < 1e-3 * exact[0]


def test_no_step_where_nothing_is_wrong():
    prior, x = gaussian(), noise(2, 1, 8, 8)
    found = follow(along_je(at(prior), 0.005), at(prior), x, torch.zeros_like, [0.5], 1.0)
    assert torch.equal(found[0], found[1])


def test_an_activation_changed_in_place_is_differentiated_as_it_was():
    """A layer norm saves its input, and the sum that follows overwrites it."""
    layer = torch.nn.LayerNorm(4).double()

    def block(x):
        h = 2 * x
        h += layer(h)
        return h

    def pure(x):
        return 2 * x + layer(2 * x)

    x, v = noise(1, 1, 2, 4, dtype=torch.float64), noise(1, 1, 2, 4, seed=2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z = x.clone().requires_grad_()
        torch.autograd.grad(block(z), z, v)
    assert torch.allclose(jacobian.transposed(block, x)[1](v), jacobian.transposed(pure, x)[1](v))
