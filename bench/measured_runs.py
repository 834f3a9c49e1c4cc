"""Sampler functions run and measured inside ComfyUI's own sampling, on a model of random weights."""

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from live_memory import LiveBytes
from methods import gradient
from pack import sampler
from torch import Tensor

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
DTYPE = torch.bfloat16 if CUDA else torch.float32
ATTENTION = {"context_dim": 768, "num_heads": 8, "num_head_channels": -1, "use_spatial_transformer": True,
             "use_linear_in_transformer": False, "legacy": False}  # fmt: skip
SD15 = ATTENTION | {"num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth_middle": 1,
                    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
                    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]}  # fmt: skip
SMALL = ATTENTION | {"num_res_blocks": [1], "channel_mult": [1], "transformer_depth_middle": -2,
                     "transformer_depth": [1], "transformer_depth_output": [0, 0]}  # fmt: skip
UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "adm_in_channels": None}
XL = UNET | {"adm_in_channels": 2816, "num_classes": "sequential", "context_dim": 2048, "num_head_channels": 64,
             "use_spatial_transformer": True, "use_linear_in_transformer": True, "legacy": False}  # fmt: skip
SDXL = XL | {"num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth_middle": 10,
             "transformer_depth": [0, 0, 2, 2, 10, 10],
             "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10]}  # fmt: skip
SMALL_XL = XL | {"model_channels": 64, "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [0, 1],
                 "transformer_depth_middle": 1, "transformer_depth_output": [0, 0, 1, 1]}  # fmt: skip


def mmdit(depth: int, positions: int) -> dict[str, Any]:
    """SD3's network of that many blocks, 64 channels wide for each."""
    embed = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 64 * depth}}
    return {"in_channels": 16, "patch_size": 2, "depth": depth, "input_size": None, "adm_in_channels": 2048,
            "num_patches": positions**2, "pos_embed_max_size": positions, "pos_embed_scaling_factor": None,
            "context_embedder_config": embed}  # fmt: skip


# Class of the host, full size, small size, width of the text embedding and of the pooled one.
KINDS = {
    "SD1.5": ("SD15", UNET | SD15, UNET | SMALL, 768, 768),
    "SDXL": ("SDXL", SDXL, SMALL_XL, 2048, 1280),
    "SD3": ("SD3", mmdit(24, 192), mmdit(2, 192), 4096, 2048),
}
FAST, NEWTON = sampler.PRESETS["fast"], sampler.NewtonSettings()


def host_modules() -> None:
    """Put the host on sys.path, on a CPU where there is no GPU."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = not CUDA


def random_model(kind: str = "SD1.5", dtype: torch.dtype = DTYPE, held_on: torch.device = DEVICE) -> Any:
    """A MODEL of the host with random weights, of full size on a GPU."""
    host_modules()
    import comfy.model_patcher
    import comfy.supported_models

    name, full, small, *_ = KINDS[kind]
    config = getattr(comfy.supported_models, name)(dict(full if CUDA else small))
    config.set_inference_dtype(dtype, None)
    base = config.get_model({}, device=held_on)
    for weight in base.parameters():
        torch.nn.init.normal_(weight.requires_grad_(False), std=0.02)
    return comfy.model_patcher.ModelPatcher(base, DEVICE, torch.device("cpu"))


def clock() -> float:
    """Seconds; on a CPU those of this process, so that a busy machine does not count."""
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@contextmanager
def peak_memory(into: dict[str, Any], held: int) -> Iterator[None]:
    """Adds `peak_bytes`: of the GPU's allocator, or of the tensors alive on top of `held` bytes of weights."""
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        yield
        into["peak_bytes"] = torch.cuda.max_memory_allocated()
        return
    with LiveBytes() as live:
        yield
    into["peak_bytes"] = held + live.peak


@contextmanager
def waits(into: dict[str, Any]) -> Iterator[None]:
    """Adds `waits`: how often the host waited for the GPU."""
    if not CUDA:
        yield
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        yield
        torch.cuda.set_sync_debug_mode("default")
    into["waits"] = sum("synchroniz" in str(w.message) for w in caught)


class Bench:
    """Runs sampler functions inside the host's own sampling."""

    def __init__(self, kind: str, levels: int, repeats: int, held_on: torch.device = DEVICE):
        self.name = f"{kind} size, random" if CUDA else f"{kind} in small, random"
        self.model, self.levels, self.repeats = random_model(kind, held_on=held_on), levels, repeats
        self.weights = sum(p.nbytes for p in self.model.model.parameters())
        self.channels = self.model.model.latent_format.latent_channels
        *_, text, pooled = KINDS[kind]
        self.prompt = [[torch.zeros(1, 77, text), {"pooled_output": torch.zeros(1, pooled)}]]

    def sample(self, function: Callable[..., Any], batch: int, side: int) -> None:
        import comfy.sample
        import comfy.samplers

        schedule = self.model.get_model_object("model_sampling")
        noise = torch.randn(batch, self.channels, side, side, generator=torch.Generator().manual_seed(0))
        comfy.sample.sample_custom(
            self.model, noise, 1.0, comfy.samplers.KSAMPLER(function),
            comfy.samplers.calculate_sigmas(schedule, "simple", self.levels), self.prompt, self.prompt,
            torch.zeros_like(noise), disable_pbar=True, seed=0,
        )  # fmt: skip

    def measure(self, function: Callable[..., Tensor], batch: int, side: int, grad: bool = False) -> dict[str, Any]:
        """Calls of a run, its `time` and that of one raw call (least of the repeats), and its peak memory."""
        runs, raws, found = [], [], {}

        def run(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: dict, callback: Any, disable: Any) -> Tensor:
            counted = Counted(model_k)
            if not runs:  # the first run of a size also makes the host's and the device's preparations
                function(Counted(model_k), x, sigmas, dict(extra_args), None, True)
            start = clock()
            out = function(counted, x, sigmas, dict(extra_args), None, True)
            runs.append(clock() - start)
            found["calls"] = counted.calls
            level = sigmas[:1].expand(len(x))
            start = clock()
            for _ in range(counted.calls):
                model_k(x, level, **(extra_args | {"denoise_mask": None}))
            raws.append((clock() - start) / counted.calls)
            return out

        def watched(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: dict, callback: Any, disable: Any) -> Tensor:
            with peak_memory(found, self.weights), waits(found):
                return function(model_k, x, sigmas, extra_args, None, True)

        with torch.inference_mode(not grad):
            for _ in range(self.repeats):
                self.sample(run, batch, side)
            self.sample(watched, batch, side)
        return found | {"time": min(runs), "raw": statistics.median(raws)}


class Counted:
    """A host model that counts its calls."""

    def __init__(self, model_k: Any):
        self.model_k, self.calls = model_k, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model_k, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        return self.model_k(*args, **kwargs)


def plain(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: dict, callback: Any, disable: Any) -> Tensor:
    from comfy.k_diffusion.sampling import sample_euler_ancestral

    return sample_euler_ancestral(model_k, x, sigmas, extra_args | {"denoise_mask": None}, None, True)


def half(batch: int, side: int, channels: int = 4) -> tuple[Tensor, Tensor]:
    """A known latent and its weights: the left half."""
    weights = torch.zeros(batch, 1, side, side)
    weights[..., : side // 2] = 1
    return 5 * torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(1)), weights


def ours(batch: int, side: int, settings: sampler.NewtonSettings, channels: int = 4) -> Callable[..., Tensor]:
    from newton_pack.nodes.comfy_adapter import make_sampler
    from newton_pack.nodes.latent_mask import LatentMaskSpec

    made = make_sampler(LatentMaskSpec(*half(batch, side, channels)), settings)
    return partial(made.sampler_function, **made.extra_options)


def backpropagated(batch: int, side: int, channels: int = 4) -> Callable[..., Tensor]:
    from newton_pack.nodes.comfy_adapter import measured_scales

    def function(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: dict, callback: Any, disable: Any) -> Tensor:
        scales = measured_scales(model_k.inner_model.inner_model.model_sampling)
        denoise = sampler.Denoiser(lambda x, s: model_k(x, s, **(extra_args | {"denoise_mask": None})), scales)
        y, weights = (t.to(x) for t in half(batch, side, channels))
        return gradient(denoise, x, sigmas.tolist(), y, weights, 0).detach()

    return function
