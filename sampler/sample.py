"""The method: sampling under a constraint by inexact Newton steps."""

import itertools
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from .constraint import Constraint, WeightedSum
from .denoiser import Denoiser, Level, levels_of
from .newton import LevelInfo, newton_steps
from .noise import sample_generators
from .plan import Plan
from .replacement import Replacement
from .settings import NewtonSettings
from .step import Ancestral

Step = Callable[[Tensor, Tensor, Level, Level], Tensor]
"""From x and x0 at a level to x at the next."""
Run = Generator[tuple[Tensor, Tensor, Level, Level], Tensor, Tensor]
"""Gives what a `Step` takes, and is sent what it returns."""


def constrained_run(denoise, x, levels, newton, replacement, observe) -> Run:
    """Algorithm 1 of Graikos et al. (arXiv 2410.18804): x (B, C, ..., H, W) from levels[0] down to levels[-1]."""
    for cur, nxt in itertools.pairwise(levels):
        if replacement:
            x = replacement.begin(denoise, x, cur)  # resampling
        x0 = denoise(x, cur.sigma)  # x0 = D(x; sigma)
        x, x0, info = newton(denoise, x, x0, cur)  # x <- x + lambda nu J e / max|J e|
        if replacement:
            x, x0, info = replacement(denoise, x, x0, cur, info)  # x0 <- W y + (1 - W) x0
        observe(cur, x, x0, info)
        x_next = yield x, x0, cur, nxt  # the step: DDIM, ancestral, second order, or another sampler
        x = replacement.keep(x_next, x, x0, cur, nxt) if replacement else x_next
    return x


def take_steps(run: Run, step: Step) -> Tensor:
    """x at the end of a run, step by step."""
    try:
        state = next(run)
        while True:
            state = run.send(step(*state))
    except StopIteration as end:
        return end.value


@torch.no_grad()
def sample_constrained(
    denoise: Denoiser,
    x: Tensor,
    sigmas: list[float],
    constraint: Constraint | WeightedSum,
    settings: NewtonSettings,
    delta: float,
    seed: int = 0,
    step: Callable[[int, Tensor, Tensor], Tensor] | None = None,
    step_calls: int = 0,
    callback: Callable[[dict[str, Any]], None] = lambda info: None,
    plan: Plan | None = None,
    samples: Sequence[int] | None = None,
    drive: Callable[[Run, Step], Tensor] = take_steps,
) -> Tensor:
    """Sample from noise level sigmas[0] down to sigmas[-1]; calls: levels * (1 + 2 K), with carry levels * 2 K.

    Where the settings replace the known values of latent masks, K counts for the other constraints only, and resampling
    adds its calls. No value is read off the device between the levels, unless the settings have a residual target.

    Args:
        x: noisy start (B, C, ..., H, W) at sigmas[0].
        sigmas: L + 1 decreasing noise levels, usually ending in 0; warm restarts come to some of them again.
        delta: relative perturbation of the forward difference.
        seed: of the fresh noise; a sample's own depends on the seed and its number only.
        step: of another sampler, from (i, x, x0) at the plan's level i to x at the next, in place of ours.
        step_calls: model calls that `step` or `drive` makes in the whole run.
        callback: called once a level with `i`, `x`, `sigma`, `denoised` (x0 after the steps) and `steps` (what was
            done, a `LevelInfo`).
        plan: of this run, where the caller has made it already.
        samples: the number of each sample; None counts from 0.
        drive: takes a run to its end, for samplers that step through several levels by themselves; it is given our
            `Step` for those that go up.

    Raises:
        ValueError: the settings' `max_calls` is less than the run takes without corrections.
    """
    plan = plan or Plan(constraint, settings, levels_of(settings.with_restarts(sigmas), denoise.scales), step_calls)
    denoise.guided = plan.guided
    generators = sample_generators(seed, range(len(x)) if samples is None else samples)
    replacement = Replacement(plan.masks, settings.rate_first, plan, generators) if plan.masks.terms else None

    def newton(denoise: Denoiser, x: Tensor, x0: Tensor, cur: Level) -> tuple[Tensor, Tensor, LevelInfo]:
        calls, steps = denoise.calls, plan.newton_steps(cur.i)
        last = plan.levels[cur.i + 1].sigma == 0
        out = newton_steps(denoise, x, x0, cur, plan.newton, settings, delta, steps, last)
        plan.spend(denoise.calls - calls)
        return out

    def observe(cur: Level, x: Tensor, x0: Tensor, info: LevelInfo) -> None:
        callback({"i": cur.i, "x": x, "sigma": cur.sigma, "denoised": x0, "steps": info})

    ancestral = Ancestral(generators, settings.eta, plan.order, plan.levels, replacement)

    def to_next(x: Tensor, x0: Tensor, cur: Level, nxt: Level) -> Tensor:
        if step is None or nxt.sigma >= cur.sigma:  # another sampler knows no step up, nor one that stays
            return ancestral(x, x0, cur, nxt)
        return step(cur.i, x, x0)

    return drive(constrained_run(denoise, x, plan.levels, newton, replacement, observe), to_next)
