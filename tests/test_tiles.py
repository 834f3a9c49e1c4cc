"""Laws of tiles: they leave no trace of a local map, and no seams of one that reaches further."""

import pytest
import torch
from newton_pack.sampler import tiled
from newton_pack.sampler.tiles import windows
from test_operators import noise


@pytest.mark.parametrize("size", [(40, 56), (16, 64), (33, 47), (8, 8)], ids=str)
@pytest.mark.parametrize(("tile", "overlap"), [(16, 4), (16, 0), (13, 6)])
def test_tiles_of_a_local_map_leave_no_trace(size, tile, overlap):
    """Each cell by itself: the blend's weights sum to 1, at the edges too, in both directions of scale."""
    x = noise(2, 3, *size)
    up = lambda t: t.repeat_interleave(8, -1).repeat_interleave(8, -2)  # noqa: E731
    assert torch.allclose(tiled(up, x, tile, overlap, 1, 8), up(x), atol=1e-6)
    down = lambda t: torch.nn.functional.avg_pool2d(t, 8)  # noqa: E731
    assert torch.allclose(tiled(down, up(x), tile, overlap, 8, 1), x, atol=1e-6)


@pytest.mark.parametrize(("tile", "overlap"), [(8, 0), (8, 2), (8, 4), (8, 7), (2, 1)])
def test_windows_of_any_length_cover_all_of_it_once(tile, overlap):
    """Sides as long as the overlap, or shorter, too."""
    for length in range(1, 40):
        total = torch.zeros(length)
        for start, end, weights in windows(length, tile, overlap, 1):
            assert 0 <= start < end <= length and end - start == min(tile, length)
            total[start:end] += weights
        assert torch.allclose(total, torch.ones(length))


def test_tiles_are_no_larger_than_asked_and_a_gradient_passes():
    sizes = []

    def watched(t):
        sizes.append(max(t.shape[-2:]))
        return t.sin()

    x = noise(1, 1, 50, 70).requires_grad_()
    out = tiled(watched, x, 16, 4, 1, 1)
    assert max(sizes) == 16
    g = noise(*out.shape, seed=5)
    assert torch.allclose(torch.autograd.grad(out, x, g)[0], x.cos() * g, atol=1e-6)


def test_blurred_tiles_have_no_seams():
    """A filter that reaches 3 cells, over tiles that overlap by 8: no jump at a border beyond the picture's own."""
    kernel = torch.ones(1, 1, 7, 7, dtype=torch.float64) / 49
    blur = lambda t: torch.nn.functional.conv2d(torch.nn.functional.pad(t, (3, 3, 3, 3), "reflect"), kernel)  # noqa: E731
    x = noise(1, 1, 96, 96)
    seam = (tiled(blur, x, 32, 8, 1, 1) - blur(x)).abs().max()
    hard = (tiled(blur, x, 32, 0, 1, 1) - blur(x)).abs().max()
    assert seam < 0.35 * hard


def test_weights_rise_over_the_overlap_and_no_further():
    """Two tiles of 8 cells over 10 overlap by more than the 2 asked for: between their slopes both count alike."""
    from newton_pack.sampler.tiles import windows

    first, second = (weights for _, _, weights in windows(10, 8, 2, 1))
    assert torch.allclose(first[4:6], torch.full((2,), 0.5)) and torch.allclose(second[2:4], torch.full((2,), 0.5))
    assert (first.diff() <= 1e-6).all() and (second.diff() >= -1e-6).all()
