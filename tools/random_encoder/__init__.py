"""A node for the demo alone: an image encoder of random weights, small and in need of no download.

Random features are enough for colours and edges (Ustyuzhaninov et al., arXiv 1606.00021); CLIP sees more.
"""

import json
import tempfile
from pathlib import Path

import torch
from comfy.clip_vision import ClipVisionModel
from comfy_api.latest import ComfyExtension, io

CONFIG = {
    "model_type": "clip_vision_model", "hidden_act": "quick_gelu", "hidden_size": 64, "image_size": 128,
    "intermediate_size": 256, "num_attention_heads": 4, "num_channels": 3, "num_hidden_layers": 2, "patch_size": 4,
    "projection_dim": 8,
}  # fmt: skip


class RandomImageEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("RandomImageEncoder", category="demo", outputs=[io.ClipVision.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        generator = torch.Generator().manual_seed(0)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            (file := Path(folder) / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
            encoder = ClipVisionModel(str(file))
            for name, p in encoder.model.named_parameters():
                if p.ndim > 1 and "position" not in name:
                    p.copy_(torch.randn(p.shape, generator=generator) / p[0].numel() ** 0.5)
                else:
                    p.fill_(float("norm" in name and name.endswith("weight")))
        return io.NodeOutput(encoder)


class DemoExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [RandomImageEncoder]


async def comfy_entrypoint() -> DemoExtension:
    return DemoExtension()
