"""Laws of layer inference, against two Gaussian layers whose statistics are known exactly.

`python dev.py test tests/test_layers.py -s` shows the figures behind the bounds.
"""

import math
from dataclasses import replace

import analytic
import pytest
import torch
import torch.nn.functional as F
from newton_pack.sampler import (
    LayerSettings,
    NewtonSettings,
    exact_layers,
    guided_filter,
    harden_mask,
    infer_mask,
    recompose,
    sample_layers,
)
from newton_pack.sampler.layers import log_likelihood_ratio, random_uniform

CHANNELS, COUNT = 4, 16
LEVELS = [4.0, 3.0, 2.0, 1.5, 1.0, 0.7]
DEFAULT = LayerSettings()


class Toy:
    """Smooth layer 1 and rough layer 2, four channels of 8 x 8 cells, composed with halves and boxes."""

    def __init__(self, offset: float):
        mean = offset * torch.tensor([0.5, -0.5, 0.5, -0.5])
        covariances = [torch.block_diag(*[analytic.smooth_covariance(length)] * CHANNELS) for length in (3.0, 0.7)]
        self.priors = [
            analytic.Gaussian(sign * mean.repeat_interleave(64), cov)
            for sign, cov in zip((1, -1), covariances, strict=True)
        ]
        self.layers = [self.draw(p, seed) for seed, p in enumerate(self.priors)]
        self.truth = torch.zeros(COUNT, 1, 8, 8)
        self.truth[::2, :, 2:6, 2:6] = 1
        self.truth[1::2, :, :, :4] = 1
        self.image = recompose(*self.layers, self.truth)
        # The best that single cells can say, with the true means and variances.
        self.cellwise = torch.sigmoid(2 * (self.image * mean.view(1, -1, 1, 1)).sum(1, keepdim=True))

    def draw(self, prior, seed):
        noise = torch.randn(COUNT, len(prior.cov), generator=torch.Generator().manual_seed(seed)).double()
        return (prior.mean + noise @ torch.linalg.cholesky(prior.cov).T).float().reshape(COUNT, CHANNELS, 8, 8)

    def denoisers(self):
        return [p.denoiser() for p in self.priors]

    def infer(self, settings=DEFAULT, denoisers=None, count=COUNT, seed=0, **kw):
        return infer_mask(denoisers or self.denoisers(), self.image[:count], LEVELS, settings, 0.005, seed, **kw)

    def accuracy(self, m):
        return ((m > 0.5) == (self.truth > 0.5)).float().mean().item()


@pytest.fixture(scope="module", params=[1.0, 0.0], ids=["means differ", "equal means"])
def toy(request):
    return Toy(request.param)


def test_the_mask_is_recovered(toy):
    ours, cells = toy.accuracy(toy.infer()), toy.accuracy(toy.cellwise)
    print(f"\ncells right: {ours:.3f}, by single cells {cells:.3f}")
    assert ours > 0.84 and ours > cells + 0.05


def test_each_round_adds_evidence_and_newton_steps_help(toy):
    seen = []
    toy.infer(on_round=lambda i, m: seen.append(toy.accuracy(m)))
    without = toy.accuracy(toy.infer(replace(DEFAULT, newton=NewtonSettings(iterations=0))))
    print(f"\ncells right after each round: {seen}, without Newton steps {without:.3f}")
    assert len(seen) == len(LEVELS) and seen[-1] > seen[0] + 0.02
    assert seen[-1] > without


def test_exchanged_denoisers_exchange_the_layers(toy):
    assert toy.accuracy(1 - toy.infer(denoisers=toy.denoisers()[::-1])) > 0.84


def test_hidden_cells_alone_count():
    """What a layer was given says nothing about how well it predicts: the evidence with and without such cells."""
    toy, narrow = Toy(0.0), replace(DEFAULT, holdout=0.25)
    with_, without = (toy.accuracy(toy.infer(replace(narrow, exclude_given=e))) for e in (True, False))
    print(f"\ncells right with the exclusion {with_:.3f}, without {without:.3f}")
    assert with_ > without + 0.02


def test_calls_are_as_announced():
    toy = Toy(1.0)
    denoisers = toy.denoisers()
    m = toy.infer(denoisers=denoisers, count=1)
    layers = sample_layers(denoisers, toy.image[:1], m, [14.6, 2.0, 0.0])
    inferring = DEFAULT.calls(len(LEVELS)) // DEFAULT.samples  # the samples of a call are one batch
    assert sum(d.calls for d in denoisers) == inferring + 2 * 2
    assert layers[0].shape == layers[1].shape == toy.image[:1].shape


def test_the_default_stays_under_200_calls_at_batch_1():
    assert DEFAULT.calls(6) + 2 * 10 < 200


def test_fixed_cells_are_respected_and_a_starting_mask_helps():
    toy = Toy(0.0)
    prior = torch.full_like(toy.truth, 0.5)
    prior[:, :, 0], prior[:, :, -1] = 1, 0
    m = toy.infer(prior=prior)
    assert (m[:, :, 0] == 1).all() and (m[:, :, -1] == 0).all()
    assert toy.accuracy(toy.infer(prior=0.5 + 0.4 * (2 * toy.truth - 1))) > toy.accuracy(toy.infer()) + 0.05


def test_batch_of_two_begins_with_the_batch_of_one():
    toy = Toy(1.0)
    assert torch.allclose(toy.infer(count=2)[:1], toy.infer(count=1), atol=1e-3)


def test_same_seed_same_mask_and_the_global_generator_untouched():
    toy, before = Toy(1.0), torch.get_rng_state()
    first = toy.infer(count=1)
    assert torch.equal(first, toy.infer(count=1)) and not torch.equal(first, toy.infer(count=1, seed=1))
    assert torch.equal(before, torch.get_rng_state())


def test_painted_layers_keep_what_is_theirs():
    toy = Toy(1.0)
    painted = sample_layers(toy.denoisers(), toy.image, toy.truth, analytic.released_levels())
    for layer, whole, own in zip(painted, toy.layers, (toy.truth, 1 - toy.truth), strict=True):
        off = (own * (layer - whole)).square().sum() / own.sum() / CHANNELS
        assert off.sqrt() < 0.35 and layer.std() > 0.6


@pytest.mark.parametrize("grain", [0.5, 1.5, 3.0])
def test_random_masks_are_uniform_up_to_the_edges(grain):
    u = random_uniform((8, 12), [torch.Generator().manual_seed(i) for i in range(4000)], grain)
    assert u.shape == (4000, 1, 8, 12)
    assert (u.mean(0) - 0.5).abs().max() < 0.03 and (u.var(0) - 1 / 12).abs().max() < 0.01


def test_exact_layers_give_the_image_with_the_smallest_change():
    generator = torch.Generator().manual_seed(0)
    image, first, second = torch.rand(3, 2, 3, 32, 32, generator=generator)
    image[..., :8], image[..., 8:16] = 1, 0  # where only the limits of black and white allow a solution
    m = torch.rand(2, 1, 32, 32, generator=generator).double()
    m[:, :, :4], m[:, :, 4:8], m[:, :, 8:12] = 0, 1, 0.5
    image, first, second = image.double(), first.double(), second.double()
    one, two = exact_layers(image, first, second, m)
    assert ((one >= 0) & (one <= 1) & (two >= 0) & (two <= 1)).all()
    assert torch.allclose(recompose(one, two, m), image, atol=1e-9)
    # The smallest change is along (m, 1 - m), wherever that leads to a picture.
    step = (image - recompose(first, second, m)) / (m**2 + (1 - m) ** 2)
    nearest = first + m * step, second + (1 - m) * step
    allowed = (nearest[0] >= 0) & (nearest[0] <= 1) & (nearest[1] >= 0) & (nearest[1] <= 1)
    assert allowed.float().mean() > 0.3
    assert all(torch.allclose(a[allowed], b[allowed], atol=1e-9) for a, b in zip((one, two), nearest, strict=True))
    # A hidden pixel of a layer is its own affair.
    assert torch.equal(one[:, :, :4], first[:, :, :4]) and torch.equal(two[:, :, 4:8], second[:, :, 4:8])


def test_of_two_layers_equally_far_off_the_unsure_one_explains_more():
    """Means 0 where the image is 1: to a layer of deviation 1 that is likely, to one of .1 it is not."""
    image, both = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    sure, unsure = (torch.zeros_like(image), torch.full_like(image, 0.01)), (torch.zeros_like(image), image)
    m = torch.full_like(image, 1e-3)
    far = 10 * image
    assert (log_likelihood_ratio(far, [sure, unsure], both, m) != 0).all()
    swapped = log_likelihood_ratio(far, [unsure, sure], both, 1 - m)
    torch.testing.assert_close(log_likelihood_ratio(far, [sure, unsure], both, m), -swapped)
    floor = 10.0**2 + 1  # how far the second layer is off where it is taken to be alone
    expected = -(100 / (0.01 + floor) + math.log(0.01 + floor) - 100 / (1 + floor) - math.log(1 + floor)) / 2
    assert log_likelihood_ratio(far, [sure, unsure], both, m).mean().item() == pytest.approx(expected, rel=0.05)


def test_a_layer_nearly_out_of_sight_is_left_alone_by_a_decisive_mask():
    """White seen through a mask of .9 would have to be white in both layers."""
    image, first, second = torch.ones(1, 3, 8, 8), torch.ones(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.3)
    m = torch.full((1, 1, 8, 8), 0.9)
    assert torch.allclose(exact_layers(image, first, second, m)[1], image)
    assert torch.equal(exact_layers(image, first, second, harden_mask(m, 0.2))[1], second)
    steps = torch.linspace(0, 1, 101)
    sharper = harden_mask(steps, 0.2)
    assert sharper[0] == 0 and sharper[-1] == 1 and sharper[50] == 0.5 and (sharper.diff() >= 0).all()
    assert torch.allclose(harden_mask(1 - steps, 0.2), 1 - sharper, atol=1e-6)


def test_a_mask_of_cells_follows_the_edges_of_the_picture():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    truth = ((x - 27) ** 2 + (y - 36) ** 2 < 18**2).float()[None, None]
    colours = torch.tensor([0.9, 0.2, 0.4]).view(1, 3, 1, 1), torch.tensor([0.3, 0.5, 0.4]).view(1, 3, 1, 1)
    picture = truth * colours[0] + (1 - truth) * colours[1]
    cells = F.interpolate(F.avg_pool2d(truth, 8), scale_factor=8, mode="bilinear")
    wrong = ((cells > 0.5) != (truth > 0.5)).float().mean()
    found = guided_filter(cells, picture, 12)
    assert wrong > 0.01 and ((found > 0.5) == (truth > 0.5)).all()
    # Where the picture says nothing, the mask is what it was, smoothed; and what is affine in the colours is kept.
    mean = lambda t: F.avg_pool2d(t, 25, 1, 12, count_include_pad=False)  # noqa: E731
    torch.testing.assert_close(
        guided_filter(cells, torch.full_like(picture, 0.5), 12), mean(mean(cells))
    )  # whole windows
    many = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    affine = (many * torch.tensor([0.3, -0.2, 0.5]).view(1, 3, 1, 1)).sum(1, keepdim=True) + 0.1
    torch.testing.assert_close(guided_filter(affine, many, 12), affine, atol=2e-3, rtol=0)
