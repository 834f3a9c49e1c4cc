"""The MNIST and Fashion models as a MODEL of the host, for nodes that sample by themselves."""

import os
import sys
from typing import Any

import small_ddpm
import torch
from torch import Tensor

PROMPT = [[torch.zeros(1, 1, 8), {}]]  # the network has no use for it


class Network(torch.nn.Module):
    """eps as the host asks for it, of the x0 that is clipped to the range of pictures."""

    dtype = torch.float32

    def __init__(self, name: str):
        super().__init__()
        self.denoise = small_ddpm.SmallDenoiser(name)

    def forward(self, x: Tensor, timesteps: Tensor, **_: Any) -> Tensor:
        sigma = small_ddpm.SIGMAS.float()[timesteps.round().long()]
        level = sigma.reshape(-1, 1, 1, 1)
        x = x * (1 + level**2).sqrt()
        return (x - self.denoise(x, sigma)) / level


def load_model(name: str) -> Any:
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = True
    import comfy.latent_formats
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models_base

    class Pixels(comfy.latent_formats.LatentFormat):
        latent_channels = 1

    class Config(comfy.supported_models_base.BASE):
        latent_format = Pixels
        unet_extra_config: dict[str, Any] = {}
        # The host calls evenly spaced betas sqrt_linear.
        sampling_settings = {"beta_schedule": "sqrt_linear", "linear_start": 1e-4, "linear_end": 0.02}

    config = Config({"disable_unet_model_creation": True})
    config.set_inference_dtype(torch.float32, None)
    base = comfy.model_base.BaseModel(config)
    base.diffusion_model = Network(name)
    return comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
