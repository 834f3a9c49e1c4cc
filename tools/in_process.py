"""A real ComfyUI in this process, with this pack installed. It starts once and keeps its models from graph to graph."""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
import time
import uuid
from pathlib import Path

from client import Graph, HostError, Result, collect, failure, refusal
from headless import comfyui_folder, has_cuda, make_base


class ComfyUI:
    """`ComfyUI(parent, extra_nodes).run(graph, pictures)`; only one in a process."""

    def __init__(self, parent: Path, extra_nodes: Path | None):
        comfyui = comfyui_folder()
        self.base = make_base(comfyui, extra_nodes, parent)
        sys.path.insert(0, str(comfyui))
        from comfy.cli_args import args

        args.cpu, args.base_directory = not has_cuda(), str(self.base)
        args.database_url = f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"
        for early in ("utils.extra_config", "utils.install_util"):
            importlib.import_module(early)  # before `nodes`, which would find another `utils`
        import execution
        import nodes
        import server
        import utils.extra_config

        utils.extra_config.load_extra_path_config(str(self.base / "model_paths.yaml"))
        self.loop, self.execution = asyncio.new_event_loop(), execution
        asyncio.set_event_loop(self.loop)
        prompt_server = server.PromptServer(self.loop)
        self.loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=True, init_api_nodes=False))
        # The classic cache keeps what the last graph and the next have in common: above all the loaders' models.
        self.executor = execution.PromptExecutor(
            prompt_server, execution.CacheType.CLASSIC, {"lru": 0, "ram": 0, "ram_inactive": 0}
        )

    def run(self, graph: Graph, pictures: dict[str, bytes]) -> Result:
        """Execute a graph whose loaders name `pictures`. Raises `HostError` where it is refused or fails."""
        for name, content in pictures.items():
            (self.base / "input" / name).write_bytes(content)
        prompt_id, begin = str(uuid.uuid4()), time.perf_counter()
        valid, error, outputs, node_errors = self.loop.run_until_complete(
            self.execution.validate_prompt(prompt_id, graph, None)
        )
        if not valid or node_errors:
            answer = {"node_errors": node_errors} | ({"error": error} if error else {})
            raise HostError(refusal(answer, graph))
        self.loop.run_until_complete(self.executor.execute_async(graph, prompt_id, {}, outputs))
        if not self.executor.success:
            raise HostError(failure(self.executor.status_messages))
        result = collect(self.executor.history_result["outputs"], self.read)
        result.seconds = time.perf_counter() - begin
        self.tidy({*pictures, *(file.name for file in result.files)})
        return result

    def read(self, item: dict[str, str]) -> bytes:
        return (self.base / item["type"] / item["subfolder"] / item["filename"]).read_bytes()

    def tidy(self, kept: set[str]) -> None:
        """Remove the files of earlier graphs; an output node that did not have to run again may name one."""
        for folder in ("input", "output", "temp"):
            for file in (self.base / folder).rglob("*"):
                if file.is_file() and file.name not in kept:
                    file.unlink()


@functools.cache
def comfyui(parent: Path, extra_nodes: Path | None) -> ComfyUI:
    """That of this process."""
    return ComfyUI(parent, extra_nodes)


def run_row(graph: Graph, pictures: dict[str, bytes], parent: Path, extra_nodes: Path | None) -> Result:
    return comfyui(parent, extra_nodes).run(graph, pictures)
