"""The counterpart of the host's KSampler node: its sampling run around the method."""

import inspect
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
from torch import Tensor

from ...sampler import NewtonSettings, Report
from ..constraint_spec import ConstraintSpec
from .progress import NodeProgress, closing_text
from .sampling import make_sampler
from .scales import check_latent

# What nodes that make an empty LATENT say about the VAE they had in mind (hosts of 2026).
RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


def start_samples(model: Any, latent: dict[str, Any]) -> Tensor:
    """The samples of a LATENT; an empty one as the model needs it: channels, frames, and size where the host knows."""
    known = inspect.signature(comfy.sample.fix_empty_latent_channels).parameters
    ratios = {name: latent[name] for name in RATIOS if name in latent and name in known}
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], **ratios)
    channels = model.get_model_object("latent_format").latent_channels
    if samples.shape[1] != channels:
        raise ValueError(
            f"latent_image: it has {samples.shape[1]} channels, but the model works on {channels}. "
            "Encode it with the VAE that belongs to this model."
        )
    return samples


def sample_latent(
    model: Any,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    constraint: ConstraintSpec | None,
    settings: NewtonSettings,
    seed: int,
    steps: int,
    cfg: float,
    scheduler: str,
    denoise: float,
) -> tuple[dict[str, Any], Report]:
    """Run the host's sampling loop with our sampler on a LATENT. The network is told of its noise mask."""
    if getattr(latent["samples"], "is_nested", False):
        raise ValueError(
            "latent_image: it packs several latents (audio and video together), which constrained sampling does not "
            "support. Sample the video latent alone."
        )
    check_latent(latent["samples"].shape, model.get_model_object("latent_format"))
    samples, mask = start_samples(model, latent).float(), latent.get("noise_mask")
    mask = None if mask is None else mask.float()
    sigmas = comfy.samplers.KSampler(model, steps, model.load_device, scheduler=scheduler, denoise=denoise).sigmas
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    progress, reports = NodeProgress(model), [Report()]  # without any noise level the sampler is never started
    sampler = make_sampler(
        constraint, settings, on_call=progress.call, on_report=reports.append, raw_mask=mask,
        batch_index=latent.get("batch_index"),
    )  # fmt: skip
    out = comfy.sample.sample_custom(
        model, noise, cfg, sampler, sigmas, positive, negative, samples, noise_mask=mask, callback=progress.level,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed,
    )  # fmt: skip
    kept = {key: value for key, value in latent.items() if key not in RATIOS}  # no longer an empty latent
    report = reports[-1]
    progress.say(
        closing_text(report.calls, report.seconds, cfg, constrained=constraint is not None or mask is not None)
    )
    return kept | {"samples": out}, report


def scheduler_names() -> list[str]:
    return list(comfy.samplers.SCHEDULER_NAMES)
