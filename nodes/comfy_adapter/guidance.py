"""The conditional estimate behind classifier-free guidance, and guidance at one network evaluation."""

from collections.abc import Callable
from typing import Any

import comfy.samplers
from torch import Tensor

HOOK = "sampler_calc_cond_batch_function"  # the host's own, for the evaluation of a model's prompts
BEFORE, AFTER = "sampler_pre_cfg_function", "sampler_post_cfg_function"


class CondCapture:
    """The conditional estimate of the last call, as guiders hand it to functions after guidance.

    `x0` has the shape of the latent (B, C, ..., H, W), and so has the estimate for the negative prompt, `negative`;
    None where a guider hands nothing on.
    """

    def __init__(self):
        self.x0: Tensor | None = None
        self.negative: Tensor | None = None

    def __call__(self, args: dict[str, Any]) -> Tensor:
        self.x0, self.negative = args["cond_denoised"], args["uncond_denoised"]
        return args["denoised"]

    def watch(self, options: dict[str, Any]) -> dict[str, Any]:
        """A copy of the options with which it is kept."""
        return options | {AFTER: [self, *options.get(AFTER, [])]}


def without_guidance(options: dict[str, Any]) -> dict[str, Any]:
    """A copy of the options with which a guider evaluates its first prompt alone.

    A guider that does not ask the host's hook keeps its own guidance.
    """
    evaluate = options.get(HOOK, evaluate_prompts)
    return bare(options) | {HOOK: lambda args: 2 * [first_alone(evaluate, args)]}


def bare(options: dict[str, Any]) -> dict[str, Any]:
    """A copy of the options without what other nodes do before and after guidance: they expect both estimates."""
    return options | {BEFORE: [], AFTER: [f for f in options.get(AFTER, []) if isinstance(f, CondCapture)]}


class FrozenGuidance:
    """What guidance adds to the conditional estimate c stays as in the last full call: x0(x) ~ c(x) + (x0 - c).

    A guider that does not ask the host's hook is evaluated in full.

    Args:
        call: the guided model, from x, sigma and model options to x0.
        options: the run's own model options.
    """

    def __init__(self, call: Callable[[Tensor, Tensor, dict[str, Any]], Tensor], options: dict[str, Any]):
        self.call = call
        self.options, self.evaluate = options, options.get(HOOK, evaluate_prompts)
        self.c: Tensor | None = None

    def both(self, args: dict[str, Any]) -> list[Tensor]:
        out = self.evaluate(args)
        self.c = out[0]
        return out

    def first(self, args: dict[str, Any]) -> list[Tensor]:
        self.c = first_alone(self.evaluate, args)
        return [self.c, self.c]

    def model(self, x: Tensor, sigma: Tensor) -> Tensor:
        x0 = self.call(x, sigma, self.options | {HOOK: self.both})
        if self.c is not None:
            self.added = x0 - self.c
        return x0

    def perturbed_call(self, x: Tensor, sigma: Tensor) -> Tensor:
        if self.c is None:
            return self.call(x, sigma, self.options)
        self.call(x, sigma, bare(self.options) | {HOOK: self.first})
        return self.c + self.added


def first_alone(evaluate: Callable[[dict[str, Any]], list[Tensor]], args: dict[str, Any]) -> Tensor:
    return evaluate(args | {"conds": [args["conds"][0], None]})[0]


def evaluate_prompts(args: dict[str, Any]) -> list[Tensor]:
    return comfy.samplers.calc_cond_batch(
        args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
    )
