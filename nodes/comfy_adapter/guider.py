"""A sampling run of the host in which a method calls the model with several prompts."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ...sampler import Denoiser, NewtonSettings
from ..constraint_spec import LatentSpace
from .host_denoiser import HostDenoiser
from .model_patch import unconstrained
from .precision import delta_for, network_dtype
from .scales import measured_scales

log = logging.getLogger("newton_constrained_sampling")

PREVIEW = 256  # pixels


class PromptGuider(comfy.samplers.CFGGuider):
    """Classifier-free guidance by one of several prompts, that of number `current`."""

    current = 0

    def set_prompts(self, prompts: Sequence[Any], negative: Any) -> None:
        self.inner_set_conds({"negative": negative} | {f"prompt_{i}": p for i, p in enumerate(prompts)})

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, self.conds["negative"], self.conds[f"prompt_{self.current}"], self.cfg,
            model_options=model_options or {}, seed=seed,
        )  # fmt: skip


class Progress:
    """The node's progress bar and the console's, one tick per model call, announced before the first."""

    def __init__(self, calls: int, batch: int):
        log.info("%d model calls on %d latents each", calls, batch)
        self.bar = comfy.utils.ProgressBar(calls)
        self.console = tqdm(total=calls, unit="call", disable=not comfy.utils.PROGRESS_BAR_ENABLED)
        self.bar.update_absolute(0, calls)

    def tick(self) -> None:
        self.console.update()
        self.bar.update(1)

    def show(self, mask: Tensor) -> None:
        """A mask (h, w) in [0, 1] as the node's preview picture."""
        picture = Image.fromarray((255 * mask).round().byte().cpu().numpy())
        size = (PREVIEW, max(1, PREVIEW * picture.height // picture.width))
        shown = picture.resize(size, Image.Resampling.NEAREST)
        self.bar.update_absolute(self.bar.current, self.bar.total, ("JPEG", shown, PREVIEW))


class MultiPromptRun(NamedTuple):
    """What a method gets to work with inside the run.

    Attributes:
        denoisers: one for each prompt, at a guidance scale.
        space: coordinates of the run.
        delta: the perturbation of the forward difference under these settings.
        show: makes a mask (h, w) in [0, 1] the node's preview.
    """

    denoisers: Callable[[float], list[Denoiser]]
    space: LatentSpace
    delta: Callable[[NewtonSettings], float]
    show: Callable[[Tensor], None]


def samples_at_once(model: Any, shape: torch.Size, samples: int) -> int:
    """How many of `samples` batches of latents of this shape (B, C, h, w) fit into memory beside the model, >= 1."""
    free = comfy.model_management.get_total_memory(model.load_device) - model.model_size()
    fitting = (n for n in range(samples, 1, -1) if model.memory_required([n * shape[0], *shape[1:]]) < free / 2)
    return next(fitting, 1)


def simple_levels(model: Any, steps: int) -> list[float]:
    """Noise levels of the host's scheduler `simple`, from pure noise to 0."""
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps).tolist()


def sample_with_prompts(
    model: Any,
    prompts: Sequence[Any],
    negative: Any,
    shape: torch.Size,
    levels: list[float],
    seed: int,
    calls: int,
    method: Callable[[MultiPromptRun], None],
) -> None:
    """Run `method` inside one sampling run of the host, with its patches, hooks, ControlNets and offloading.

    Args:
        shape: of the largest batch that the model is given at once, (N, C, h, w); larger ones are split.
        levels: noise levels that the host is told of.
        calls: what the progress bar announces.
    """
    channels = model.get_model_object("latent_format").latent_channels
    if shape[1] != channels:
        raise ValueError(
            f"vae: its latents have {shape[1]} channels, but the model works on {channels}. Use the VAE that belongs "
            "to this model."
        )

    def function(
        model_k: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, disable: bool | None
    ) -> Tensor:
        progress = Progress(calls, len(x))
        host, guider = HostDenoiser(model_k, extra_args, lambda calls: progress.tick()), model_k.inner_model
        base = guider.inner_model
        x0_cond = None  # of all parts of the last batch

        def denoise(prompt: int, cfg: float, x: Tensor, sigma: Tensor) -> Tensor:
            nonlocal x0_cond
            guider.current, guider.cfg = prompt, cfg
            x0, cond = [], []
            for part, level in zip(x.split(shape[0]), sigma.split(shape[0]), strict=True):
                x0.append(host(part, level))
                cond.append(host.x0_cond)
            x0_cond = torch.cat(cond)
            return torch.cat(x0)

        def denoisers(cfg: float) -> list[Denoiser]:
            models = [partial(denoise, i, cfg) for i in range(len(prompts))]
            return [Denoiser(model, scales, conditional=lambda: x0_cond) for model in models]

        def delta(settings: NewtonSettings) -> float:
            return delta_for(settings, network_dtype(base), x.device)

        scales, to_sigma = measured_scales(base.model_sampling), base.model_sampling.percent_to_sigma
        space = LatentSpace(x.shape, x.device, base.process_latent_in, base.process_latent_out, to_sigma)
        with progress.console:
            method(MultiPromptRun(denoisers, space, delta, progress.show))
        return x

    guider = PromptGuider(unconstrained(model))
    guider.set_prompts(prompts, negative)
    empty = torch.zeros(shape)
    sampler = comfy.samplers.KSAMPLER(function)
    guider.sample(empty, empty, sampler, torch.tensor(levels), disable_pbar=True, seed=seed)
