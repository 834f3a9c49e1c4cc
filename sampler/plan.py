"""What a run does at which noise level, within a limit of model calls."""

import math
import sys
from collections.abc import Sequence

from .constraint import Constraint, WeightedSum, as_sum
from .denoiser import Level
from .operators.mask import LatentMask
from .settings import NewtonSettings, newton_calls

# arctan(s / alpha) of the noise levels whose corrections count most.
MIDDLE = 0.94
# Noise levels s / (alpha sigma_data) at which resampling pays: above them little is decided, below them little is open.
RESAMPLE_WINDOW = 1.5, 3.0


def noise_to_signal(level: Level) -> float:
    """s / (alpha sigma_data)."""
    alpha, s, sigma_data = level.scales
    return s / max(alpha * sigma_data, 1e-30)


def in_resample_window(level: Level) -> bool:
    """Whether what masks leave unknown is drawn anew at this noise level."""
    return RESAMPLE_WINDOW[0] < noise_to_signal(level) < RESAMPLE_WINDOW[1]


def allocate(steps: int, most: int, levels: Sequence[Level]) -> int:
    """Steps for the first of these noise levels, when `steps` are left for all of them.

    All levels get the same number, at most `most`; the remainder goes to the middle ones, one each.
    """
    each, over = divmod(steps, len(levels))
    distance = [abs(math.atan2(level.scales.s, level.scales.alpha) - MIDDLE) for level in levels]
    middle = sorted(range(len(levels)), key=distance.__getitem__)
    return min(most, each + (0 in middle[:over]))


def affordable_steps(calls: int, levels: int, carry: bool) -> int:
    """Newton steps over noise levels that so many calls pay for; the inverse of `newton_calls`."""
    return min(calls, (calls + levels) // 2) if carry else calls // 2


class Plan:
    """What takes Newton steps, what is replaced, and at which levels; made once per run, and used up by it.

    Resampling and second order are for masks alone: what else is constrained has calls of its own, and its steps are a
    part of x0 that must not be extrapolated.

    Args:
        sigmas: L + 1 decreasing noise levels.
        scales: from a noise level to its `Scales`.
        other_calls: what another sampler's own steps cost beyond one call a level.

    Attributes:
        levels, active: the L + 1 noise levels, and those at which something takes Newton steps.
        newton, masks: the terms that take Newton steps, and the latent masks that are replaced.
        iterations: most Newton steps at a level.
        order: of the step to the next level.
        total: model calls (NFE); fewer where a residual target is reached.

    Raises:
        ValueError: the settings' `max_calls` is less than the run takes without corrections.
    """

    def __init__(
        self,
        constraint: Constraint | WeightedSum,
        settings: NewtonSettings,
        levels: list[Level],
        other_calls: int = 0,
    ):
        terms = as_sum(constraint).with_target(settings.residual_target).terms
        replaced = [settings.hold and isinstance(t.constraint, LatentMask) for t in terms]
        self.newton = WeightedSum(tuple(t for t, r in zip(terms, replaced, strict=True) if not r))
        self.masks = WeightedSum(tuple(t for t, r in zip(terms, replaced, strict=True) if r))
        self.settings, self.levels = settings, levels
        self.active = [level for level in levels[:-1] if self.newton.active(level.sigma)]
        masks_alone = not self.active
        self.iterations = 0 if masks_alone else settings.iterations
        free = self.iterations and not any(t.constraint.spatial for t in self.newton.terms)
        limit = settings.guided_up_to if free and settings.guided_up_to is not None else math.inf
        self.unguided = {level.sigma for level in self.active if noise_to_signal(level) > limit}
        self.order = settings.order if masks_alone else 1
        self.resamples = settings.resample and masks_alone

        plain, count = len(levels) - 1 + other_calls, len(self.active)
        check_limit(settings.max_calls, len(levels) - 1, plain)
        spare = (settings.max_calls or sys.maxsize) - plain
        self.corrections_left = min(spare, newton_calls(count * self.iterations, count, settings.carry))
        steps = affordable_steps(self.corrections_left, count, settings.carry)
        corrections = newton_calls(steps, count, settings.carry)
        self.resamplings_left = min(spare - corrections, sum(map(self.may_resample, levels[:-1])))
        self.total = plain + corrections + self.resamplings_left

    def newton_steps(self, i: int) -> int:
        """Newton steps at the i-th level, out of the calls that are left."""
        remaining = [level for level in self.active if level.i >= i]
        if not remaining or remaining[0].i > i:
            return 0
        steps = affordable_steps(self.corrections_left, len(remaining), self.settings.carry)
        return allocate(steps, self.iterations, remaining)

    def guided(self, sigma: float) -> bool:
        """Whether guidance is added at a noise level."""
        return sigma not in self.unguided

    def spend(self, calls: int) -> None:
        self.corrections_left -= calls

    def may_resample(self, level: Level) -> bool:
        return self.resamples and in_resample_window(level) and self.masks.active(level.sigma)

    def do_resample(self, i: int) -> bool:
        """Whether the i-th level is resampled; counts it."""
        if not self.may_resample(self.levels[i]):
            return False
        window = [level for level in self.levels[i:-1] if self.may_resample(level)]
        chosen = allocate(self.resamplings_left, 1, window)
        self.resamplings_left -= chosen
        return chosen > 0


def check_limit(max_calls: int, levels: int, plain: int) -> None:
    if max_calls and max_calls < plain:
        raise ValueError(
            f"max_calls: {max_calls} model calls do not suffice for {levels} noise levels, which take {plain} "
            f"even without corrections. Allow at least {plain} in Newton Settings, or sample in fewer steps."
        )
