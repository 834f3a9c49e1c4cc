"""Laws of the benchmark's measures and masks."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import analytic
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

BENCH = Path(__file__).parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import growth
import large
import live_memory
import masks
import methods
import metrics
import mosaic
import report
import windows
from pack import sampler

RNG = np.random.default_rng(0)
SIZE = 32
TRUTH = RNG.random((SIZE, SIZE, 3))


@pytest.mark.parametrize("name", masks.ALL_MASKS)
def test_a_perfect_picture_scores_as_the_truth(name):
    hidden = masks.bench_mask(name, SIZE, 3)
    pasted = metrics.composite(TRUTH, TRUTH.copy(), hidden)
    assert metrics.seam(pasted, hidden) == metrics.seam(TRUTH, hidden)
    assert metrics.mse(pasted, TRUTH, hidden) == 0
    assert metrics.sharpness(pasted, TRUTH, hidden) == 1


@pytest.mark.parametrize("name", masks.ALL_MASKS)
def test_masks_hide_a_part_and_come_back_the_same(name):
    hidden = masks.bench_mask(name, SIZE, 5)
    assert 0 < hidden.mean() < 1
    assert (hidden == masks.bench_mask(name, SIZE, 5)).all()


def test_outpaint_is_the_complement_of_the_box():
    assert (masks.outpaint(SIZE) ^ masks.box(SIZE)).all()


def test_half_of_the_cells_are_hidden():
    assert masks.cells(SIZE, seed=1).mean() == 0.5


def test_compositing_leaves_known_pixels_alone():
    hidden = masks.half(SIZE)
    pasted = metrics.composite(TRUTH, np.zeros_like(TRUTH), hidden)
    assert (pasted[~hidden] == TRUTH[~hidden]).all() and (pasted[hidden] == 0).all()


def test_a_visible_border_raises_the_seam():
    hidden = masks.box(SIZE)
    flat = np.full_like(TRUTH, 0.5)
    assert metrics.seam(flat, hidden) == 0
    assert metrics.seam(metrics.composite(flat, flat + 0.2, hidden), hidden) == pytest.approx(0.2)


def test_blur_lowers_sharpness():
    blurred = (TRUTH + np.roll(TRUTH, 1, 0) + np.roll(TRUTH, 1, 1)) / 3
    assert metrics.sharpness(blurred, TRUTH, masks.half(SIZE)) < 0.7


def test_energy_distance_tells_distributions_apart():
    a, b, shifted = RNG.normal(size=(200, 8)), RNG.normal(size=(200, 8)), RNG.normal(1, 1, size=(200, 8))
    assert abs(metrics.energy_distance(a, b)) < 0.05
    assert metrics.energy_distance(a, shifted) > 0.5
    assert metrics.energy_distance(a, b) == pytest.approx(metrics.energy_distance(b, a))


def test_energy_score_prefers_the_true_distribution():
    def mean_score(scale: float) -> float:
        draws = RNG.normal(size=(400, 9, 4))
        return np.mean([metrics.energy_score(scale * d[1:], d[0]) for d in draws])

    right = mean_score(1.0)
    assert right < mean_score(0.3)  # collapsed onto the mean
    assert right < mean_score(2.0)  # too diverse


def test_diversity_of_copies_is_zero():
    assert metrics.mean_pairwise(np.ones((5, 3))) == 0


def test_paired_interval_covers_the_difference():
    b = RNG.normal(size=100)
    mean, half = metrics.paired_interval(b + 0.5 + 0.1 * RNG.normal(size=100), b)
    assert abs(mean - 0.5) < half < 0.05


PRIOR = analytic.Gaussian(torch.full((64,), 0.3), analytic.smooth_covariance())
KNOWN_PART, KNOWN = analytic.half_mask()


def run_method(run, count=8, seed=12):
    y, denoise = PRIOR.draw(1, seed), PRIOR.denoiser()
    x = analytic.start_noise(count, 5, analytic.LEVELS[0])
    mask = KNOWN_PART.expand(count, 1, -1, -1)
    return run(denoise, x, analytic.LEVELS, y.expand_as(x), mask, 3), y, denoise.calls


@pytest.mark.parametrize("entry", [e for e in methods.entries() if e.run], ids=lambda e: e.label)
def test_every_method_costs_what_it_says_and_keeps_the_known_part(entry):
    out, y, calls = run_method(entry.run)
    # DING and RePaint spare a call at the last level.
    assert 20 * entry.calls_per_level - 1 <= calls <= 20 * entry.calls_per_level
    assert ((out - y) * KNOWN_PART).square().mean().sqrt() < 0.15


def test_dings_noise_is_the_same_in_both_scales():
    for sigma in (0.05, 1.0, 8.0):
        vp = sampler.Scales((1 + sigma**2) ** -0.5, sigma * (1 + sigma**2) ** -0.5)
        assert methods.ding_noise(sampler.Scales(1.0, sigma)) * vp.alpha == pytest.approx(methods.ding_noise(vp))
    assert methods.ding_noise(sampler.Scales(0.7, 0.3)) == pytest.approx(0.3**2)  # of a flow


def test_fast_comes_nearer_to_the_exact_posterior_than_the_published_loop_at_eta_1():
    mean, cov = PRIOR.posterior(PRIOR.draw(1, 12).flatten(), KNOWN)
    noise = torch.randn(1000, len(mean), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = mean + noise @ torch.linalg.cholesky(cov + 1e-9 * torch.eye(len(mean))).T

    def distance(entry):
        made = run_method(entry.run, count=100)[0].flatten(1)[:, ~KNOWN].double()
        return analytic.energy_distance(made, exact)

    by_label = {
        e.label: distance(e) for e in methods.entries() if e.label in ("ours/fast", "published_eta1", "replacement")
    }
    print(f"\nenergy distance to the posterior: {by_label}")
    assert by_label["ours/fast"] < by_label["published_eta1"]
    assert by_label["ours/fast"] < by_label["replacement"] / 2


def test_a_command_in_the_results_names_files_without_their_folders():
    opts = argparse.Namespace(
        out=Path("a/out"), checkpoint=Path("a/b.safetensors"), model="c/d.safetensors", cfg=[1.0, 4.0]
    )
    command = report.heading("cfg", opts, {})["command"]
    assert command == "dev.py bench cfg --checkpoint b.safetensors --model d.safetensors --cfg 1.0 4.0"


def test_live_bytes_are_those_of_the_tensors_alive():
    with live_memory.LiveBytes() as live:
        a = torch.zeros(1000)
        b = a + 1
        view, in_place = b[:10], b.mul_(2)
        del a, b
        c = torch.zeros(500)
    assert (live.peak, live.live) == (8000, 6000)
    del view, in_place, c
    assert live.live == 0


def test_live_bytes_see_what_backpropagation_keeps():
    x = torch.zeros(1000, requires_grad=True)
    with live_memory.LiveBytes() as live:
        y = x.sin().sin().sin()
        assert live.live == 3 * 4000  # each result is kept for the next one's derivative
        del y
    assert live.live == 0


def test_our_own_cost_grows_like_the_latent():
    """Calls are always the same; memory is linear in the latent's values. Times are in the benchmark."""
    sizes = [(1, 16, 1), (1, 64, 1), (4, 64, 1), (1, 64, 2), (1, 64, 4)]  # pictures, cells a side, constraints
    rows = [growth.measured("newton", "", *size, levels=2, repeats=1) for size in sizes]
    per_value = [r["peak_bytes"] / r["values"] for r in rows]
    assert {r["calls"] for r in rows} == {4}
    assert per_value[:3] == pytest.approx([per_value[0]] * 3, rel=0.01) and max(per_value) < 1.5 * per_value[0]


def test_tensors_without_contents_take_as_much_memory():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.SiLU(), torch.nn.Conv2d(8, 3, 3))

    def gradient():
        x = torch.zeros(1, 3, 64, 64, requires_grad=True)
        return torch.autograd.grad(net(x).sum(), x)[0]

    real = large.peak(gradient)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert large.peak(gradient) == real > 4 * 64 * 64 * 3


def test_growth_finds_the_exponent():
    rows = [{"values": n, "peak_bytes": 7 * n, "seconds": 3 * n**2} for n in (10, 100, 5000)]
    assert growth.exponent(rows, "peak_bytes") == pytest.approx(1)
    assert growth.exponent(rows, "seconds") == pytest.approx(2)


def test_a_mosaic_is_cut_into_its_pictures():
    parts = RNG.random((9, 4, 6, 3))
    whole = mosaic.joined(parts, 3)
    assert whole.shape == (12, 18, 3) and (whole[4:8, 6:12] == parts[4]).all()
    assert (mosaic.cut(whole, 3) == parts).all()


def test_a_mosaic_of_more_pictures_than_there_are_begins_again():
    class Few:
        name = dtype = rows = features = None
        notes: ClassVar = {}

        def truths(self, split, count):
            return ["a", "b", "c"][:count], RNG.random((min(count, 3), 128, 128, 3))

    (whole,) = windows.mosaics(Few(), 256, 1)
    assert whole.shape == (256, 256, 3) and (whole[:128, :128] == whole[128:, 128:]).all()


def test_every_file_of_the_benchmark_finds_what_it_imports():
    """In a process of their own: names such as `samplers` mean other files where the host's folders are on the path."""
    names = sorted(p.stem for p in BENCH.glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(names)}"], cwd=BENCH, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
