"""The host's model as the method calls it."""

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sampler_helpers
import torch
from torch import Tensor

from .guidance import CondCapture
from .guidance_state import GuidanceState
from .step_caches import without_step_caches


class HostDenoiser:
    """x0 = D(x; sigma), one guided evaluation at a time, inside a sampling run of the host.

    Before each call a cancelled run stops, guidance functions get back what they remembered when the noise level
    began, and the model is on its device. The host's blending with a noise mask is off (`denoise_mask=None`): it would
    overwrite the known region of x and x0 and hide the error. Step caches that answer close inputs alike are bypassed.

    Args:
        model_k, extra_args: what the host's KSAMPLER hands to its sampler function.
        on_call: told the calls so far, after each.
        step_caches: leave step caches in place; for runs in which no close inputs are compared.
        models: as they were loaded before anything could push them out; None: as they are now.

    Attributes:
        calls: NFE so far.
        x0, x0_cond: the last call's estimate, and the one before guidance; None where the guider tells none.
        extra_args: for samplers of the host that call the model themselves.
    """

    def __init__(
        self,
        model_k: Any,
        extra_args: dict[str, Any],
        on_call: Callable[[int], None] = lambda calls: None,
        step_caches: bool = False,
        models: "LoadedModels | None" = None,
    ):
        options = extra_args["model_options"]
        options = options if step_caches else without_step_caches(options)
        self.state, self.evaluations, self.cond = GuidanceState(options), Evaluations(), CondCapture()
        self.models = models or LoadedModels(model_k.inner_model)
        self.model_k, self.on_call, self.calls = model_k, on_call, 0
        watched = self.cond.watch(self.evaluations.watch(options))
        self.extra_args = extra_args | {"denoise_mask": None, "model_options": watched}

    @property
    def model_options(self) -> dict[str, Any]:
        return self.extra_args["model_options"]

    @property
    def x0_cond(self) -> Tensor | None:
        return self.cond.x0

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict[str, Any] | None = None) -> Tensor:
        """x0 of x (B, C, ..., H, W) at sigma (B,); other model options must be made from this denoiser's."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.state.before_call(sigma)
        self.models.keep_loaded(x.shape)
        options = self.model_options if model_options is None else model_options
        self.x0 = self.model_k(x, sigma, **self.extra_args | {"model_options": options})
        self.calls += 1
        self.on_call(self.calls)
        return self.x0


class Evaluations:
    """Counts what the network evaluates, in pictures: a call under classifier-free guidance is two for each.

    Video models that take known frames without noise (Wan 2.2 5B, LTX, Cosmos Predict2) are told that all of x is
    noisy, as it is here: the host would tell them of a noise mask.
    """

    def __init__(self):
        self.pictures = 0

    def __call__(self, executor: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.pictures += len(x)
        mask = kwargs.get("denoise_mask")
        if mask is not None:
            kwargs["denoise_mask"] = mask.clamp(min=1).where(mask >= 0, mask)  # negative: a frame that is left out
        return executor(x, *args, **kwargs)

    def watch(self, model_options: dict[str, Any]) -> dict[str, Any]:
        """A copy of the options with which every evaluation is counted."""
        options = comfy.model_patcher.create_model_options_clone(model_options)
        comfy.patcher_extension.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.APPLY_MODEL, "newton_evaluations", self, options, is_model_options=True
        )
        return options


class LoadedModels:
    """What a run has on its device: the model, and ControlNets and others that its conditioning brings along.

    The VAE of a constraint pushes them out, in whole or in part, where memory is short.
    """

    def __init__(self, guider: Any):
        self.guider = guider
        models = [guider.model_patcher, *guider.loaded_models]
        self.models = models + [patch for model in models for patch in model.model_patches_models()]
        self.sizes = self.loaded_sizes()

    def loaded_sizes(self) -> list[int]:
        return [model.loaded_size() for model in self.models]

    def keep_loaded(self, shape: torch.Size) -> None:
        """Load again what has lost weights since, as the host does before sampling latents of this shape."""
        loaded = comfy.model_management.loaded_models()
        shrunk = any(now < then for now, then in zip(self.loaded_sizes(), self.sizes, strict=True))
        if shrunk or any(all(model is not other for other in loaded) for model in self.models):
            guider = self.guider
            comfy.sampler_helpers.prepare_sampling(guider.model_patcher, shape, guider.conds, guider.model_options)
            self.sizes = self.loaded_sizes()
