"""What a run did: figures of every noise level, and why there were no more corrections."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .constraint import Constraint, residual_at

WHY = {
    "iterations": "corrected in full",
    "budget": "short of corrections by max_calls",
    "target": "stopped at the residual target",
    "silent": "without an active constraint",
    "held": "known values held",
}


@dataclass(frozen=True)
class Level:
    """One noise level.

    Attributes:
        sigma: the noise level.
        residual: of each sample before the corrections, in the constraint's own units.
        length: of each sample, the real length lambda nu / max|J e| of the longest step; 0 without a step.
        corrections: Newton steps taken.
        resampled: whether what held masks leave open was drawn anew.
        stop: why not more, a key of `WHY`.
    """

    sigma: float
    residual: tuple[float, ...]
    length: tuple[float, ...]
    corrections: int
    resampled: bool
    stop: str


@dataclass(frozen=True)
class Report:
    """A finished run; plain numbers.

    Attributes:
        residual: of each sample's result; empty where no constraint was active at the end.
        calls: model calls (NFE), one guided evaluation each.
        network_evals: evaluations of the network per picture; with classifier-free guidance two a call.
        seconds: wall time of the run.
        target: the residual target, 0 for none.
    """

    levels: tuple[Level, ...] = ()
    residual: tuple[float, ...] = ()
    calls: int = 0
    network_evals: int = 0
    seconds: float = 0.0
    target: float = 0.0

    def stop_reason(self) -> str:
        """Why the run took no more corrections than it did."""
        counts = Counter(level.stop for level in self.levels)
        parts = [f"{counts[stop]} of {len(self.levels)} levels {text}" for stop, text in WHY.items() if counts[stop]]
        return ", ".join(parts) or "no level to sample"

    def summary(self) -> str:
        """One line."""
        line = f"{len(self.levels)} levels, {self.calls} model calls, {self.network_evals} network evaluations, "
        line += f"{self.seconds:.1f} s"
        if resampled := sum(level.resampled for level in self.levels):
            line += f"; resampled at {resampled} levels"
        if spoken := [level for level in self.levels if level.stop != "silent"]:
            line += f"; residual {mean(spoken[0].residual):.4f} at first"
        if self.residual:
            line += f", {mean(self.residual):.4f} in the result"
        if self.target and self.residual:
            line += f" (target {self.target:g} {'reached' if max(self.residual) <= self.target else 'missed'})"
        return f"{line}; {self.stop_reason()}"

    def table(self) -> str:
        """The summary and a line per level; means over the batch."""
        lines = [self.summary(), "", f"{'sigma':>9} {'residual':>9} {'step':>9} {'corrections':>12} {'resampled':>10}"]
        for level in self.levels:
            lines.append(
                f"{level.sigma:9.4f} {mean(level.residual):9.4f} {mean(level.length):9.4f} {level.corrections:12d} "
                f"{'yes' if level.resampled else '':>10}  {WHY[level.stop]}"
            )
        return "\n".join(lines)


def mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


class Recorder:
    """Gathers the figures of a run on the device and reads them once, at the end: no level waits for them."""

    def __init__(self, levels: int, x: Tensor):
        self.start = time.perf_counter()
        self.figures = torch.zeros(levels, 2, len(x), device=x.device)
        self.levels: list[tuple[float, int, bool, str]] = []

    def level(self, info: dict[str, Any]) -> None:
        """Takes what `sample_constrained` tells its callback."""
        steps = info["steps"]
        self.figures[len(self.levels), 0] = steps.residual
        self.figures[len(self.levels), 1] = steps.length
        self.levels.append((info["sigma"], steps.taken, steps.resampled, steps.stop))
        self.x0 = info["denoised"]

    def report(self, constraint: Constraint, **totals: Any) -> Report:
        """Evaluates the constraint once more, on the result; `totals` are the other fields of `Report`."""
        size = residual_at(constraint, self.x0, self.levels[-1][0])
        figures = self.figures.tolist()
        levels = tuple(
            Level(sigma, tuple(rms), tuple(length), taken, resampled, stop)
            for (sigma, taken, resampled, stop), (rms, length) in zip(self.levels, figures, strict=True)
        )
        result = () if size is None else tuple(size.tolist())
        return Report(levels, result, seconds=time.perf_counter() - self.start, **totals)
