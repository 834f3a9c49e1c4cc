"""Small image encoders of the host, with random weights."""

import json
from pathlib import Path
from typing import Any

import torch

SIZE = 28
CLIP = {
    "model_type": "clip_vision_model", "hidden_act": "quick_gelu", "hidden_size": 16, "image_size": SIZE,
    "intermediate_size": 32, "num_attention_heads": 2, "num_channels": 3, "num_hidden_layers": 4, "patch_size": 7,
    "projection_dim": 8,
}  # fmt: skip
SIGLIP = {k: v for k, v in CLIP.items() if k != "projection_dim"} | {
    "model_type": "siglip_vision_model", "hidden_act": "gelu_pytorch_tanh", "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}  # fmt: skip
DINO2 = {
    "model_type": "dinov2", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3, "image_size": 518,
    "layer_norm_eps": 1e-6, "use_swiglu_ffn": False, "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip
CONFIGS = {"clip": CLIP, "siglip": SIGLIP, "dino2": DINO2}


def make(config: dict[str, Any], folder: Path) -> Any:
    """A CLIP_VISION, made under inference mode as the stock loader does."""
    from comfy.clip_vision import ClipVisionModel

    file = folder / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        made = ClipVisionModel(str(file))
        for p in made.model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return made
