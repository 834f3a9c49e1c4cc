"""The method as a sampler function of the host."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.samplers
from torch import Tensor
from tqdm.auto import tqdm

from ...sampler import (
    Constraint,
    Denoiser,
    LatentMask,
    NewtonSettings,
    WeightedSum,
    mixed_seed,
    sample_constrained,
)
from ..constraint_spec import ConstraintSpec, LatentSpace
from .scales import check_latent, measured_scales

log = logging.getLogger("newton_constrained_sampling")

# Wrapper keys of the host's step caches: they answer two close inputs alike, and J e would be meaningless.
STEP_CACHES = ("easycache", "lazycache")


def refuse_step_caches(model_options: dict[str, Any]) -> None:
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {})
    for key in (k for kind in wrappers.values() for k in kind if k in STEP_CACHES):
        raise ValueError(
            f"model: it carries the step cache '{key}', which answers two close inputs alike, so the constraint could "
            "not be followed. Connect the model without EasyCache or LazyCache."
        )


def bind_constraint(constraint: ConstraintSpec | None, model_k: Any, x: Tensor, mask: Tensor | None) -> Constraint:
    """The constraint in the sampler's coordinates; without one, the host's mask and latent become it."""
    base = model_k.inner_model.inner_model
    if constraint is not None:
        to_sigma = base.model_sampling.percent_to_sigma
        return constraint.bind(
            LatentSpace(x.shape, x.device, base.process_latent_in, base.process_latent_out, to_sigma)
        )
    return WeightedSum(()) if mask is None else LatentMask(model_k.latent_image, (mask == 0).to(x))


class GivenFirst:
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
    on_call: Callable[[int, int], None] | None = None,
    driver: Callable[..., Tensor] | None = None,
) -> Tensor:
    """`sample_constrained` as a k-diffusion sampler function of the host.

    The host's own mask blending is always switched off (`denoise_mask=None`): it would overwrite the known
    region in every denoiser call and hide the error.

    Args:
        on_call: told the calls done and in all, after each.
        driver: sampler function that takes the step from one noise level to the next instead of ours.
    """
    check_latent(x.shape)
    refuse_step_caches(extra_args["model_options"])
    bound = bind_constraint(constraint, model_k, x, extra_args["denoise_mask"])
    if bound == WeightedSum(()):
        settings = replace(settings, iterations=0)
    base, seed, levels = model_k.inner_model.inner_model, extra_args.get("seed") or 0, sigmas.tolist()
    extra_args = extra_args | {"denoise_mask": None}
    delta = settings.delta_for(base.manual_cast_dtype or base.get_dtype())
    residuals = []

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        x0 = model_k(x, sigma, **extra_args)
        bar.update()
        if on_call is not None:
            on_call(bar.n, bar.total)
        return x0

    def drive(i: int, x: Tensor, x0: Tensor) -> Tensor:
        # A sampler's noise starts anew with its seed, so every level gets one of its own.
        extra = extra_args | {"seed": mixed_seed(seed, i)}
        return driver(GivenFirst(model_k, model, x0), x, sigmas[i : i + 2], extra_args=extra, disable=True)

    def level_done(info: dict[str, Any]) -> None:
        residuals.append(info["residual"].mean())
        if callback is not None:
            callback(info)

    denoise, advance = Denoiser(model, measured_scales(base.model_sampling)), drive if driver else None
    with tqdm(total=settings.calls(len(levels) - 1), disable=disable, unit="call") as bar:
        out = sample_constrained(denoise, x, levels, bound, settings, delta, seed, advance, level_done)
    log_run(settings, residuals, bar.n)
    return out


def log_run(settings: NewtonSettings, residuals: list[Tensor], calls: int) -> None:
    if settings.iterations and residuals:
        log.info(
            "Newton constrained sampling: %d levels, %d model calls, residual %.4f at first, %.4f at last",
            len(residuals), calls, residuals[0], residuals[-1],
        )  # fmt: skip


def make_sampler(
    constraint: ConstraintSpec | None, settings: NewtonSettings, on_call: Callable[[int, int], None] | None = None
) -> comfy.samplers.KSAMPLER:
    options = {"constraint": constraint, "settings": settings, "on_call": on_call}
    return comfy.samplers.KSAMPLER(newton_function, options)
