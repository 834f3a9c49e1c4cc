"""The method as a sampler function of the host."""

import logging
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
from torch import Tensor
from tqdm.auto import tqdm

from ...sampler import (
    Constraint,
    Denoiser,
    LatentMask,
    NewtonSettings,
    Plan,
    Recorder,
    Report,
    WeightedSum,
    interpolated_weights,
    levels_of,
    mixed_seed,
    sample_constrained,
)
from ..constraint_spec import ConstraintSpec, LatentSpace
from .guidance import Conditional, FrozenGuidance
from .others import GuidanceMemory, weights_over_time, without_step_caches
from .scales import check_latent, measured_scales

log = logging.getLogger("newton_constrained_sampling")


def bind_constraint(
    constraint: ConstraintSpec | None,
    model_k: Any,
    x: Tensor,
    mask: Tensor | None,
    model_options: dict[str, Any],
    seed: int,
) -> Constraint:
    """The constraint in the sampler's coordinates; without one, the host's mask and latent become it."""
    base = model_k.inner_model.inner_model
    weights_at = weights_over_time(model_options, model_k.inner_model, model_k.sigmas)
    if constraint is not None:
        to_sigma = base.model_sampling.percent_to_sigma
        return constraint.bind(
            LatentSpace(x.shape, x.device, base.process_latent_in, base.process_latent_out, to_sigma, seed, weights_at)
        )
    if mask is None:
        return WeightedSum(())
    weights = interpolated_weights(mask) if weights_at is None else 1 - mask
    return LatentMask(model_k.latent_image, weights.to(x), weights_at) if weights.any() else WeightedSum(())


class Evaluations:
    """Counts what the network evaluates, in pictures: a call under classifier-free guidance is two for each."""

    def __init__(self):
        self.pictures = 0

    def __call__(self, executor: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.pictures += len(x)
        return executor(x, *args, **kwargs)

    def watch(self, model_options: dict[str, Any]) -> dict[str, Any]:
        """A copy of the options with which every evaluation is counted."""
        options = comfy.model_patcher.create_model_options_clone(model_options)
        comfy.patcher_extension.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.APPLY_MODEL, "newton_evaluations", self, options, is_model_options=True
        )
        return options


class GivenFirst:
    """A host model whose first call is answered with an estimate that is already known."""

    def __init__(self, model_k: Any, model: Callable[[Tensor, Tensor], Tensor], x0: Tensor):
        self.model_k, self.model, self.given = model_k, model, [x0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model_k, name)

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        return self.given.pop() if self.given else self.model(x, sigma)


def stay_loaded(patcher: Any) -> None:
    """Put the model back where the VAE of a constraint has pushed it out of the device's memory."""
    if all(loaded is not patcher for loaded in comfy.model_management.loaded_models()):
        comfy.model_management.load_models_gpu([patcher])


def newton_function(
    model_k: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Callable[[dict[str, Any]], None] | None,
    disable: bool | None,
    constraint: ConstraintSpec | None,
    settings: NewtonSettings,
    on_call: Callable[[int, int], None] | None = None,
    on_report: Callable[[Report], None] | None = None,
    driver: Callable[..., Tensor] | None = None,
    driver_calls: int = 0,
) -> Tensor:
    """`sample_constrained` as a k-diffusion sampler function of the host.

    The host's own mask blending is always switched off (`denoise_mask=None`): it would overwrite the known
    region in every denoiser call and hide the error.

    Args:
        on_call: told the calls done and in all, after each.
        on_report: given the report of the run at its end.
        driver: sampler function that takes the step from one noise level to the next instead of ours; with nothing to
            obey it runs as it is.
        driver_calls: what it calls the model for beyond the estimate it is given, at each level but a last one of 0.
    """
    check_latent(x.shape, model_k.inner_model.inner_model.latent_format)
    options = extra_args["model_options"]
    seed = extra_args.get("seed") or 0
    bound = bind_constraint(constraint, model_k, x, extra_args["denoise_mask"], options, seed)
    if bound == WeightedSum(()):
        if driver is not None:
            return driver(model_k, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)
    else:
        options = without_step_caches(options)
    memory, evaluations, conditional = GuidanceMemory(options), Evaluations(), Conditional()
    base, levels = model_k.inner_model.inner_model, sigmas.tolist()
    extra_args = extra_args | {"denoise_mask": None, "model_options": conditional.watch(evaluations.watch(options))}
    delta = settings.delta_for(base.manual_cast_dtype or base.get_dtype())
    driven = driver_calls * sum(sigma > 0 for sigma in levels[1:])
    scales, calls = measured_scales(base.model_sampling), 0
    plan = Plan(bound, settings, levels_of(levels, scales), driven)
    recorder = Recorder(plan, x)

    def call(x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Tensor:
        nonlocal calls
        comfy.model_management.throw_exception_if_processing_interrupted()
        memory.before_call(sigma)
        stay_loaded(model_k.inner_model.model_patcher)
        x0 = model_k(x, sigma, **extra_args | {"model_options": options})
        calls += 1
        bar.update()  # counts nothing where progress bars are switched off
        if on_call is not None:
            on_call(calls, plan.total)
        return x0

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return call(x, sigma, extra_args["model_options"])

    nearby = None
    if settings.conditional_only:
        frozen = FrozenGuidance(call, extra_args["model_options"])
        model, nearby = frozen.model, frozen.nearby

    def drive(i: int, x: Tensor, x0: Tensor) -> Tensor:
        # A sampler's noise starts anew with its seed, so every level gets one of its own.
        extra = extra_args | {"seed": mixed_seed(seed, i)}
        return driver(GivenFirst(model_k, model, x0), x, sigmas[i : i + 2], extra_args=extra, disable=True)

    def level_done(info: dict[str, Any]) -> None:
        recorder.level(info)
        if callback is not None:
            callback(info)

    denoise, advance = Denoiser(model, scales, nearby, lambda: conditional.x0), drive if driver else None
    with tqdm(total=plan.total, disable=disable, unit="call") as bar:
        out = sample_constrained(denoise, x, levels, bound, settings, delta, seed, advance, driven, level_done, plan)
    evals = evaluations.pictures // len(x)
    report = recorder.report(calls=calls, network_evals=evals, target=settings.residual_target)
    log.info("Newton constrained sampling: %s", report.summary())
    if on_report is not None:
        on_report(report)
    return out


def make_sampler(
    constraint: ConstraintSpec | None,
    settings: NewtonSettings,
    on_call: Callable[[int, int], None] | None = None,
    on_report: Callable[[Report], None] | None = None,
) -> comfy.samplers.KSAMPLER:
    options = {"constraint": constraint, "settings": settings, "on_call": on_call, "on_report": on_report}
    return comfy.samplers.KSAMPLER(newton_function, options)
