"""Known cells and the fill of unknown pixels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from newton_pack.sampler import frame_weights, interpolated_weights, known_weights


@settings(max_examples=50)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 9), st.floats(0, 1), st.integers(0, 2**31))
def test_known_cells_and_shares(h, w, ratio, density, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(2, h * ratio, w * ratio, generator=generator) < density).float()
    weights, shares = known_weights(mask, h, w), known_weights(mask, h, w, partial=True)
    for b in range(2):
        for i in range(h):
            for j in range(w):
                cell = mask[b, i * ratio : (i + 1) * ratio, j * ratio : (j + 1) * ratio]
                assert weights[b, 0, i, j] == float(not cell.any())
                assert shares[b, 0, i, j] == pytest.approx(1 - cell.mean().item(), abs=1e-6)


def test_soft_masks_stay_soft():
    mask = torch.zeros(16, 16)
    mask[:8, :8], mask[8:, 8:] = 0.3, 0.75
    assert torch.allclose(known_weights(mask, 2, 2)[0, 0], torch.tensor([[0.7, 1.0], [1.0, 0.25]]))


def test_an_interpolated_mask_is_soft_where_it_is_level_and_free_at_hard_edges():
    mask = torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0, 0.4, 0.4, 0.4, 0.2, 0.2, 0.2, 0.0])
    expected = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.6, 0.6, 0.6, 0.8, 0.8, 1.0])
    for rows in (mask.expand(1, 4, 5, 12), mask.expand(2, 1, 3, 5, 12)):  # pictures, video
        assert torch.allclose(interpolated_weights(rows), expected.expand_as(rows))


@pytest.mark.parametrize("erode", [0, 1, 2])
def test_erosion_shrinks_the_known_region(erode):
    mask = torch.zeros(1, 80, 80)
    mask[:, 32:48, 32:48] = 1
    weights = known_weights(mask, 10, 10, erode)[0, 0]
    assert (weights == 0).sum() == (2 + 2 * erode) ** 2


def test_a_video_cell_counts_by_the_least_known_of_its_pictures():
    """Nine pictures of a VAE that packs four into a latent frame, the first alone."""
    weights = torch.ones(9, 1, 1, 2)
    weights[0, ..., 0], weights[3, ..., 1], weights[8, ..., 0] = 0.5, 0.25, 0
    expected = torch.tensor([[0.5, 1.0], [1.0, 0.25], [0.0, 1.0]])
    assert torch.equal(frame_weights(weights, 3, 4)[0, 0, :, 0], expected)
    assert torch.equal(frame_weights(weights[:1], 3, 4)[0, 0, :, 0], expected[:1].expand(3, -1))


def test_sizes_that_are_no_multiple():
    mask = torch.zeros(13, 21)
    mask[12, 20] = 1
    weights = known_weights(mask, 2, 3)[0, 0]
    assert weights[1, 2] == 0 and weights.sum() == 5


def test_extend_fill_takes_the_nearest_known_pixel(host):
    fill = host.module("nodes.fill")
    image = torch.rand(2, 6, 6, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 6, 6)
    mask[0, :, 3:] = 1
    mask[1] = 1
    out = fill.extend_fill(image, mask)
    assert torch.equal(out[0, :, :3], image[0, :, :3])
    assert torch.equal(out[0, :, 3:], image[0, :, 2:3].expand(-1, 3, -1))
    assert (out[1] == 0.5).all()
    assert torch.equal(fill.grey_fill(image, mask.ceil())[0, :, 3:], torch.full((6, 3, 3), 0.5))
