"""The only file that knows ComfyUI's internals.

Host API used, all present since 2024 or earlier: comfy.samplers.KSAMPLER and KSampler.sigmas,
comfy.sample.prepare_noise / fix_empty_latent_channels / sample_custom, model_sampling.noise_scaling,
BaseModel.process_latent_in / get_dtype / manual_cast_dtype, comfy.utils.ProgressBar,
latent_preview.get_previewer, model_management.throw_exception_if_processing_interrupted.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..sampler import Constraint, Denoiser, LatentMask, NewtonSettings, Scales, sample_constrained

log = logging.getLogger("newton_constrained_sampling")


@dataclass(frozen=True)
class LatentSpace:
    """Where a constraint is to act: the sampler's own coordinates of one run.

    Attributes:
        shape: of the latent being sampled, (B, C, ..., h, w).
        device: of the sampler.
        process_in: from a VAE's latent to the sampler's coordinates.
    """

    shape: torch.Size
    device: torch.device
    process_in: Callable[[Tensor], Tensor]


class ConstraintSpec(Protocol):
    """What travels over a CONSTRAINT socket: it becomes a constraint once the model is known."""

    def bind(self, space: LatentSpace) -> Constraint: ...


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


def newton_function(
    model_k: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Callable[[dict[str, Any]], None] | None,
    disable: bool | None,
    constraint: ConstraintSpec | None,
    settings: NewtonSettings,
    on_call: Callable[[], None] | None = None,
) -> Tensor:
    """`sample_constrained` as a k-diffusion sampler function of the host.

    The host's own mask blending is always switched off (`denoise_mask=None`): it would overwrite the known
    region in every denoiser call and hide the error. Without a constraint its mask and latent become one.
    """
    check_latent(x.shape)
    base = model_k.inner_model.inner_model
    denoise_mask = extra_args.get("denoise_mask")
    if constraint is not None:
        bound = constraint.bind(LatentSpace(x.shape, x.device, base.process_latent_in))
    elif denoise_mask is not None:
        bound = LatentMask(model_k.latent_image, (denoise_mask == 0).to(x))
    else:
        bound = None
    extra_args = extra_args | {"denoise_mask": None}

    levels = sigmas.tolist()
    total = settings.calls(len(levels) - 1) if bound is not None else len(levels) - 1
    with tqdm(total=total, disable=disable, unit="call") as bar:

        def model(x: Tensor, sigma: Tensor) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            x0 = model_k(x, sigma, **extra_args)
            bar.update()
            if on_call is not None:
                on_call()
            return x0

        residuals = []

        def level_done(info: dict[str, Any]) -> None:
            if info["residual"] is not None:
                residuals.append(info["residual"])
            if callback is not None:
                callback(info)

        denoise = Denoiser(model, measured_scales(base.model_sampling))
        delta = settings.delta_for(base.manual_cast_dtype or base.get_dtype())
        out = sample_constrained(
            denoise, x, levels, bound, settings, delta, seed=extra_args.get("seed") or 0, callback=level_done
        )
    if residuals:
        first, last = residuals[0].mean().item(), residuals[-1].mean().item()
        log.info(
            "Newton constrained sampling: %d levels, %d model calls, residual %.4f at the first and %.4f at the "
            "last level", len(levels) - 1, denoise.calls, first, last,
        )  # fmt: skip
    return out


def make_sampler(
    constraint: ConstraintSpec | None, settings: NewtonSettings, on_call: Callable[[], None] | None = None
) -> comfy.samplers.KSAMPLER:
    options = {"constraint": constraint, "settings": settings, "on_call": on_call}
    return comfy.samplers.KSAMPLER(newton_function, options)


class NodeProgress:
    """The node's progress bar, one tick per model call, with the host's latent preview once a level."""

    def __init__(self, model: Any, total: int):
        self.bar, self.total, self.done = comfy.utils.ProgressBar(total), total, 0
        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def call(self) -> None:
        self.done += 1
        self.bar.update_absolute(self.done, self.total)

    def level(self, step: int, x0: Tensor, x: Tensor, levels: int) -> None:
        if self.previewer:
            preview = self.previewer.decode_latent_to_preview_image("JPEG", x0)
            self.bar.update_absolute(self.done, self.total, preview)


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
    levels = max(len(sigmas) - 1, 0)  # denoise 0 gives no noise level at all
    progress = NodeProgress(model, settings.calls(levels) if constraint is not None else levels)
    return comfy.sample.sample_custom(
        model, noise, cfg, make_sampler(constraint, settings, progress.call), sigmas, positive, negative, samples,
        callback=progress.level, disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed,
    )  # fmt: skip


def scheduler_names() -> list[str]:
    return list(comfy.samplers.SCHEDULER_NAMES)
