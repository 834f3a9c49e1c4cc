"""Laws of the functions that name a picture."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from newton_pack.nodes.targets import as_picture_map, pixel_art, posterise
from test_host_gpu_only import GPU, TwoDevices

PALETTE = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.2, 0.2], [1.0, 1.0, 1.0]])


def noise(seed, height=24, width=32):
    return torch.rand(2, height, width, 3, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(st.sampled_from([1, 2, 4, 8]), st.integers(2, 256), st.booleans(), st.integers(0, 2**31))
def test_pixel_art_is_left_as_it_is(cell, colours, own, seed):
    made = pixel_art(noise(seed), cell, colours, None if own else PALETTE)
    for picture in made:
        assert len(picture.reshape(-1, 3).unique(dim=0)) <= (colours if own else len(PALETTE))
    assert torch.equal(pixel_art(made, cell, colours, None if own else PALETTE), made)


def test_a_batch_of_pixel_art_is_its_pictures():
    both = noise(3)
    alone = torch.cat([pixel_art(picture[None], 4, 16, None) for picture in both])
    assert torch.equal(pixel_art(both, 4, 16, None), alone)


def test_a_cell_takes_its_commonest_colour_and_not_the_mean():
    picture = torch.ones(1, 8, 8, 3)
    picture[:, :4, :4] = 0.2
    picture[:, 0, :3] = 0.9  # 13 of 16 pixels of the first cell stay dark
    made = pixel_art(picture, 4, 3, torch.tensor([[0.2] * 3, [0.4] * 3, [0.9] * 3, [1.0] * 3]))
    assert made[0, 0, 0].tolist() == pytest.approx([0.2] * 3)
    assert made[0, 4:, 4:].min() == 1


def test_a_plain_picture_stays_plain():
    plain = torch.full((1, 8, 8, 3), 0.5)
    assert pixel_art(plain, 4, 16, None).unique().numel() == 1


@pytest.mark.parametrize("levels", [2, 3, 16])
def test_posterised_pictures_are_left_as_they_are(levels):
    made = posterise(noise(levels), levels)
    assert len(made.unique()) <= levels
    torch.testing.assert_close(posterise(made, levels), made)


def test_a_function_gets_its_image_on_the_cpu_and_the_answer_goes_back():
    """As every other IMAGE."""
    seen = []

    def function(image):
        seen.append(image.device.type)
        return image + torch.ones(3)

    with TwoDevices():
        picture = torch.rand(1, 3, 8, 8).to(GPU)
        out = as_picture_map(function)(picture)
    assert seen == ["cpu"] and out.device.type == "cuda" and out.shape == picture.shape
