"""Closed-form checks of the benchmarks of the Jacobian, on Gaussian priors."""

import sys
from pathlib import Path

import analytic
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import directions
import half_steps
import inside
import jacobian
import red_grid
import spectrum

SIGMA = 0.5
PRIOR = analytic.Gaussian(torch.full((64,), 0.3), analytic.smooth_covariance())


def view(matrix=None):
    """Two pictures of the Gaussian prior, or of a linear denoiser with this Jacobian."""

    def at(sigma):
        if matrix is not None:
            return lambda x: (x.flatten(1) @ matrix.to(x).T).reshape(x.shape)
        return lambda x: PRIOR.x0(x, torch.full((len(x),), sigma))

    z = PRIOR.draw(2, seed=3)
    flat = lambda p: p.reshape(len(p), -1)  # noqa: E731
    return inside.View("gaussian", "no prompt", ["a", "b"], z, z.roll(-1, 0), at, PRIOR.scales, lambda r: r,
                       lambda x0: x0.detach().movedim(1, -1).numpy(), flat)  # fmt: skip


def operator_of(matrix):
    like = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    return spectrum.operator(
        lambda v: (matrix @ v.flatten()).reshape(like.shape), like,
        lambda v: (matrix.T @ v.flatten()).reshape(like.shape),
    )  # fmt: skip


def test_eigenvalues_and_norm_in_closed_form():
    """J of a Gaussian has the eigenvalues c / (c + sigma^2) of its covariance's c."""
    c = torch.linalg.eigvalsh(PRIOR.cov).flip(0)[:4]
    row = spectrum.measure(view(), 0, SIGMA)
    found = [complex(v) for v in row["eigenvalues"]]
    assert [v.real for v in found] == pytest.approx((c / (c + SIGMA**2)).tolist(), rel=0.05)
    assert row["imaginary"] < 0.05
    assert row["radius"] == pytest.approx((c[0] / (c[0] + SIGMA**2)).item(), rel=0.02)
    assert row["norm"] == pytest.approx(row["radius"], rel=0.02)


def test_the_norm_of_a_skew_matrix_is_not_its_trace_of_real_eigenvalues():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(64, 64, generator=generator, dtype=torch.float64)
    assert spectrum.spectral_norm(operator_of(a)) == pytest.approx(torch.linalg.matrix_norm(a, 2).item(), rel=0.02)
    found = spectrum.leading(operator_of(a - a.T), 4)
    assert abs(found.real / abs(found)).max() < 1e-6
    assert spectrum.allowed_step(found) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("factor, shrinks", [(0.9, True), (1.1, False)])
def test_the_allowed_step_is_the_border_of_convergence(factor, shrinks):
    """e <- (I - c M J J M) e, many times."""
    _, known = analytic.half_mask()
    m = torch.diag(known.double())
    j = PRIOR.jacobian(SIGMA)
    mu = spectrum.leading(operator_of(m @ j @ j @ m), 4)
    e = torch.ones(64, dtype=torch.float64) * known
    start = e.norm()
    for _ in range(500):
        e = e - factor * spectrum.allowed_step(mu) * (m @ j @ j @ m @ e)
    assert (e.norm() < start) == shrinks


def test_asymmetry_is_0_for_the_ideal_denoiser_and_2_for_a_skew_one():
    row = jacobian.measure(view(), 0, SIGMA, probes=3)
    assert row["asymmetry"] < 0.02 and row["cosine"] > 0.999
    a = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    row = jacobian.measure(view(a - a.T), 0, SIGMA, probes=3)
    assert row["asymmetry"] == pytest.approx(2, abs=0.02) and row["cosine"] == pytest.approx(-1, abs=0.01)


def test_the_grids_cells_are_where_its_squares_are():
    changed = abs(red_grid.grid(128, red_grid.CROSSINGS) - red_grid.grid(128, []))[0].max(-1) > 0
    cells = changed.reshape(16, 8, 16, 8).any((1, 3))
    assert torch.equal(torch.from_numpy(cells), red_grid.cells_of(red_grid.CROSSINGS, 16))
    assert red_grid.cells_of([red_grid.SQUARE], 16).sum() == 4
    assert torch.equal(
        red_grid.cells_of([(1, 2)], 32, margin=1),
        red_grid.cells_of([(1, 2)], 16, margin=1).repeat_interleave(2, 0).repeat_interleave(2, 1),
    )


def test_painted_is_1_for_the_change_itself_and_0_for_another_one():
    wanted, other = torch.zeros(1, 4, 16, 16), torch.zeros(1, 4, 16, 16)
    cells = red_grid.cells_of(red_grid.CROSSINGS, 16)
    wanted[:, 0, cells], other[:, 1, cells] = 2.0, 3.0
    assert red_grid.painted(wanted, wanted, cells) == pytest.approx(1)
    assert red_grid.painted(0.5 * wanted + other, wanted, cells) == pytest.approx(0.5)


def test_steps_on_an_ideal_denoiser_agree_and_the_exact_one_leads():
    rows = half_steps.step_rows(view(), 0, SIGMA)[0]
    residual = {(r["method"], r["step"]): r["residual"] for r in rows}
    assert residual["ours", 5] == pytest.approx(residual["gradient", 5], rel=0.02)
    assert all(residual[m, 5] < 0.8 * residual[m, 0] for m in half_steps.METHODS)


def test_intervals_are_students():
    mean, half = directions.interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.3027 * 1 / np.sqrt(3), rel=1e-3)


def test_the_tables_pair_what_belongs_together():
    rows = [row for i in range(2) for row in half_steps.step_rows(view(), i, SIGMA)[0]]
    for row in rows:
        row["residual"] += row["method"] == "exact"  # one apart, whatever the picture
    table = directions.paired_table(rows, ("residual",), step=5)
    gradient, exact = table.splitlines()[2:]
    assert "Jᵀ e" in gradient and abs(float(gradient.split("|")[4].split("±")[0])) < 0.02
    assert float(exact.split("|")[4].split("±")[0]) < -0.7
    assert "| model | noise | J e minus | residual | feature_distance |" in directions.body(rows)
