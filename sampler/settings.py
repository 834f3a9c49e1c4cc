"""How a constraint is enforced, and the presets."""

from dataclasses import dataclass, field, replace

import torch

# Rounding of the network, which the difference divides by delta, against curvature, which grows with it: in half
# precision about 5 sqrt(eps).
DELTA_BY_DTYPE = {torch.float32: 0.005, torch.float16: 0.15, torch.bfloat16: 0.4}


def newton_calls(steps: int, levels: int, carry: bool) -> int:
    """Denoiser calls of Newton steps that lie evenly over noise levels, beyond the plain call of each level."""
    return 2 * steps - carry * min(steps, levels)


@dataclass(frozen=True)
class NewtonSettings:
    """How the constraint is enforced at each noise level.

    Attributes:
        iterations: K, Newton steps per noise level, >= 0.
        rate_first, rate_last: step length lambda of the first and last iteration, linear between them, in units
            of the noisy input's standard deviation.
        delta: relative size of the perturbation of the forward difference; None chooses by the network's dtype.
        eta: fresh noise of the step to the next level, 0 (DDIM) to 1 (ancestral); None is the authors' schedule.
        carry: extrapolate x0 together with x in a level's last step, instead of evaluating the denoiser again: 2 K
            calls a level. The result takes what is known of a constraint's own step once more.
        max_calls: most denoiser calls of a run; every level keeps its plain one. 0 is no limit. Levels that get no
            Newton step still take, with carry, the step of x0 that a constraint knows.
        residual_target: samples whose residual is no larger take no further Newton step at that level. 0 is none.
        conditional_only: under classifier-free guidance let J e be that of the conditional branch, whose perturbation
            takes one network evaluation instead of two.
        guided_up_to: noise level s / (alpha sigma_data) up to which guidance is added where Newton steps are taken for
            constraints that are not spatial alone. In more noise it makes the estimate answer to a step many times too
            strongly, and decides what the constraint should; as limited intervals of guidance, arXiv 2404.07724. None
            is no limit.
        restarts: warm restarts (section 4.1): after the run its estimate is noised again and sampled once more.
        restart_from: where a restart begins, as a share of the run's levels: 0 is the first.
        hold: latent masks are enforced by `Replacement` instead of Newton steps: no call beyond the plain one a level.
        resample: what masks alone leave unknown is drawn anew at every middle noise level (`Replacement.begin`), at
            one call each.
        order: of the step to the next level, 1, or 2 under masks alone (`x0_midpoint`); no further call.
    """

    iterations: int = 1
    rate_first: float = 0.5
    rate_last: float = 0.5
    delta: float | None = None
    eta: float | None = 1.0
    carry: bool = True
    max_calls: int = 0
    residual_target: float = 0.0
    conditional_only: bool = False
    guided_up_to: float | None = None
    hold: bool = False
    resample: bool = False
    order: int = 1
    restarts: int = 0
    restart_from: float = 0.5

    def with_restarts(self, sigmas: list[float]) -> list[float]:
        """The noise levels of the whole run; where one is above the one before, x is the estimate noised again."""
        first = min(round(self.restart_from * (len(sigmas) - 1)), len(sigmas) - 2)
        return [*sigmas[:-1], *self.restarts * sigmas[first:-1], sigmas[-1]]

    def rates(self) -> list[float]:
        """lambda_k, k = 0 ... K - 1."""
        span = max(self.iterations - 1, 1)
        return [self.rate_first + (self.rate_last - self.rate_first) * k / span for k in range(self.iterations)]

    def calls_per_level(self) -> int:
        """Denoiser calls at a level that takes all its Newton steps."""
        return 1 + newton_calls(self.iterations, 1, self.carry)

    def delta_for(self, dtype: torch.dtype) -> float:
        return DELTA_BY_DTYPE.get(dtype, 0.4) if self.delta is None else self.delta


@dataclass(frozen=True)
class Preset(NewtonSettings):
    """Settings with a sentence about them, for people."""

    about: str = field(default="", compare=False, repr=False, kw_only=True)


FAST = Preset(
    guided_up_to=6.0,
    hold=True,
    resample=True,
    order=2,
    about="The default, best for masks. One model call a step for masks and a second at the middle steps, two a step "
    "for other constraints.",
)
PRESETS = {
    "fast": FAST,
    "thorough": replace(
        FAST,
        iterations=3,
        about="For super-resolution and other pixel constraints that start from a picture, such as 6 steps at denoise "
        ".6. Three corrections a step, six calls. Masks as in fast.",
    ),
    "newton": Preset(
        about="The method by itself, for comparison: one Newton step at every step for every constraint, masks too; "
        "two calls a step. Not for masks with a cfg above 1.",
    ),
    "paper": Preset(
        iterations=5,
        rate_last=0.1,
        eta=None,
        carry=False,
        about="The published inpainting loop, for comparison: 11 calls a step; use it with 20 steps and the "
        "scheduler 'simple'.",
    ),
}
