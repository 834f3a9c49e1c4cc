"""The method as a sampler function of the host."""

import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

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
    levels_of,
    mixed_seed,
    sample_constrained,
)
from ..constraint_spec import ConstraintSpec, LatentSpace
from .guidance import FrozenGuidance
from .host_denoiser import HostDenoiser, LoadedModels
from .noise_mask import noise_mask_weights, weights_over_time
from .precision import delta_for
from .run_checks import check_run
from .scales import check_latent, measured_scales

log = logging.getLogger("newton_constrained_sampling")


def bind_constraint(
    constraint: ConstraintSpec | None,
    model_k: Any,
    x: Tensor,
    raw_mask: Tensor | None,
    mask: Tensor | None,
    model_options: dict[str, Any],
    seed: int,
    samples: Sequence[int],
    batch_index: Sequence[int] | None,
) -> Constraint | WeightedSum:
    """The constraint in the sampler's coordinates; without one, the latent's noise mask becomes it."""
    base = model_k.inner_model.inner_model
    weights_at = weights_over_time(model_options, model_k.inner_model, model_k.sigmas)
    if constraint is not None:
        space = LatentSpace(
            x.shape, x.device, base.process_latent_in, base.process_latent_out, base.model_sampling.percent_to_sigma,
            seed, samples, batch_index, weights_at,
        )  # fmt: skip
        return constraint.bind(space)
    weights = noise_mask_weights(raw_mask, mask, x.shape, weights_at)
    if weights is None or not weights.any():
        return WeightedSum(())
    return LatentMask(model_k.latent_image, weights.to(x), weights_at)


class CachedFirstCall:
    """A host model whose first call is answered with an estimate that is already known."""

    def __init__(self, model_k: Any, model: Callable[[Tensor, Tensor], Tensor], x0: Tensor):
        self.model_k, self.model, self.given = model_k, model, [x0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model_k, name)

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        return self.given.pop() if self.given else self.model(x, sigma)


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
    base_sampler: Callable[..., Tensor] | None = None,
    base_calls: int = 0,
) -> Tensor:
    """`sample_constrained` as a k-diffusion sampler function of the host.

    Args:
        on_call: told the calls done and in all, after each; in all is corrected at the end.
        on_report: given the report of the run at its end.
        raw_mask: the latent's noise mask before the host interpolates it; a constraint has precedence.
        samples: the number of each sample in the run's noise, see `numbers_of`; None counts from 0.
        batch_index: the latents' places in the batch that they were taken from.
        base_sampler: sampler function that takes the step from one noise level to the next instead of ours; with
            nothing to obey it runs as it is.
        base_calls: what it calls the model for beyond the estimate it is given, at each level but a last one of 0.
    """
    if len(sigmas) < 2:
        return x  # no step to take
    guider, base = model_k.inner_model, model_k.inner_model.inner_model
    check_latent(x.shape, base.latent_format)
    check_run(guider, x, sigmas, extra_args["denoise_mask"])
    models = LoadedModels(guider)  # before a constraint's VAE can push them out
    seed, samples = extra_args.get("seed") or 0, samples or range(len(x))
    mask, options = extra_args["denoise_mask"], extra_args["model_options"]
    bound = bind_constraint(constraint, model_k, x, raw_mask, mask, options, seed, samples, batch_index)
    nothing = bound == WeightedSum(())
    if nothing and base_sampler is not None:
        return base_sampler(model_k, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)
    levels, scales = settings.with_restarts(sigmas.tolist()), measured_scales(base.model_sampling)
    other_calls = base_calls * sum(cur > nxt > 0 for cur, nxt in itertools.pairwise(levels))
    plan = Plan(bound, settings, levels_of(levels, scales), other_calls)
    recorder = Recorder(plan, x)

    def tick(calls: int) -> None:
        bar.update()  # counts nothing where progress bars are switched off
        on_call(calls, plan.total)

    host = HostDenoiser(model_k, extra_args, tick, nothing, models)
    frozen = FrozenGuidance(host, host.model_options) if settings.conditional_only else None
    model, perturbed_call = (frozen.model, frozen.perturbed_call) if frozen else (host, None)

    def base_step(base_sampler: Callable[..., Tensor], i: int, x: Tensor, x0: Tensor) -> Tensor:
        # A sampler's noise starts anew with its seed, so every level gets one of its own.
        extra = host.extra_args | {"seed": mixed_seed(seed, i)}
        return base_sampler(
            CachedFirstCall(model_k, model, x0), x, sigmas.new_tensor(levels[i : i + 2]), extra_args=extra, disable=True
        )

    def level_done(info: dict[str, Any]) -> None:
        recorder.level(info)
        if callback is not None:
            callback(info)

    denoise = Denoiser(model, scales, perturbed_call, lambda: host.x0_cond)
    step = None if base_sampler is None else partial(base_step, base_sampler)
    delta = delta_for(settings, base.manual_cast_dtype or base.get_dtype(), x.device)
    with tqdm(total=plan.total, disable=disable, unit="call") as bar:
        out = sample_constrained(
            denoise, x, levels, bound, settings, delta, seed, step, other_calls, level_done, plan, samples
        )
        bar.total = host.calls
    if host.calls < plan.total:  # a residual target was reached, or a mask not active where it would be resampled
        on_call(host.calls, host.calls)
    evals = host.evaluations.pictures // len(x)
    report = recorder.report(calls=host.calls, network_evals=evals, target=settings.residual_target)
    log.info("Newton constrained sampling: %s", report.summary())
    on_report(report)
    return out


class NewtonKSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER of the host that runs `newton_function`; its options are further arguments of it."""

    def __init__(self, options: dict[str, Any], inpaint_options: dict[str, Any] | None = None):
        super().__init__(newton_function, options, inpaint_options or {})

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor, *args: Any,
        **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        numbered = comfy.samplers.KSAMPLER(
            newton_function, self.extra_options | {"samples": numbers_of(noise)}, self.inpaint_options
        )
        return numbered.sample(model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs)


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
