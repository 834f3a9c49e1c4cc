"""A real ComfyUI in this process: boot it once, load the pack through its own loader, execute graphs."""

import asyncio
import importlib
import os
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
COMFYUI = os.environ.get("COMFYUI_PATH", "")
CHECKPOINT = "ncs_emoji.safetensors"
# The other pack whose nodes a shipped graph has, where somebody has put it.
CROP_AND_STITCH = ROOT / ".cache" / "ComfyUI-Inpaint-CropAndStitch"


class GraphError(Exception):
    """What a user would see: the message of the failing node or of the validation."""


class CaptureNode:
    """Test node: keeps whatever reaches it."""

    seen: list[Any] = []
    RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "capture", True, "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True

    @classmethod
    def IS_CHANGED(cls, **_):
        return float("nan")

    def capture(self, value):
        CaptureNode.seen.append(value)
        return ()


class CountNode:
    """Test node: counts the network's forward passes, through the wrapper that every family of the host calls."""

    batches: list[int] = []
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "count", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def count(self, model):
        from comfy.patcher_extension import WrappersMP

        def wrapper(executor, x, *args, **kwargs):
            CountNode.batches.append(x.shape[0])
            return executor(x, *args, **kwargs)

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", wrapper)
        return (model,)


class Host:
    def __init__(self):
        if not (Path(COMFYUI) / "main.py").is_file():
            raise RuntimeError("COMFYUI_PATH does not name a ComfyUI. Start the tests with: python dev.py test")
        sys.path.insert(0, COMFYUI)
        from comfy.cli_args import args

        self.folder = tempfile.TemporaryDirectory(prefix="newton-tests-", ignore_cleanup_errors=True)
        self.base = Path(self.folder.name)
        (self.base / "custom_nodes").mkdir()
        args.cpu, args.base_directory = True, str(self.base)
        args.database_url = f"sqlite:///{self.base / 'comfyui.db'}"
        for early in ("utils.extra_config", "utils.install_util"):
            importlib.import_module(early)  # before `nodes`, which would find another `utils`
        import execution
        import folder_paths
        import nodes
        import server

        for name in ("input", "output", "temp"):
            (self.base / name).mkdir(exist_ok=True)
            getattr(folder_paths, f"set_{name}_directory")(str(self.base / name))
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.nodes, self.execution = nodes, execution
        self.server = server.PromptServer(self.loop)
        self.loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
        assert self.loop.run_until_complete(nodes.load_custom_node(str(ROOT))), "the pack did not load"
        if CROP_AND_STITCH.is_dir():
            assert self.loop.run_until_complete(nodes.load_custom_node(str(CROP_AND_STITCH)))
        nodes.NODE_CLASS_MAPPINGS |= {"TestCapture": CaptureNode, "TestCount": CountNode}
        self.executor = execution.PromptExecutor(
            self.server, execution.CacheType.CLASSIC, {"lru": 0, "ram": 0, "ram_inactive": 0}
        )

    def run(self, graph: dict[str, dict[str, Any]], preview_method: str = "none") -> list[Any]:
        """Validate and execute an API-format graph; returns what its TestCapture nodes saw.

        `preview_method` reaches newer hosts with the prompt; the pinned one has it in `latent_preview.args` only.
        """
        prompt_id = str(uuid.uuid4())
        CaptureNode.seen, CountNode.batches = [], []
        valid = self.loop.run_until_complete(self.execution.validate_prompt(prompt_id, graph, None))
        if not valid[0]:
            raise GraphError(f"{valid[1]} {valid[3]}")
        self.loop.run_until_complete(
            self.executor.execute_async(graph, prompt_id, {"preview_method": preview_method}, valid[2])
        )
        if not self.executor.success:
            event, data = self.executor.status_messages[-1]
            raise GraphError(f"{event}: {data.get('exception_message', '')}")
        return CaptureNode.seen

    def module(self, name: str):
        """A module of the pack as the host loaded it."""
        return sys.modules[f"{str(ROOT).replace('.', '_x_')}.{name}"]


def skip_without_its_pack(name: str) -> None:
    """Leaves the test of a shipped graph whose nodes are another pack's, where that pack is not at hand."""
    if name == "inpaint_crop_stitch" and not CROP_AND_STITCH.is_dir():
        pytest.skip(f"needs github.com/lquesada/{CROP_AND_STITCH.name} in .cache")


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}
