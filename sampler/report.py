"""What a run did: figures of every noise level, and why there were no more corrections."""

import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .plan import Plan

WHY = {
    "iterations": "corrected in full",
    "budget": "short of corrections by max_calls",
    "target": "stopped at the residual target",
    "silent": "without an active constraint",
    "held": "known values replaced",
}


@dataclass(frozen=True)
class LevelReport:
    """One noise level.

    Attributes:
        sigma: the noise level.
        residual: before the corrections, of each term and sample, in the term's unit; NaN where a term is inactive.
        length: of each sample, the real length lambda nu / max|J e| of the longest step; 0 without a step.
        corrections: Newton steps taken.
        resampled: whether what masks leave unknown was drawn anew.
        stop: why not more, a key of `WHY`.
    """

    sigma: float
    residual: tuple[tuple[float, ...], ...]
    length: tuple[float, ...]
    corrections: int
    resampled: bool
    stop: str


@dataclass(frozen=True)
class Report:
    """A finished run; plain numbers.

    Attributes:
        units: of each term's residual.
        residual: at the end, of each term and sample: of the result; of masks that are replaced, the model's own
            estimate at the last level, before the known values are put in. NaN where a term was inactive at the end.
        calls: model calls (NFE), one guided evaluation each.
        network_evals: evaluations of the network per picture; two a call where guidance is added.
        seconds: wall time of the run.
        target: the residual target, held against each term by itself; 0 for none.
        note: what else is to be said about the run.
    """

    levels: tuple[LevelReport, ...] = ()
    units: tuple[str, ...] = ()
    residual: tuple[tuple[float, ...], ...] = ()
    calls: int = 0
    network_evals: int = 0
    seconds: float = 0.0
    target: float = 0.0
    note: str = ""

    def stop_reason(self) -> str:
        """Why the run took no more corrections than it did."""
        counts = Counter(level.stop for level in self.levels)
        parts = [f"{counts[stop]} of {len(self.levels)} levels {text}" for stop, text in WHY.items() if counts[stop]]
        return ", ".join(parts) or "no level to sample"

    def labels(self) -> list[str]:
        """A name for each term: its unit, numbered where several share it."""
        count = Counter(self.units)
        return [
            f"{unit} ({self.units[:i].count(unit) + 1})" if count[unit] > 1 else unit
            for i, unit in enumerate(self.units)
        ]

    def summary(self) -> str:
        """One line."""
        line = f"{len(self.levels)} levels, {self.calls} model calls, {self.network_evals} network evaluations, "
        line += f"{self.seconds:.1f} s"
        if resampled := sum(level.resampled for level in self.levels):
            line += f"; resampled at {resampled} levels"
        for i, label in enumerate(self.labels()):
            line += self.term_summary(i, label)
        return "; ".join([line, self.stop_reason(), *filter(None, [self.note])])

    def term_summary(self, i: int, label: str) -> str:
        spoken = [mean(level.residual[i]) for level in self.levels if not math.isnan(level.residual[i][0])]
        text = f"; {label}: {spoken[0]:.4f} at first" if spoken else f"; {label}: never active"
        last = self.residual[i]
        if math.isnan(last[0]):
            return text
        text += f", {mean(last):.4f} at the end"
        if self.target:
            text += f" (target {self.target:g} {'reached' if max(last) <= self.target else 'missed'})"
        return text

    def table(self) -> str:
        """The summary and a line per level; means over the batch."""
        numbers = "".join(f" {f'residual {i + 1}':>11}" for i in range(len(self.units)))
        units = [f"residual {i + 1}: {label}" for i, label in enumerate(self.labels())]
        lines = [self.summary(), *units, "", f"{'sigma':>9}{numbers} {'step':>9} {'corrections':>12} {'resampled':>10}"]
        for level in self.levels:
            residuals = "".join(f" {'':>11}" if math.isnan(r[0]) else f" {mean(r):11.4f}" for r in level.residual)
            lines.append(
                f"{level.sigma:9.4f}{residuals} {mean(level.length):9.4f} {level.corrections:12d} "
                f"{'yes' if level.resampled else '':>10}  {WHY[level.stop]}"
            )
        return "\n".join(lines)


def mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


def as_tuples(rows: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, rows))


class Recorder:
    """Gathers the figures of a run on the device and reads them once, at the end: no level waits for them."""

    def __init__(self, plan: Plan, x: Tensor):
        self.start, self.plan = time.perf_counter(), plan
        self.terms = plan.newton.terms + plan.masks.terms
        levels = len(plan.levels) - 1
        self.residuals = torch.zeros(levels, len(self.terms), len(x), device=x.device)
        self.lengths = torch.zeros(levels, len(x), device=x.device)
        self.levels: list[tuple[float, int, bool, str]] = []

    def level(self, info: dict[str, Any]) -> None:
        """Takes what `sample_constrained` tells its callback."""
        steps = info["steps"]
        self.residuals[len(self.levels)] = steps.residual
        self.lengths[len(self.levels)] = steps.length
        self.levels.append((info["sigma"], steps.taken, steps.resampled, steps.stop))
        self.x0 = info["denoised"]

    def report(self, **totals: Any) -> Report:
        """Measures the result once; `totals` are the other fields of `Report`."""
        closing = self.plan.newton.residual(self.x0, self.levels[-1][0])
        masks = self.residuals[-1][len(self.plan.newton.terms) :]  # the result has their known values by construction
        levels = tuple(
            LevelReport(sigma, as_tuples(residual), tuple(length), taken, resampled, stop)
            for (sigma, taken, resampled, stop), residual, length in zip(
                self.levels, self.residuals.tolist(), self.lengths.tolist(), strict=True
            )
        )
        units = tuple(t.constraint.unit for t in self.terms)
        end = as_tuples(torch.cat([closing.to(masks), masks]).tolist())
        return Report(levels, units, end, seconds=time.perf_counter() - self.start, **totals)
