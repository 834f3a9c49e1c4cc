"""Laws of the super-resolution benchmark, on a Gaussian prior whose pictures are their own latents."""

import sys
from pathlib import Path

import analytic
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import metrics
import superres_methods
from superres_methods import DecoderGradient, sampler

PRIOR = analytic.Gaussian(torch.full((64,), 0.3), analytic.smooth_covariance())
OPERATOR = sampler.Resample.by_factor((4, 4), 2, "area")
ENTRIES = {e.label: e for e in superres_methods.entries()}


def identity(x):
    return x


def run_method(entry, count=8):
    y, denoise = OPERATOR.A(PRIOR.draw(1, 12)), PRIOR.denoiser()
    forward = sampler.PixelConstraint(OPERATOR, y, identity, identity, 0.005)
    constraint = DecoderGradient(OPERATOR, y, identity) if entry.backward_per_level else forward
    x = analytic.start_noise(count, 5, analytic.LEVELS[0])
    out = entry.run(denoise, x, analytic.LEVELS, constraint, 3)
    return (y - OPERATOR.A(out)).square().mean().sqrt(), denoise.calls


@pytest.mark.parametrize("label", [n for n, e in ENTRIES.items() if e.run not in (None, superres_methods.free)])
def test_every_method_satisfies_the_measurement_at_its_cost(label):
    free, _ = run_method(ENTRIES["img2img"])
    residual, calls = run_method(ENTRIES[label])
    # Steps of a fixed .5 leave the largest residual.
    assert residual < (0.3 if label == "published/vae" else 0.2) * free
    assert calls == (420 if label.startswith("published") else 40)


def test_the_gradient_is_the_numerical_one():
    y, x0 = OPERATOR.A(PRIOR.draw(2, 1)), PRIOR.draw(2, 2)
    e = DecoderGradient(OPERATOR, y, torch.sin).error(x0, 1.0)
    moved, step = torch.zeros_like(x0), 1e-3
    moved[:, 0, 3, 4] = step

    def energy(x):
        return (y - OPERATOR.A(torch.sin(x))).double().flatten(1).norm(dim=1)

    slope = (energy(x0 + moved) - energy(x0 - moved)) / (2 * step)
    assert torch.allclose(-e[:, 0, 3, 4].double(), slope, rtol=1e-2, atol=1e-4)


def test_feature_measures_stay_within_their_group_and_picture():
    index = [(g, i, s) for g in (4, 8) for i in range(3) for s in range(2)]
    truths = np.random.default_rng(0).normal(size=(3, 5))
    features = np.stack([truths[i] + (g == 8) * (1 + s) for g, i, s in index])
    rows = metrics.feature_measures(features, truths, index, 2)
    assert [r["diversity"] for r in rows[:6]] == [0] * 6 and all(r["diversity"] > 0 for r in rows[6:])
    assert all(r["hidden_feature_distance"] == 0 for r in rows[:6])
    assert rows[6]["hidden_feature_distance"] == pytest.approx(5**0.5)
    assert rows[0]["distribution_distance"] < rows[6]["distribution_distance"]
