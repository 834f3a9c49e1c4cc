"""A headless ComfyUI with this pack installed, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from client import Client, Graph, HostError, Result, ServerGone

__all__ = ["PACK", "ROOT", "Graph", "Host", "HostError"]

ROOT = Path(__file__).resolve().parent.parent
PACK = "newton-constrained-sampling"
BASES = ROOT / ".cache" / "base"
START_SECONDS = 300


def comfyui_folder() -> Path:
    """The ComfyUI that dev.py set up."""
    path = os.environ.get("COMFYUI_PATH", "")
    if not Path(path, "main.py").is_file():
        raise HostError(f"COMFYUI_PATH={path!r} has no main.py; start this through dev.py")
    return Path(path).resolve()


def link(target: Path, place: Path) -> None:
    """A symbolic link; on Windows a junction, which needs no rights."""
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(target), str(place))
    else:
        place.symlink_to(target, target_is_directory=True)


def model_paths(comfyui: Path) -> dict[str, dict[str, str]]:
    """Whatever models the ComfyUI folder holds."""
    return {"comfyui": {d.name: str(d) for d in comfyui.glob("models/*") if d.is_dir() and d.name != "configs"}}


def make_base(comfyui: Path, extra_nodes: Path | None, parent: Path = BASES) -> Path:
    """A fresh base directory, so that runs side by side do not see each other."""
    parent.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(dir=parent))
    for name in ("custom_nodes", "input", "output", "user", "models/checkpoints"):
        (base / name).mkdir(parents=True)
    link(ROOT, base / "custom_nodes" / PACK)
    if extra_nodes:
        link(extra_nodes.resolve(), base / "custom_nodes" / extra_nodes.resolve().name)
    # JSON is YAML.
    (base / "model_paths.yaml").write_text(json.dumps(model_paths(comfyui)), encoding="utf-8")
    return base


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


class Host(Client):
    """`with Host() as host: host.run(graph)`. The base directory and its log live as long as the server."""

    def __init__(self, extra_nodes: Path | None = None):
        if extra_nodes and not (extra_nodes / "__init__.py").is_file():
            raise HostError(f"{extra_nodes} is no node pack: it has no __init__.py")
        self.extra_nodes = extra_nodes

    def __enter__(self) -> Host:
        comfyui = comfyui_folder()
        self.base = make_base(comfyui, self.extra_nodes)
        self.log = self.base / "server.log"
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        for number in (signal.SIGINT, signal.SIGTERM):  # leave through __exit__, without a traceback
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        command = [
            sys.executable, comfyui / "main.py", "--listen", "127.0.0.1", "--port", port,
            "--base-directory", self.base, "--extra-model-paths-config", self.base / "model_paths.yaml",
            "--database-url", f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}",
            "--disable-auto-launch", "--disable-api-nodes", *([] if has_cuda() else ["--cpu"]),
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(c) for c in command], cwd=self.base, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.base, ignore_errors=True)

    def _wait_until_up(self) -> None:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                self.stats = self.get("/system_stats")
                break
            except ServerGone:
                pass
            if time.monotonic() > end:
                raise HostError(f"ComfyUI is not up after {START_SECONDS} s. Its log ends:\n{self.log_tail()}")
            self._check_alive()
            time.sleep(0.2)
        if failed := self._failed_pack():
            raise HostError(f"a node pack does not load:\n{failed}")

    def _failed_pack(self) -> str | None:
        """What the log says about a pack of ours that did not load, with the traceback where there is one."""
        place = re.escape(str(self.base / "custom_nodes"))
        said = f"(?:Cannot import|Error while calling comfy_entrypoint in|Skip|comfy_entrypoint in) {place}"
        traceback = r"(?:^Traceback (?:(?!^Traceback ).)*?)?"
        log = self.log.read_text(encoding="utf-8", errors="replace")
        found = re.search(rf"{traceback}^{said}[^\n]*", log, re.S | re.M)
        return found and found[0]

    def _check_alive(self) -> None:
        if self.process.poll() is not None:
            raise HostError(
                f"ComfyUI ended with exit status {self.process.returncode}. Its log ends:\n{self.log_tail()}"
            )

    def log_tail(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def run(self, graph: Graph, show_progress: bool = False) -> Result:
        """Queue a graph and wait for it."""
        begin, shown = time.monotonic(), show_progress and sys.stderr.isatty()

        def waiting() -> None:
            self._check_alive()
            if shown:  # the sampler's own progress bar is the last thing in the log
                last = re.split(r"[\r\n]+", self.log_tail(1).rstrip())[-1]
                print(f"\r{time.monotonic() - begin:5.0f} s  {last[:90]:90}", end="", file=sys.stderr)

        result = super().run(graph, waiting)
        if shown:
            print(file=sys.stderr)
        return result
