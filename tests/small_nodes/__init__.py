"""A node pack for the servers of the tests: models small enough to run, which no stock loader reads."""

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from clip_models import CLIP, make
from comfy_api.latest import ComfyExtension, io


class SmallClipVision(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema("SmallClipVision", category="test", outputs=[io.ClipVision.Output()])

    @classmethod
    def execute(cls):
        return io.NodeOutput(make(CLIP, Path(tempfile.mkdtemp())))


class SmallModels(ComfyExtension):
    async def get_node_list(self):
        return [SmallClipVision]


async def comfy_entrypoint():
    return SmallModels()
