"""A headless ComfyUI with this pack installed, and a small client for its HTTP API."""

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
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = "newton-constrained-sampling"
START_SECONDS = 300

Graph = dict[str, dict]


class HostError(Exception):
    """The server did not start, refused a graph, or failed while running it."""


@dataclass
class Result:
    """What a graph left: files as (node id, file name, content), texts as (node id, text)."""

    files: list[tuple[str, str, bytes]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)

    def file(self, node: str) -> bytes:
        """The first file that a node left."""
        return next(content for owner, _, content in self.files if owner == node)


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


def make_base(comfyui: Path, extra_nodes: Path | None) -> Path:
    """A fresh base directory, so that runs side by side do not see each other."""
    cache = ROOT / ".cache" / "base"
    cache.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(dir=cache))
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


class Host:
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
            except urllib.error.URLError:
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

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path) as answer:
            return json.load(answer)

    def run(self, graph: Graph, show_progress: bool = False) -> Result:
        """Queue a graph and wait for it."""
        request = urllib.request.Request(
            self.url + "/prompt", json.dumps({"prompt": graph}).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request) as answer:
                accepted = json.load(answer)
        except urllib.error.HTTPError as e:
            raise HostError(refusal(json.load(e), graph)) from None
        if accepted["node_errors"]:  # the server would run the rest of the graph
            raise HostError(refusal(accepted, graph))
        history = self._wait_for(accepted["prompt_id"], show_progress)
        if history["status"]["status_str"] != "success":
            raise HostError(failure(history["status"]["messages"]))
        return self._collect(history["outputs"])

    def _wait_for(self, prompt: str, show_progress: bool) -> dict:
        begin = time.monotonic()
        while prompt not in (history := self.get(f"/history/{prompt}")):
            self._check_alive()
            time.sleep(0.1)
            if show_progress and sys.stderr.isatty():
                # The sampler's own progress bar is the last thing in the log.
                last = re.split(r"[\r\n]+", self.log_tail(1).rstrip())[-1]
                print(f"\r{time.monotonic() - begin:5.0f} s  {last[:90]:90}", end="", file=sys.stderr)
        if show_progress and sys.stderr.isatty():
            print(file=sys.stderr)
        return history[prompt]

    def _collect(self, outputs: dict[str, dict[str, list]]) -> Result:
        result = Result()
        for node, kinds in outputs.items():
            for item in (item for items in kinds.values() for item in items):
                if isinstance(item, dict) and "filename" in item:
                    query = urllib.parse.urlencode({k: item[k] for k in ("filename", "subfolder", "type")})
                    with urllib.request.urlopen(f"{self.url}/view?{query}") as answer:
                        result.files.append((node, item["filename"], answer.read()))
                elif isinstance(item, str):
                    result.texts.append((node, item))
        return result


def refusal(answer: dict, graph: Graph) -> str:
    """The server's answer to a graph that it does not accept."""
    error = answer.get("error", {"message": "some outputs are invalid", "details": ""})
    lines = [f"ComfyUI refuses the graph: {error['message']} {error['details']}".rstrip()]
    for node, found in (answer["node_errors"] or {}).items():
        lines += [
            f"  node {node} ({graph[node]['class_type']}): {e['message']}: {e['details']}" for e in found["errors"]
        ]
    return "\n".join(lines)


def failure(messages: list[list]) -> str:
    """What the server says about a run that did not succeed."""
    for kind, m in messages:
        if kind == "execution_error":
            error = f"{m['exception_type']}: {m['exception_message'].strip()}"
            where = "".join(m["traceback"][-1:]).strip()
            return f"node {m['node_id']} ({m['node_type']}): {error}\n  {where}"
    return "the run was interrupted"
