"""The resamplers against Pillow, and the smooth inverse of area averaging."""

import pytest
import torch
import torch.nn.functional as F
from newton_pack.sampler.operators.resample import Resample
from PIL import Image
from test_operators import noise, picture

PILLOW = {"area": Image.Resampling.BOX, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
SIZES = [((16, 24), (32, 48)), ((16, 24), (128, 192)), ((21, 19), (63, 57)), ((40, 33), (97, 64)), ((100, 1), (101, 9))]


def resized(x, small, method):
    """Pillow's own, of an 8-bit (3, H, W)."""
    image = Image.fromarray(x.permute(1, 2, 0).numpy()).resize(small[::-1], PILLOW[method])
    return torch.tensor(list(image.tobytes())).reshape(*small, 3).permute(2, 0, 1)


def levels_apart(ours, theirs):
    return (ours.round().clamp(0, 255) - theirs).abs().max()


@pytest.mark.parametrize("method", PILLOW)
@pytest.mark.parametrize(("small", "large"), SIZES, ids=str)
def test_agrees_with_pillow(method, small, large):
    operator = Resample.between(small, large, method)
    for seed in range(4):
        x = picture(*large, seed)
        # Pillow's floating-point mode neither rounds nor clips: the weights themselves agree.
        exact = Image.fromarray(x[0].float().numpy()).resize(small[::-1], PILLOW[method])
        exact = torch.frombuffer(bytearray(exact.tobytes()), dtype=torch.float32).reshape(small)
        assert torch.allclose(operator.A(x.double()[None])[0, 0], exact.double(), atol=1e-4)
        # Its 8-bit mode rounds and clips between the axes.
        columns = (x.double() @ operator.columns.T).round().clamp(0, 255)
        assert levels_apart(operator.rows @ columns, resized(x, small, method)) <= 1
        # A linear operator cannot clip, so it agrees where no overshoot reaches black or white.
        inside = (64 + 0.5 * x.double()).round().byte()
        assert levels_apart(operator.A(inside.double()[None])[0], resized(inside, small, method)) <= 1


def test_factor_is_a_size():
    x = noise(1, 3, 24, 40)
    by_factor, between = Resample.by_factor((3, 5), 8, "bicubic"), Resample.between((3, 5), (24, 40), "bicubic")
    assert torch.equal(by_factor.A(x), between.A(x))
    assert torch.allclose(Resample.by_factor((3, 5), 8).A(x), F.avg_pool2d(x, 8))


def test_a_smooth_inverse_has_no_blocks():
    """A step of brightness: the pseudo-inverse of area averaging jumps from cell to cell, the smooth inverse rises."""
    y = torch.tensor([0.2, 0.2, 0.2, 0.8, 0.8, 0.8], dtype=torch.float64).expand(1, 1, 6, 6)
    jump = [Resample.by_factor((6, 6), 8, smooth=s).A_dagger(y).diff(dim=-1).abs().max() for s in (False, True)]
    assert jump[0] == pytest.approx(0.6) and jump[1] < 0.2


@pytest.mark.parametrize("method", ["area", "bicubic", "lanczos"])
@pytest.mark.parametrize(("low", "high"), [(16, 128), (5, 7), (64, 65), (9, 40)])
def test_a_smooth_inverse_keeps_constants_and_is_an_inverse(method, low, high):
    """Up to the border, where the pseudo-inverse of bicubic darkens what is bright."""
    operator = Resample.between((low, low), (high, high), method, smooth=True)
    bright, y = torch.full((1, 1, low, low), 0.87, dtype=torch.float64), noise(1, 1, low, low).double()
    assert torch.allclose(operator.A_dagger(bright), torch.full((1, 1, high, high), 0.87, dtype=torch.float64))
    assert torch.allclose(operator.A(operator.A_dagger(y)), y)
