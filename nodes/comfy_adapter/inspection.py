"""The guided model of the host and its derivatives, at chosen noise levels instead of along a sampling run."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ...sampler import NewtonSettings, Scales
from ...sampler.jacobian import Function, SavedCopies, exact_product, transposed
from ..constraint_spec import LatentSpace
from .guider import Progress
from .host_denoiser import HostDenoiser
from .model_patch import unconstrained
from .precision import delta_for, network_dtype
from .scales import check_latent, measured_scales
from .weights import free_memory, with_copied_weights

GIB = 2**30
# Peak of a gradient over what autograd keeps for it: 1.5 with the shipped network on a CPU.
GRADIENT_PEAK = 1.7
# Latents on which that is measured: it grows with the number of cells, under plain attention with its square.
SIDES = (8, 16, 24)


class NoGradient(Exception):
    """Autograd does not get through this model here; the message says why."""


@contextmanager
def differentiating() -> Iterator[None]:
    """Outside inference mode; what autograd cannot do, or has not the memory for, is a `NoGradient`."""
    try:
        with torch.inference_mode(False):
            yield
    except RuntimeError as e:
        raise NoGradient(str(e).strip().split("\n")[0]) from None


class Inspection:
    """The guided model inside a run of the host.

    Attributes:
        scales: of the noisy input at a sigma.
        space: coordinates of the run.
        dtype: precision of the network.
    """

    def __init__(self, model_k: Any, x: Tensor, extra_args: dict[str, Any], tick: Callable[[], None]):
        self.guider, self.tick, self.guided = model_k.inner_model, tick, HostDenoiser(model_k, extra_args)
        base = self.guider.inner_model
        self.network, self.sampling = base.diffusion_model, base.model_sampling
        self.scales: Callable[[float], Scales] = measured_scales(base.model_sampling)
        to_sigma = base.model_sampling.percent_to_sigma
        self.space = LatentSpace(x.shape, x.device, base.process_latent_in, base.process_latent_out, to_sigma)
        self.dtype = network_dtype(base)
        self.told: torch.Size | None = None  # shape for which there is room

    @cached_property
    def differentiable(self) -> Callable[[Tensor, Tensor], Tensor]:
        patcher = self.guider.model_patcher
        if getattr(patcher, "is_dynamic", lambda: False)() and patcher.patches:
            raise NoGradient("ComfyUI streams the weights of this model, and its LoRAs would be left out")
        weights = sum(p.nbytes for p in self.network.parameters())
        self.make_room(weights, "a copy of its weights")
        return with_copied_weights(self.network, self.guided, self.space.device)

    def at(self, sigma: float) -> Function:
        """x0(x) at one noise level, (B, C, h, w)."""

        def x0(x: Tensor) -> Tensor:
            self.tick()
            return self.guided(x, x.new_full((len(x),), sigma))

        return x0

    def differentiable_at(self, sigma: float) -> Function:
        def x0(x: Tensor) -> Tensor:
            return self.differentiable(x, torch.full((len(x),), sigma, device=x.device))

        return x0

    def exact_product(self, x: Tensor, sigma: float, v: Tensor) -> Tensor:
        """J v by forward-mode differentiation.

        Raises:
            NoGradient: an operation of the network has no forward-mode derivative, or memory is short.
        """
        self.tick()
        with differentiating(), torch.no_grad():
            return exact_product(self.differentiable_at(sigma), x.clone(), v.clone())

    def transposed(self, x: Tensor, sigma: float) -> tuple[Tensor, Function]:
        """x0, and the map from v to J^T v.

        Raises:
            NoGradient: an operation of the network has no derivative, or memory is short.
        """
        with differentiating():
            x0_at = self.differentiable_at(sigma)
            if self.told != x.shape:
                self.make_room(GRADIENT_PEAK * len(x) * gradient_bytes(x0_at, x), "the gradient")
                self.told = x.shape
            self.tick()
            x0, product = transposed(x0_at, x.clone())

        def jtv(v: Tensor) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            self.tick()
            with differentiating():
                return product(v.clone())

        return x0, jtv

    def make_room(self, needed: float, what: str) -> None:
        comfy.model_management.load_models_gpu([self.guider.model_patcher], memory_required=needed)
        free = free_memory(self.guider.model_patcher, self.space.device)
        if free < needed:
            raise NoGradient(
                f"{what} needs about {needed / GIB:.1f} GB, but {free / GIB:.1f} GB are free; a smaller picture takes "
                "less"
            )

    def delta(self, settings: NewtonSettings) -> float:
        """The perturbation of the forward difference under these settings."""
        return delta_for(settings, self.dtype, self.space.device)

    def sigma_at(self, name: str, ratio: float) -> float:
        return sigma_at(self.sampling, name, ratio)


def sigma_at(model_sampling: Any, name: str, ratio: float) -> float:
    """The model's sigma at which noise is `ratio` times the signal, s / alpha.

    Raises:
        ValueError: the model was not trained for this level; `name` is that of the user's input.
    """
    scales = measured_scales(model_sampling)

    def ratio_at(sigma: float) -> float:
        alpha, s, _ = scales(sigma)
        return s / alpha if alpha > 0 else math.inf

    low, high = float(model_sampling.sigma_min), float(model_sampling.sigma_max)
    if not ratio_at(low) <= ratio <= ratio_at(high):
        raise ValueError(
            f"{name}: {ratio:g} is outside of what the model was trained for: noise of {ratio_at(low):.3g} to "
            f"{ratio_at(high):.3g} times the signal. Choose a level between them."
        )
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if ratio_at(middle) < ratio else (low, middle)
    return high


def gradient_bytes(x0_at: Function, x: Tensor) -> float:
    """What autograd keeps for the gradient of one sample of x (B, C, h, w), told by those of small latents."""

    def kept(height: int, width: int) -> int:
        saved = SavedCopies()
        with torch.enable_grad(), saved:
            _graph = x0_at(torch.zeros(1, x.shape[1], height, width, device=x.device, requires_grad=True))
        return saved.nbytes

    height, width = x.shape[-2:]
    sizes = [(n, n) for n in SIDES if n <= min(height, width)] or [(height, width)]
    areas = torch.tensor([float(h * w) for h, w in sizes], dtype=torch.float64)
    powers = torch.arange(len(sizes)) if len(sizes) > 1 else torch.ones(1)
    measured = torch.tensor([kept(*size) for size in sizes], dtype=torch.float64)
    factors = torch.linalg.solve(areas[:, None] ** powers, measured)
    return float((factors * float(height * width) ** powers).sum())


def inspect_model(
    model: Any,
    positive: Any,
    negative: Any,
    cfg: float,
    shape: torch.Size,
    calls: int,
    method: Callable[[Inspection], None],
) -> None:
    """Run `method` inside one sampling run of the host, with its patches, hooks, ControlNets and offloading.

    Args:
        shape: of the latents, (B, C, h, w).
        calls: model calls and backward passes of the method, for the progress bar.
    """
    latent_format = model.get_model_object("latent_format")
    if latent_format.latent_dimensions != 2:
        raise ValueError("model: it makes video or audio, and this node looks at pictures. Use a picture model.")
    check_latent(shape, latent_format)
    if shape[1] != latent_format.latent_channels:
        raise ValueError(
            f"latent: it has {shape[1]} channels, but the model works on {latent_format.latent_channels}. Encode the "
            "picture with the VAE that belongs to this model."
        )

    def function(
        model_k: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, disable: bool | None
    ) -> Tensor:
        progress = Progress(calls, len(x))
        with progress.console:
            method(Inspection(model_k, x, extra_args, progress.tick))
        return x

    guider = comfy.samplers.CFGGuider(unconstrained(model))
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    empty = torch.zeros(shape)
    levels = torch.tensor([float(model.get_model_object("model_sampling").sigma_max), 0.0])
    guider.sample(empty, empty, comfy.samplers.KSAMPLER(function), levels, disable_pbar=True, seed=0)
