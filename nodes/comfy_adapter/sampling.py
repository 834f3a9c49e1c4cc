"""The method as a sampler function of the host."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import comfy.samplers
from torch import Tensor
from tqdm.auto import tqdm

from ...sampler import (
    Denoiser,
    NewtonSettings,
    Plan,
    Recorder,
    Report,
    WeightedSum,
    levels_of,
    sample_constrained,
)
from ..checks import remedies_first
from ..constraint_spec import ConstraintSpec
from .base_sampler import BaseSampler, steps_of
from .binding import bind_constraint, leftover_noise, start_of_run
from .guidance import FrozenGuidance, without_guidance
from .host_denoiser import HostDenoiser, LoadedModels
from .precision import delta_for, network_dtype
from .run_checks import check_run
from .scales import check_latent, measured_scales

log = logging.getLogger("newton_constrained_sampling")


def newton_function(
    model_k: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Callable[[dict[str, Any]], None] | None,
    disable: bool | None,
    constraint: ConstraintSpec | None,
    settings: NewtonSettings,
    on_call: Callable[[int, int], None] = lambda done, total: None,
    on_report: Callable[[Report], None] = lambda report: None,
    raw_mask: Tensor | None = None,
    samples: Sequence[int] | None = None,
    batch_index: Sequence[int] | None = None,
    base_sampler: BaseSampler | None = None,
) -> Tensor:
    """`sample_constrained` as a k-diffusion sampler function of the host.

    Args:
        on_call: told the calls done and in all, after each; in all is corrected at the end.
        on_report: given the report of the run at its end.
        raw_mask: the latent's noise mask before the host interpolates it; masks of the constraint have precedence.
        samples: the number of each sample in the run's noise, see `numbers_of`; None counts from 0.
        batch_index: the latents' places in the batch that they were taken from.
        base_sampler: takes the steps from one noise level to the next instead of ours; with nothing to obey it
            runs as it is.
    """
    if len(sigmas) < 2:
        return x  # no step to take
    guider, base = model_k.inner_model, model_k.inner_model.inner_model
    check_latent(x.shape, base.latent_format)
    check_run(guider, x, sigmas, extra_args["denoise_mask"])
    models = LoadedModels(guider)  # before a constraint's VAE can push them out
    seed, samples = extra_args.get("seed") or 0, samples or range(len(x))
    if leftover_noise(model_k, extra_args["denoise_mask"]):
        extra_args, raw_mask = extra_args | {"denoise_mask": None}, None
    mask, options = extra_args["denoise_mask"], extra_args["model_options"]
    bound = bind_constraint(constraint, model_k, x, raw_mask, mask, options, batch_index)
    nothing = bound == WeightedSum(())
    if nothing and base_sampler is not None:
        return base_sampler.function(model_k, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)
    levels, scales = settings.with_restarts(sigmas.tolist()), measured_scales(base.model_sampling)
    base_sampler = base_sampler and base_sampler.on(base.model_sampling)
    other_calls = base_sampler.calls_of(levels) if base_sampler else 0
    note = base_sampler.announced() if base_sampler else ""
    plan = Plan(bound, settings, levels_of(levels, scales), other_calls)
    if any(not any(term.active(level.sigma) for level in plan.levels[:-1]) for term in bound.terms):
        log.warning(
            "constraint: one is active at no step. start and end are places in the model's whole noise schedule, of "
            "which denoise below 1 leaves out the beginning; a weight of 0 switches it off."
        )
    x = start_of_run(x, model_k, bound, plan.levels[0])
    recorder = Recorder(plan, x)

    def tick(calls: int) -> None:
        bar.update()  # counts nothing where progress bars are switched off
        on_call(calls, plan.total)

    host = HostDenoiser(model_k, extra_args, tick, nothing, models)
    alone = settings.conditional_only and not (base_sampler and base_sampler.needs_negative)
    frozen = FrozenGuidance(host, host.model_options) if alone else None
    model, perturbed_call = (frozen.model, frozen.perturbed_call) if frozen else (host, None)

    def level_done(info: dict[str, Any]) -> None:
        recorder.level(info)
        if callback is not None:
            callback(info)

    unguided = partial(host, model_options=without_guidance(host.model_options))
    # A sampler that calls the model itself, or wants the negative prompt, is guided all the way.
    stepwise = base_sampler is None or not (base_sampler.calls or base_sampler.needs_negative)
    denoise = Denoiser(model, scales, perturbed_call, lambda: host.x0_cond, unguided if stepwise else None)
    steps = steps_of(base_sampler, host, model, x, sigmas.new_tensor(levels)) if base_sampler else {}
    delta = delta_for(settings, network_dtype(base), x.device)
    with tqdm(total=plan.total, disable=disable, unit="call") as bar:
        out = sample_constrained(
            denoise, x, levels, bound, settings, delta, seed, step_calls=other_calls, callback=level_done, plan=plan,
            samples=samples, **steps,
        )  # fmt: skip
        bar.total = host.calls
    if host.calls < plan.total:  # a residual target was reached, or a mask not active where it would be resampled
        on_call(host.calls, host.calls)
    evals = host.evaluations.pictures // len(x)
    report = recorder.report(calls=host.calls, network_evals=evals, target=settings.residual_target, note=note)
    log.info("Newton constrained sampling: %s", report.summary())
    on_report(report)
    return out


class NewtonKSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER of the host that runs `newton_function`; its options are further arguments of it.

    Args:
        given: the sampler that it drives; it runs as it is where there is nothing to obey.
    """

    def __init__(self, options: dict[str, Any], given: Any = None):
        super().__init__(newton_function, options, getattr(given, "inpaint_options", {}))
        self.given = given

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        sampler = self.given
        if sampler is None or self.extra_options["constraint"] is not None or denoise_mask is not None:
            sampler = comfy.samplers.KSAMPLER(
                newton_function, self.extra_options | {"samples": numbers_of(noise)}, self.inpaint_options
            )
        with remedies_first():
            return sampler.sample(
                model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
            )


def numbers_of(noise: Tensor) -> list[int]:
    """A number for each sample that follows from its starting noise (B, ...), whatever batch it is sampled in.

    So one picture of a batch can be sampled again by itself, at every door. Samples of equal noise are counted.
    """
    seen: Counter[int] = Counter()
    numbers = []
    for sample in noise.float().cpu():
        digest = int.from_bytes(hashlib.blake2b(sample.numpy().tobytes(), digest_size=8).digest(), "little")
        numbers.append(digest + seen[digest])
        seen[digest] += 1
    return numbers


def make_sampler(constraint: ConstraintSpec | None, settings: NewtonSettings, **options: Any) -> NewtonKSampler:
    """Our SAMPLER; `options` are further arguments of `newton_function`."""
    return NewtonKSampler({"constraint": constraint, "settings": settings, **options})
