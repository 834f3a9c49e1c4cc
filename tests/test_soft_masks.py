"""One law for masks of brushes, blurs, files and graphs: a pixel changes by about its mask's share."""

import pytest
import torch
from graphs import SIZE, give, inpaint_graph, picture, sampled
from host import node

IMAGE, HALF = picture()


@pytest.fixture
def fill(host):
    return host.module("nodes.fill").extend_fill


def random_mask(seed):
    return torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def test_filling_goes_no_further_than_the_mask_says(fill):
    mask = random_mask(0)
    full = fill(IMAGE, (mask >= 0.5).float())
    assert ((fill(IMAGE, mask) - IMAGE).abs() <= mask.unsqueeze(-1) * (full - IMAGE).abs() + 1e-6).all()


@pytest.mark.parametrize("m", [0.0, 1 / 255, 0.2, 0.49])
def test_what_is_rather_known_is_left_as_it_is(fill, m):
    assert torch.equal(fill(IMAGE, torch.full((1, SIZE, SIZE), m)), IMAGE)
    assert torch.equal(fill(IMAGE, torch.where(HALF > 0, 1.0, m)), fill(IMAGE, HALF))


def test_filling_is_monotone_and_continuous_in_the_mask_of_a_pixel(fill):
    mask, filled = HALF.clone(), []
    levels = torch.linspace(0, 1, 41)
    for m in levels:
        mask[0, 64, 100] = m
        filled.append(fill(IMAGE, mask)[0, 64, 100])
    steps = torch.stack(filled).diff(dim=0)
    span = (filled[-1] - filled[0]).abs()
    assert torch.equal(filled[0], IMAGE[0, 64, 100]) and torch.equal(filled[-1], fill(IMAGE, HALF)[0, 64, 100])
    assert (steps.abs() <= 0.06 * span + 1e-6).all() and (steps * (filled[-1] - filled[0]) >= 0).all()


def test_a_hard_mask_takes_the_nearest_known_pixel(fill):
    assert torch.equal(fill(IMAGE, HALF)[:, :, 64:], IMAGE[:, :, 63:64].expand(-1, -1, 64, -1))


@pytest.mark.parametrize("x", range(8))
def test_a_thin_line_of_a_larger_mask_is_lost_nowhere(host, x):
    mask = torch.zeros(1, 8 * SIZE, 8 * SIZE)
    mask[..., 512 + x] = 1
    fitted = host.module("nodes.latent_mask").fit_mask(mask, IMAGE)
    assert torch.equal(fitted.amax(1)[0].nonzero().flatten(), torch.tensor([64]))
    assert fitted.max() == 1


def test_a_larger_soft_mask_keeps_its_mean(host):
    mask = torch.rand(1, 4 * SIZE, 4 * SIZE, generator=torch.Generator().manual_seed(0))
    assert host.module("nodes.latent_mask").fit_mask(mask, IMAGE).mean() == pytest.approx(mask.mean().item(), abs=1e-4)


def decoded(host, mask, seed=1):
    """The sampled picture of a mask."""
    graph = inpaint_graph(host)
    graph["mask"] = give(host, "MASK", mask)
    graph["sample"]["inputs"]["seed"] = seed
    latent = sampled(host, graph)
    graph["latent"] = give(host, "LATENT", {"samples": latent})
    return host.run({"ckpt": graph["ckpt"], "latent": graph["latent"],
                     "decode": node("VAEDecode", samples=["latent", 0], vae=["ckpt", 2]),
                     "out": node("TestCapture", value=["decode", 0])})[0]  # fmt: skip


def levels_off(made, kept):
    return 255 * ((made - IMAGE).abs().mean(-1) * kept).sum().item() / kept.sum().item()


def test_a_nearly_black_half_is_kept_as_a_black_one(host):
    """1/255 is as good as 0: what the kept half loses is the autoencoder's round trip."""
    nearly = decoded(host, torch.where(HALF > 0, 1.0, 1 / 255))
    black = decoded(host, HALF)
    off = [levels_off(t, 1 - HALF) for t in (nearly, black)]
    print(f"\nlevels off in the kept half: nearly black {off[0]:.1f}, black {off[1]:.1f}")
    assert off[0] < off[1] + 1.5
