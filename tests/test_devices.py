"""No level waits for the device: whole runs on torch's meta device, on which no value exists to be read or moved."""

import pytest
import torch
import torch.nn.functional as F
from newton_pack.sampler import (
    PRESETS,
    Blur,
    ChannelMix,
    Denoiser,
    EncoderDifference,
    FixedPoint,
    LatentMask,
    LinearMeasurement,
    PixelConstraint,
    PixelMask,
    Plan,
    Recorder,
    Resample,
    Scales,
    StyleConstraint,
    Term,
    WeightedSum,
    gaussian_kernel,
    grey,
    least_squares,
    levels_of,
    sample_constrained,
)

SIDE, RATIO, LEVELS = 8, 4, [10.0, 5.0, 2.0, 1.0, 0.0]
META = torch.device("meta")
OPERATORS = {
    "shrinking": lambda: Resample.by_factor((SIDE, SIDE), RATIO, smooth=True),
    "blur": lambda: Blur.of(gaussian_kernel(1.0)),
    "grey": grey,
    "mix": lambda: ChannelMix.of(torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])),
    "pixel mask": lambda: PixelMask.of((torch.arange(SIDE * RATIO) % 2).float().expand(SIDE * RATIO, -1)),
}


def scales(sigma):
    return Scales(1.0, sigma)


def decode(z):
    return F.interpolate(z[:, :3], scale_factor=RATIO).sigmoid()


def encode(picture):
    return F.avg_pool2d(torch.cat([picture, picture[:, :1]], 1), RATIO)


def vjp(estimate, residual, measurement):
    with torch.enable_grad():
        z = estimate.x0.clone().requires_grad_()
        picture = decode(z)
        return torch.autograd.grad(picture, z, measurement.A_adjoint(residual(picture.detach())))[0]


MADE = {name: make() for name, make in OPERATORS.items()}
Y = {name: operator.A(torch.full((1, 3, SIDE * RATIO, SIDE * RATIO), 0.5)) for name, operator in MADE.items()}


def measured(name):
    return LinearMeasurement(MADE[name], Y[name]).to(META)


def split(measurement):
    return PixelConstraint(measurement, decode, least_squares, 0.01, EncoderDifference(encode, 0.005))


def mask():
    return LatentMask(torch.zeros(1, 4, SIDE, SIDE, device=META), torch.full((1, 1, SIDE, SIDE), 0.5, device=META))


def style():
    def features(picture):
        return F.avg_pool2d(picture, 4).flatten(2).mT

    return StyleConstraint(features, torch.ones(1, 3, 3, device=META), decode)


CONSTRAINTS = {
    "mask": mask,
    "style": style,
    "fixed point": lambda: PixelConstraint(FixedPoint(lambda p: (4 * p).round() / 4), decode, vjp),
    "gradient": lambda: PixelConstraint(measured("shrinking"), decode, vjp),
    "sum": lambda: WeightedSum((Term(mask()), Term(split(measured("grey")), sigma_end=2.0))),
} | {f"least squares, {name}": lambda name=name: split(measured(name)) for name in OPERATORS}


def run(constraint, settings, delta=0.005):
    x = torch.empty(2, 4, SIDE, SIDE, device=META)
    denoise = Denoiser(lambda x, sigma: 0.5 * x, scales)
    plan = Plan(constraint, settings, levels_of(LEVELS, scales))
    recorder = Recorder(plan, x)
    out = sample_constrained(denoise, x, LEVELS, constraint, settings, delta, callback=recorder.level, plan=plan)
    assert out.device == META and denoise.calls == plan.total
    return recorder


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_no_level_waits_for_the_device(name, preset):
    recorder = run(CONSTRAINTS[name](), PRESETS[preset])
    with pytest.raises(Exception, match="meta"):  # what waiting would look like
        recorder.residuals[0].sum().item()


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_on_a_device_is_the_same_in_single_precision(name):
    """And its tensors are moved once: applying it moves none."""
    given, moved = OPERATORS[name](), OPERATORS[name]().to(torch.device("cpu"))
    picture = torch.rand(1, 3, SIDE * RATIO, SIDE * RATIO, generator=torch.Generator().manual_seed(0))
    y = given.A(picture)
    pairs = [(given.A, moved.A, picture), (given.A_adjoint, moved.A_adjoint, y), (given.A_dagger, moved.A_dagger, y)]
    for one, other, value in pairs:
        torch.testing.assert_close(one(value), other(value), rtol=1e-5, atol=1e-5)
    tensors = [t for t in vars(moved).values() if isinstance(t, torch.Tensor)]
    assert tensors and all(t.dtype == torch.float32 for t in tensors)
