"""Composite Inside Mask: known pixels are the original's own; the fade; colours."""

import pytest
import torch
from graphs import give
from host import GraphError, node
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

H, W = 9, 13
VALUES = st.sampled_from([0.0, 0.0, 0.25, 0.7, 1.0, 1.0])
MASKS = arrays("float32", (2, H, W), elements=VALUES).map(torch.from_numpy)


@pytest.fixture(scope="module")
def module(host):
    return host.module("nodes.composite")


def pictures(seed=0, shape=(2, H, W, 3)):
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed)).unbind()


def straight(mask, feather):
    """The definition, pixel by pixel."""
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    squares = (y[..., None, None] - y) ** 2 + (x[..., None, None] - x) ** 2
    return (mask[:, None, None] + squares / feather**2).amin((-1, -2))


@settings(max_examples=30)
@given(mask=MASKS, feather=st.integers(0, 30))
def test_the_fade_is_its_definition(module, mask, feather):
    expected = straight(mask, feather) if feather else mask
    assert torch.allclose(module.fade(mask, feather), expected, atol=1e-6)


@settings(max_examples=30)
@given(mask=MASKS, more=MASKS, feather=st.integers(0, 9))
def test_the_fade_is_monotone_in_the_mask_and_stays_inside(module, mask, more, feather):
    weight = module.fade(mask, feather)
    assert (weight <= module.fade(torch.maximum(mask, more), feather)).all()
    assert (weight <= mask).all() and (weight >= 0).all()


@settings(max_examples=30)
@given(mask=MASKS, feather=st.integers(0, 9), match=st.booleans())
def test_known_pixels_are_the_original_bit_by_bit(module, mask, feather, match):
    image, original = pictures()
    out = module.composite(image, original, mask, feather, match)
    assert torch.equal(out[mask == 0], original[mask == 0])
    assert out.min() >= 0 and out.max() <= 1


def test_deep_inside_stands_the_result_bit_by_bit(module):
    image, original = pictures()
    mask = torch.ones(2, H, W)
    mask[..., :4] = 0
    out = module.composite(image, original, mask, 3, False)
    assert torch.equal(out[..., 6:, :], image[..., 6:, :])
    assert torch.equal(module.composite(image, original, torch.ones(2, H, W), 3, False), image)


def test_what_the_mask_covers_of_the_original_is_not_used(module):
    image, original = pictures()
    mask = torch.zeros(2, H, W)
    mask[:, 2:7, 3:9] = 1
    other = original + mask.unsqueeze(-1) * 0.1
    assert torch.equal(
        module.composite(image, original, mask, 4, False), module.composite(image, other, mask, 4, False)
    )


@pytest.mark.parametrize("ramp", [0.0, 0.1])
def test_matched_colours_undo_a_change_of_tone(module, ramp):
    """A shift that is the same everywhere vanishes; of one that grows across the picture most does."""
    original = 0.3 + 0.4 * pictures(1, (1, 64, 64, 3))[0]
    tone = torch.tensor([0.1, -0.05, 0.02]) + ramp * torch.linspace(-1, 1, 64)[:, None, None]
    mask = torch.zeros(1, 64, 64)
    mask[:, 20:44, 20:44] = 1
    hidden = mask.bool()

    def off(match):
        return (module.composite(original + tone, original, mask, 0, match) - original)[hidden].abs().mean().item()

    assert off(False) > 0.04
    assert off(True) < (1e-6 if ramp == 0 else 0.1 * off(False))


def run(host, image, original, mask, feather=4, match_colour=False):
    given = {"image": image, "original": original}
    graph = {name: give(host, "IMAGE", t) for name, t in given.items()} | {"mask": give(host, "MASK", mask)}
    graph["composite"] = node(
        "NewtonCompositeInsideMask", image=["image", 0], original=["original", 0], mask=["mask", 0], feather=feather,
        match_colour=match_colour,
    )  # fmt: skip
    return host.run(graph | {"out": node("TestCapture", value=["composite", 0])})[0]


@pytest.mark.parametrize("shape", [(H, W), (1, H, W), (3, H, W), (1, 1, H, W), (2 * H, 3 * W), (1, H - 1, W - 4)])
@pytest.mark.parametrize("counts", [(1, 1), (3, 3), (3, 1), (1, 3)], ids=str)
def test_masks_of_any_rank_and_size_and_batches(host, shape, counts):
    image, original = (t.repeat(n, 1, 1, 1) for t, n in zip(pictures(shape=(1, H, W, 3)), counts, strict=True))
    image = image + torch.arange(len(image))[:, None, None, None] * 0.01
    mask = torch.zeros(shape)
    mask[..., mask.shape[-1] // 2 :] = 1
    out = run(host, image, original, mask, 2)
    count = max(*counts, mask.reshape(-1, *mask.shape[-2:]).shape[0])
    assert out.shape == (count, H, W, 3)
    for i, picture in enumerate(out):
        assert torch.equal(picture[:, : W // 2 - 1], original[i % len(original), :, : W // 2 - 1])
        assert torch.equal(picture[:, -2:], image[i % len(image), :, -2:])


def test_alpha_is_left_behind_and_an_empty_mask_gives_the_original(host):
    image, original = pictures(shape=(1, H, W, 4))
    assert torch.equal(run(host, image, original, torch.zeros(1, 64, 64)), original[..., :3])


def test_other_sizes_are_refused(host):
    image, original = pictures()
    with pytest.raises(GraphError, match=r"Connect .*\nimage: its size is 13x8, but the original's is 13x9\."):
        run(host, image[:, :-1], original, torch.ones(1, H, W))


def test_a_clip_that_came_back_shorter_is_refused(host):
    """A video VAE drops pictures that fill no latent frame; repeated ones would stand in their place."""
    image, original = pictures(shape=(1, H, W, 3))
    mask = torch.ones(1, H, W)
    with pytest.raises(GraphError, match=r"Give as many .* Cut a clip .*\nimage: 5 pictures for 8 originals"):
        run(host, image.repeat(5, 1, 1, 1), original.repeat(8, 1, 1, 1), mask)
    assert len(run(host, image.repeat(8, 1, 1, 1), original.repeat(4, 1, 1, 1), mask)) == 8
