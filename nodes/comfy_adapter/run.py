"""The host's own sampling run around the method."""

from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from torch import Tensor

from ...sampler import NewtonSettings, Report
from ..constraint_spec import ConstraintSpec
from .sampling import make_sampler
from .scales import check_latent


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
) -> tuple[Tensor, Report]:
    """Run the host's sampling loop with our sampler; the counterpart of the stock KSampler."""
    if getattr(samples, "is_nested", False):
        raise ValueError(
            "latent_image: it packs several latents (audio and video together), which constrained sampling does not "
            "support. Sample the video latent alone."
        )
    latent_format = model.get_model_object("latent_format")
    check_latent(samples.shape, latent_format)
    samples = comfy.sample.fix_empty_latent_channels(model, samples)
    channels = latent_format.latent_channels
    if samples.shape[1] != channels:
        raise ValueError(
            f"latent_image: it has {samples.shape[1]} channels, but the model works on {channels}. "
            "Encode it with the VAE that belongs to this model."
        )
    sigmas = comfy.samplers.KSampler(model, steps, model.load_device, scheduler=scheduler, denoise=denoise).sigmas
    noise = comfy.sample.prepare_noise(samples, seed, batch_index)
    progress, reports = NodeProgress(model), [Report()]  # without any noise level the sampler is never started
    sampler = make_sampler(constraint, settings, progress.call, reports.append)
    out = comfy.sample.sample_custom(
        model, noise, cfg, sampler, sigmas, positive, negative, samples,
        callback=progress.level, disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=seed,
    )  # fmt: skip
    return out, reports[-1]


def scheduler_names() -> list[str]:
    return list(comfy.samplers.SCHEDULER_NAMES)
