"""The only file that knows ComfyUI's internals.

Host API used, present since 2024 or earlier: comfy.samplers.KSAMPLER and KSampler.sigmas,
comfy.sample.prepare_noise / fix_empty_latent_channels / sample_custom, model_sampling.noise_scaling and
percent_to_sigma, BaseModel.process_latent_in / get_dtype / manual_cast_dtype, comfy.utils.ProgressBar,
latent_preview.get_previewer, model_management.throw_exception_if_processing_interrupted; since January 2025:
comfy.patcher_extension and ModelPatcher.add_wrapper_with_key.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..sampler import (
    Constraint,
    Denoiser,
    LatentMask,
    NewtonSettings,
    Scales,
    WeightedSum,
    mixed_seed,
    sample_constrained,
)
from .constraint_spec import ConstraintSpec, LatentSpace

log = logging.getLogger("newton_constrained_sampling")
WRAPPER_KEY = "newton_constrained_sampling"


def pixel_codec(vae: Any, space: LatentSpace) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], float]:
    """Decode and encode between x0 and pictures (B, 3, H, W) in [0, 1], and the step h of the encoder's difference.

    In half precision a smaller step than .1 drowns in rounding.
    """

    def decode(x0: Tensor) -> Tensor:
        return vae.decode(space.process_out(x0)).movedim(-1, 1).to(space.device, torch.float32)  # BHWC -> BCHW

    def encode(picture: Tensor) -> Tensor:
        return space.process_in(vae.encode(picture.movedim(1, -1)).to(space.device, torch.float32))

    return decode, encode, 0.005 if vae.vae_dtype == torch.float32 else 0.1


def measured_scales(model_sampling: Any) -> Callable[[float], Scales]:
    """alpha and s of any model family, read off the host's linear `noise_scaling`."""

    def scales(sigma: float) -> Scales:
        # Fresh tensors each time: some families write into them.
        level = torch.tensor(sigma)
        alpha = model_sampling.noise_scaling(level, torch.zeros(1, 1), torch.ones(1, 1), False)
        s = model_sampling.noise_scaling(level, torch.ones(1, 1), torch.zeros(1, 1), False)
        if sigma > 0 and float(s) == 0:
            raise ValueError(
                f"model: {type(model_sampling).__name__} adds no noise to the latent, so there is nothing to correct. "
                "Image-to-image models without a noise schedule are not supported; use a diffusion or flow model."
            )
        return Scales(float(alpha), float(s))

    return scales


def check_latent(shape: torch.Size) -> None:
    if len(shape) == 3:
        raise ValueError(
            f"latent_image: its shape {tuple(shape)} is that of an audio latent or a packed audio-video latent; "
            "constrained sampling works on pictures (B, C, H, W) and video (B, C, T, H, W)."
        )


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


# Samplers of the host whose steps need nothing of earlier levels; the others would lose their history.
SINGLE_STEP = ("euler", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "ddpm", "lcm",
               "seeds_2", "seeds_3")  # fmt: skip


def constrain_sampler(sampler: Any, constraint: ConstraintSpec, settings: NewtonSettings) -> comfy.samplers.KSAMPLER:
    """A SAMPLER that corrects x before each level of the given one, which is left as it is."""
    if not isinstance(sampler, comfy.samplers.KSAMPLER):
        raise ValueError(
            f"sampler: a {type(sampler).__name__} cannot be driven one noise level at a time. Use one of "
            f"{', '.join(SINGLE_STEP)}, or the SAMPLER of the Newton Sampler node."
        )
    function, options = sampler.sampler_function, sampler.extra_options
    if function is newton_function:
        if options["constraint"] is not None:
            raise ValueError(
                "constraint: the model and the sampler both carry one. Join them with Combine Constraints and connect "
                "the result in one place."
            )
        return comfy.samplers.KSAMPLER(newton_function, options | {"constraint": constraint})
    name = function.__name__.removeprefix("sample_")
    if name not in SINGLE_STEP:
        raise ValueError(
            f"sampler_name: '{name}' uses earlier noise levels, or more than the model's estimate, and would be wrong "
            f"after a correction. Use one of {', '.join(SINGLE_STEP)}; euler_ancestral is the best start."
        )
    driven = {"constraint": constraint, "settings": settings, "driver": partial(function, **options)}
    return comfy.samplers.KSAMPLER(newton_function, driven, sampler.inpaint_options)


def constrain_model(model: Any, constraint: ConstraintSpec, settings: NewtonSettings) -> Any:
    """A clone of MODEL whose sampling obeys the constraint, whichever node samples it."""

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        sampler = constrain_sampler(executor.class_obj, constraint, settings)
        # The sampler of a graph is cached: the chain goes on with a new one instead of changing it.
        chain = comfy.patcher_extension.WrapperExecutor.new_class_executor(
            sampler.sample, sampler, executor.wrappers, executor.idx + 1
        )
        return chain.execute(*args, **kwargs)

    model = model.clone()
    model.remove_wrappers_with_key(comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE, WRAPPER_KEY)
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE, WRAPPER_KEY, wrapper)
    return model


class NodeProgress:
    """The node's progress bar, one tick per model call, with the host's latent preview once a level."""

    def __init__(self, model: Any):
        self.bar = comfy.utils.ProgressBar(1)
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def call(self, done: int, total: int) -> None:
        self.bar.update_absolute(done, total)

    def level(self, step: int, x0: Tensor, x: Tensor, levels: int) -> None:
        if self.previewer:
            preview = self.previewer.decode_latent_to_preview_image("JPEG", x0)
            self.bar.update_absolute(self.bar.current, self.bar.total, preview)


def sample_latent(
    model: Any,
    positive: Any,
    negative: Any,
    samples: Tensor,
    constraint: ConstraintSpec | None,
    settings: NewtonSettings,
    seed: int,
    steps: int,
    cfg: float,
    scheduler: str,
    denoise: float,
    batch_index: list[int] | None = None,
) -> Tensor:
    """Run the host's sampling loop with our sampler; the counterpart of the stock KSampler."""
    if getattr(samples, "is_nested", False):
        raise ValueError(
            "latent_image: it packs several latents (audio and video together), which constrained sampling does not "
            "support. Sample the video latent alone."
        )
    check_latent(samples.shape)
    samples = comfy.sample.fix_empty_latent_channels(model, samples)
    channels = model.get_model_object("latent_format").latent_channels
    if samples.shape[1] != channels:
        raise ValueError(
            f"latent_image: it has {samples.shape[1]} channels, but the model works on {channels}. "
            "Encode it with the VAE that belongs to this model."
        )
    sigmas = comfy.samplers.KSampler(model, steps, model.load_device, scheduler=scheduler, denoise=denoise).sigmas
    noise = comfy.sample.prepare_noise(samples, seed, batch_index)
    progress = NodeProgress(model)
    return comfy.sample.sample_custom(
        model, noise, cfg, make_sampler(constraint, settings, progress.call), sigmas, positive, negative, samples,
        callback=progress.level, disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed,
    )  # fmt: skip


def scheduler_names() -> list[str]:
    return list(comfy.samplers.SCHEDULER_NAMES)
