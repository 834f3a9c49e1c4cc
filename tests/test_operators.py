"""Laws of the measurement operators, each over all of them."""

import math

import pytest
import torch
import torch.nn.functional as F
from newton_pack.sampler.operators.blur import Blur, gaussian_kernel, motion_kernel
from newton_pack.sampler.operators.colour import ChannelMix, grey
from newton_pack.sampler.operators.pixel_mask import PixelMask
from newton_pack.sampler.operators.resample import Resample
from PIL import Image


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def picture(H, W, seed):
    """Random 8-bit RGB with the spectrum of photographs (amplitude falls as 1 / frequency) and a hard edge."""
    f = torch.hypot(torch.fft.fftfreq(H)[:, None], torch.fft.rfftfreq(W)[None]).clamp(min=1 / max(H, W))
    x = torch.fft.irfft2(torch.fft.rfft2(noise(3, H, W, seed=seed)) / f, s=(H, W))
    x = 128 + 50 * x / x.std()
    x[:, : H // 3, : W // 2] += 60
    return x.clamp(0, 255).round().byte()


def any_kernel():
    return noise(5, 3, seed=4).abs() * torch.tensor([1.0, 1.0, -0.2])


def low(H, W, by):
    return math.ceil(H / by), math.ceil(W / by)


MIX = torch.tensor([[0.5, 0.5, 0.0], [0.0, -1.0, 1.0]])
RANK_ONE = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])
OPERATORS = {
    "area": lambda H, W: Resample.between(low(H, W, 4), (H, W), "area"),
    "smooth area": lambda H, W: Resample.between(low(H, W, 4), (H, W), "area", smooth=True),
    "smooth area of one axis": lambda H, W: Resample.between((H, W - 1), (H, W), "area", smooth=True),
    "bicubic": lambda H, W: Resample.between(low(H, W, 3), (H, W), "bicubic"),
    "lanczos": lambda H, W: Resample.between(low(H, W, 2.5), (H, W), "lanczos"),
    "lanczos of one axis": lambda H, W: Resample.between((H, W - 1), (H, W), "lanczos"),
    "gaussian": lambda H, W: Blur.of(gaussian_kernel(1.2)),
    "motion": lambda H, W: Blur.of(motion_kernel(7, 30), cutoff=0.05),
    "any kernel": lambda H, W: Blur.of(any_kernel(), cutoff=0.1),
    "identity kernel": lambda H, W: Blur.of(torch.ones(1, 1)),
    "grey": lambda H, W: grey(),
    "channel mix": lambda H, W: ChannelMix.of(MIX),
    "channel mix of rank one": lambda H, W: ChannelMix.of(RANK_ONE),
    "pixel mask": lambda H, W: PixelMask.of(noise(H, W, seed=3) > 0.8),
}
SHAPES = [(1, 3, 16, 16), (3, 3, 17, 26), (2, 3, 4, 31, 14)]
every_operator = pytest.mark.parametrize("name", OPERATORS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def make(name, shape=SHAPES[1]):
    return OPERATORS[name](*shape[-2:])


def inner(a, b):
    return (a * b).sum().item()


@every_operator
@every_shape
def test_adjoint(name, shape):
    operator, x = make(name, shape), noise(*shape, seed=1)
    Ax = operator.A(x)
    y = noise(*Ax.shape, seed=2)
    assert operator.A_adjoint(y).shape == x.shape
    assert inner(Ax, y) == pytest.approx(inner(x, operator.A_adjoint(y)), rel=1e-10, abs=1e-10)


@every_operator
@every_shape
def test_the_pseudo_inverse_measures_the_same(name, shape):
    """A A+ A = A; up to the cut-off of a blur, for white noise."""
    operator, x = make(name, shape), noise(*shape, seed=1)
    Ax = operator.A(x)
    assert operator.A_dagger(Ax).shape == x.shape
    deviation = (operator.A(operator.A_dagger(Ax)) - Ax).norm() / x.norm()
    assert deviation <= getattr(operator, "cutoff", 0) + 1e-12


@every_operator
def test_linear(name):
    operator, x, z = make(name), noise(*SHAPES[1], seed=1), noise(*SHAPES[1], seed=2)
    Ax, Az = operator.A(x), operator.A(z)
    assert torch.allclose(operator.A(2 * x - 3 * z), 2 * Ax - 3 * Az, atol=1e-12)
    for back in (operator.A_adjoint, operator.A_dagger):
        assert torch.allclose(back(2 * Ax - 3 * Az), 2 * back(Ax) - 3 * back(Az), atol=1e-11)


@pytest.mark.parametrize("name", [n for n in OPERATORS if not isinstance(make(n), Blur) and "smooth" not in n])
def test_the_pseudo_inverse_is_moore_and_penrose(name):
    """A+ A is an orthogonal projection, so A+ y is the smallest picture; A+ A A+ = A+ holds for any y."""
    operator, x, z = make(name), noise(*SHAPES[1], seed=1), noise(*SHAPES[1], seed=2)
    Px, Pz = operator.A_dagger(operator.A(x)), operator.A_dagger(operator.A(z))
    assert inner(Px, z) == pytest.approx(inner(x, Pz), rel=1e-10)
    y = noise(*operator.A(x).shape, seed=5)
    assert torch.allclose(operator.A_dagger(operator.A(operator.A_dagger(y))), operator.A_dagger(y), atol=1e-11)


@every_operator
def test_samples_and_frames_are_independent(name):
    """A batch of two is two batches of one, and a video is its frames."""
    operator, x = make(name), noise(2, 3, 4, 17, 26, seed=1)
    y = operator.A(x)
    for apply, given in ((operator.A, x), (operator.A_dagger, y), (operator.A_adjoint, y)):
        together = apply(given)
        for b in range(2):
            assert torch.allclose(together[b : b + 1], apply(given[b : b + 1]), atol=1e-13)
            assert torch.allclose(together[b : b + 1, :, 3], apply(given[b : b + 1, :, 3]), atol=1e-13)


@every_operator
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 5e-2)],
    ids=str,
)
def test_dtype_is_kept(name, dtype, tolerance):
    """Half precision costs its own rounding, no more: a picture and its measurement are of order one."""
    operator, x = make(name), (0.5 + 0.1 * noise(*SHAPES[1], seed=1)).to(dtype)
    y = operator.A(x)
    for apply, given in ((operator.A, x), (operator.A_adjoint, y), (operator.A_dagger, y)):
        got, exact = apply(given), apply(given.double())
        assert got.dtype == dtype
        assert (got.double() - exact).abs().max() <= tolerance * exact.abs().max().clamp(min=1)


@every_operator
def test_integers_and_missing_dimensions_are_refused(name):
    operator = make(name)
    with pytest.raises(ValueError, match="divide 8-bit levels by 255"):
        operator.A(torch.zeros(1, 3, 17, 26, dtype=torch.uint8))
    with pytest.raises(ValueError, match="batch, channels, height, width"):
        operator.A(torch.zeros(3, 17, 26))


@pytest.mark.parametrize("name", [n for n in OPERATORS if "mask" not in n and "mix" not in n])
def test_a_flat_picture_keeps_its_level(name):
    operator, flat = make(name), torch.full(SHAPES[1], 0.7, dtype=torch.float64)
    y = operator.A(flat)
    assert torch.allclose(y, torch.full_like(y, 0.7), atol=1e-12)


# Blur


@pytest.mark.parametrize(
    "kernel", [gaussian_kernel(1.2), motion_kernel(7, 30), any_kernel()], ids=lambda k: str(k.shape)
)
def test_blur_is_the_valid_convolution(kernel):
    x = noise(1, 1, 20, 33)
    direct = F.conv2d(x, (kernel / kernel.sum()).flip(0, 1)[None, None])
    assert torch.allclose(Blur.of(kernel).A(x), direct, atol=1e-12)
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 1
    n, m = kernel.shape
    seen = Blur.of(kernel).A(point.double())[0, 0]
    centre = seen.shape[0] // 2, seen.shape[1] // 2
    assert torch.allclose(
        seen[centre[0] - n // 2 :, centre[1] - m // 2 :][:n, :m], kernel.double() / kernel.sum(), atol=1e-12
    )


def test_motion_kernel_is_a_line():
    assert torch.allclose(motion_kernel(31, 0), motion_kernel(31, 180), atol=1e-12)
    assert motion_kernel(31, 0).shape == (1, 31) and motion_kernel(31, 90).shape == (31, 1)
    rising = motion_kernel(9, 45)  # anticlockwise: from the lower left to the upper right
    assert rising[0, -1] > 0 and rising[-1, 0] > 0 and rising[0, 0] == rising[-1, -1] == 0
    for kernel in (rising, gaussian_kernel(0.4), motion_kernel(1.5, 20)):
        assert kernel.sum().item() == pytest.approx(1)
        assert torch.allclose(kernel, kernel.flip(0, 1), atol=1e-12)


@pytest.mark.parametrize("kernel", [gaussian_kernel(2), motion_kernel(15, 30)], ids=["gaussian", "motion"])
def test_opposite_edges_do_not_ring(kernel):
    """A picture dark on the left and bright on the right: a plain circular inverse is wrong by .13 and .29."""
    ramp = torch.linspace(0, 1, 96, dtype=torch.float64).expand(1, 3, 64, 96)
    blur = Blur.of(kernel)
    restored = blur.A_dagger(blur.A(ramp))
    p, q = blur.frame
    error = (restored - ramp)[..., 2 * p : -2 * p, 2 * q : -2 * q].abs()
    assert error.mean() < 0.04 and error.max() < 0.1


def test_noise_grows_by_the_cutoff_at_most():
    y = noise(1, 1, 200, 180)
    for cutoff in (0.02, 0.1, 0.5):
        gain = Blur.of(gaussian_kernel(1.5), cutoff).A_dagger(y).norm() / y.norm()
        assert gain <= 1.1 / cutoff  # the filled frame adds a little


# Colour


def test_grey_is_pillows():
    x = picture(40, 50, 1)
    theirs = Image.fromarray(x.permute(1, 2, 0).numpy()).convert("L")
    theirs = torch.tensor(list(theirs.tobytes())).reshape(40, 50)
    assert (grey().A(x.double()[None])[0, 0].round() - theirs).abs().max() <= 1


# Mistakes

IMAGE = torch.zeros(1, 3, 17, 26)
MISTAKES = {
    "factor 1": (lambda: Resample.by_factor((8, 8), 1), "factor: 1 .* at least 2"),
    "factor 0": (lambda: Resample.by_factor((8, 8), 0), "factor: 0 .* at least 2"),
    "factor -4": (lambda: Resample.by_factor((8, 8), -4), "factor: -4 .* at least 2"),
    "factor 2.5": (lambda: Resample.by_factor((8, 8), 2.5), "factor: 2.5 .* target size"),
    "factor inf": (lambda: Resample.by_factor((8, 8), math.inf), "factor: inf .* target size"),
    "same size": (lambda: Resample.between((8, 8), (8, 8)), "low-resolution image: .* already the target size"),
    "too high": (
        lambda: Resample.between((9, 8), (8, 16)),
        "low-resolution image: .* 9×8 .* larger than the target 8×16",
    ),
    "too wide": (lambda: Resample.between((8, 17), (16, 16)), "low-resolution image: .* larger target"),
    "empty": (lambda: Resample.between((0, 8), (16, 16)), "low-resolution image: .* empty"),
    "method": (lambda: Resample.by_factor((8, 8), 2, "nearest"), "method: 'nearest' .* area, bicubic, lanczos"),
    "other size": (lambda: Resample.by_factor((8, 8), 2).A(IMAGE), "image: its size 17×26 .* 16×16"),
    "even kernel": (lambda: Blur.of(torch.ones(3, 4)), "kernel: its size 3×4 .* odd"),
    "RGB kernel": (lambda: Blur.of(torch.ones(3, 3, 3)), "kernel: its size 3×3×3 .* one channel"),
    "zero kernel": (lambda: Blur.of(torch.zeros(3, 3)), "kernel: its values sum to 0.*above 0"),
    "edge kernel": (lambda: Blur.of(torch.tensor([[-1.0, 0.0, 1.0]])), "kernel: its values sum to 0.*above 0"),
    "negative kernel": (lambda: Blur.of(-torch.ones(3, 3)), "kernel: its values sum to -9.*above 0"),
    "NaN kernel": (lambda: Blur.of(torch.full((3, 3), math.nan)), "kernel: .* NaN"),
    "infinite kernel": (lambda: Blur.of(torch.full((3, 3), math.inf)), "kernel: .* infinite"),
    "cutoff 0": (lambda: Blur.of(torch.ones(3, 3), cutoff=0), "cutoff: 0 is not between 0 and 1"),
    "large kernel": (lambda: Blur.of(torch.ones(27, 3)).A(IMAGE), "image: 17×26 .* smaller kernel"),
    "sigma 0": (lambda: gaussian_kernel(0), "sigma: 0 .* above 0"),
    "no motion": (lambda: motion_kernel(1, 0), "length 1, .* above 1 pixel"),
    "RGBA": (lambda: grey().A(torch.zeros(1, 4, 8, 8)), "image: it has 4 channels where 3 .* alpha"),
    "no mix": (lambda: ChannelMix.of(torch.zeros(1, 3)), "matrix: .* not all zero"),
    "soft mask": (lambda: PixelMask.of(torch.full((8, 8), 0.5)), "known: .* threshold"),
    "other mask": (lambda: PixelMask.of(torch.ones(8, 8)).A(IMAGE), r"known: a mask of shape \(8, 8\) does not fit"),
    "other batch": (lambda: PixelMask.of(torch.ones(2, 1, 17, 26)).A(IMAGE), "known: .* as many as there are pictures"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_with_their_remedy(mistake):
    make_it, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        make_it()
