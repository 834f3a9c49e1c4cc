"""A small client for the HTTP API of a running ComfyUI."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

Graph = dict[str, dict]


class HostError(Exception):
    """A ComfyUI did not start, refused a graph, or failed while running it."""


class ServerGone(HostError):
    """A server does not answer, or not as a ComfyUI does."""


class File(NamedTuple):
    """What a node left; `saved`: not only shown."""

    node: str
    name: str
    content: bytes
    saved: bool


@dataclass
class Result:
    """What a graph left: files, and texts as (node id, text)."""

    files: list[File] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def file(self, node: str) -> bytes:
        """The first file that a node left."""
        return next(file.content for file in self.files if file.node == node)


class Client:
    """`Client(url).run(graph)`."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")

    def open(self, path: str, data: bytes | None = None, kind: str = "application/json") -> bytes:
        """GET, or POST of `data`. Raises `ServerGone`; answers of status 400 are the caller's."""
        try:
            request = urllib.request.Request(self.url + path, data, {"Content-Type": kind})
            with urllib.request.urlopen(request) as answer:
                return answer.read()
        except urllib.error.HTTPError as e:
            if e.code == 400:
                raise
            raise ServerGone(f"{self.url} refuses {path}: {e.code} {e.reason}") from None
        except (OSError, ValueError) as e:
            raise ServerGone(f"{self.url} does not answer: {getattr(e, 'reason', e)}") from None

    def get(self, path: str) -> dict:
        try:
            return json.loads(self.open(path))
        except ValueError:
            raise ServerGone(f"{self.url} is no ComfyUI: {path} answers no JSON") from None

    def upload(self, name: str, content: bytes) -> None:
        """Put a picture into the server's input folder."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        head += "Content-Type: application/octet-stream\r\n\r\n"
        tail = f'\r\n--{mark}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n--{mark}--\r\n'
        try:
            self.open("/upload/image", head.encode() + content + tail.encode(), f"multipart/form-data; boundary={mark}")
        except urllib.error.HTTPError as e:
            raise HostError(f"{self.url} refuses the picture {name}: {e.reason}") from None

    def run(self, graph: Graph, waiting: Callable[[], None] = lambda: None) -> Result:
        """Queue a graph and wait for it; `waiting` is called ten times a second."""
        try:
            accepted = json.loads(self.open("/prompt", json.dumps({"prompt": graph}).encode()))
        except urllib.error.HTTPError as e:
            raise HostError(refusal(json.load(e), graph)) from None
        if accepted["node_errors"]:  # the server would run the rest of the graph
            raise HostError(refusal(accepted, graph))
        history = self._wait_for(accepted["prompt_id"], waiting)
        messages = history["status"]["messages"]
        if history["status"]["status_str"] != "success":
            raise HostError(failure(messages))
        result = collect(history["outputs"], self._fetch)
        times = [m["timestamp"] for _, m in messages if "timestamp" in m]
        result.seconds = (max(times) - min(times)) / 1000
        return result

    def _wait_for(self, prompt: str, waiting: Callable[[], None]) -> dict:
        while True:
            queued = any(prompt == entry[1] for entries in self.get("/queue").values() for entry in entries)
            if prompt in (history := self.get(f"/history/{prompt}")):
                return history[prompt]
            if not queued:
                raise HostError(f"{self.url} no longer knows the graph: its queue was cleared, or it was restarted")
            waiting()
            time.sleep(0.1)

    def _fetch(self, item: dict[str, str]) -> bytes:
        return self.open("/view?" + urllib.parse.urlencode({k: item[k] for k in ("filename", "subfolder", "type")}))


def collect(outputs: dict[str, dict[str, list]], read: Callable[[dict[str, str]], bytes]) -> Result:
    """What the history of a prompt names; `read` gives the content of a file."""
    result = Result()
    for node, kinds in outputs.items():
        for item in (item for items in kinds.values() for item in items):
            if isinstance(item, dict) and "filename" in item:
                result.files.append(File(node, item["filename"], read(item), item["type"] == "output"))
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
