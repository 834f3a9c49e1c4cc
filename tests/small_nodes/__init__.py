"""A node pack for the servers of the tests: a model that no stock loader reads, and a node without memory."""

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

import torch
from clip_models import CLIP, make
from comfy_api.latest import ComfyExtension, io


class SmallClipVision(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema("SmallClipVision", category="test", outputs=[io.ClipVision.Output()])

    @classmethod
    def execute(cls):
        return io.NodeOutput(make(CLIP, Path(tempfile.mkdtemp())))


class OutOfMemory(io.ComfyNode):
    """What a GPU says that is full."""

    @classmethod
    def define_schema(cls):
        return io.Schema("OutOfMemory", inputs=[io.Image.Input("image")], outputs=[io.Image.Output()], category="test")

    @classmethod
    def execute(cls, image):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB.")


class SmallModels(ComfyExtension):
    async def get_node_list(self):
        return [SmallClipVision, OutOfMemory]


async def comfy_entrypoint():
    return SmallModels()
