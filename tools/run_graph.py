"""Run a graph in API format in a headless ComfyUI; `python dev.py run` starts this."""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from client import Result
from headless import ROOT, Graph, Host, HostError


class GraphError(Exception):
    """The graph file or a change to it is wrong."""


def read_graph(file: Path) -> Graph:
    try:
        graph = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise GraphError(f"cannot read the graph {file}: {e}") from None
    if isinstance(graph, dict) and "nodes" in graph:
        raise GraphError(f"{file} is in the editor's format; save it with File > Export (API)")
    if not isinstance(graph, dict) or not all(isinstance(n, dict) and "class_type" in n for n in graph.values()):
        raise GraphError(f"{file} is no graph in API format")
    return graph


def parse_value(text: str) -> object:
    """JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def change(graph: Graph, setting: str) -> None:
    """Apply one NODE.input=value; what is text stays text."""
    place, equals, value = setting.partition("=")
    node, dot, name = place.partition(".")
    if not equals or not dot:
        raise GraphError(f"--set {setting}: expected NODE.input=value")
    if node not in graph:
        known = ", ".join(f"{i} ({n['class_type']})" for i, n in graph.items())
        raise GraphError(f"--set {setting}: no node {node!r}; there are {known}")
    inputs = graph[node]["inputs"]
    if name not in inputs:
        raise GraphError(f"--set {setting}: {graph[node]['class_type']} has no input {name!r}, but {', '.join(inputs)}")
    inputs[name] = value if isinstance(inputs[name], str) else parse_value(value)


def loaders(graph: Graph) -> dict[str, str]:
    """Kinds of the nodes that load a picture by its name."""
    return {
        i: n["class_type"]
        for i, n in graph.items()
        if n["class_type"].startswith("LoadImage") and isinstance(n["inputs"].get("image"), str)
    }


def find_images(graph: Graph, nodes: Iterable[str], folders: list[Path]) -> dict[str, Path]:
    """The file of every picture that these nodes name."""
    files = {}
    for node in nodes:
        name = re.sub(r" \[(input|output|temp)\]$", "", graph[node]["inputs"]["image"])  # as the mask editor leaves it
        found = next((f / n for n in (name, Path(name).name) for f in folders if (f / n).is_file()), None)
        if found is None:
            raise GraphError(f"node {node}: no picture {name} in {', '.join(map(str, folders))}")
        files[node] = found
    return files


def take_images(graph: Graph, folders: list[Path]) -> dict[str, Path]:
    """Find every picture that a LoadImage node names; returns new names, by which the graph then calls them."""
    taken = {}
    for node, found in find_images(graph, loaders(graph), folders).items():
        graph[node]["inputs"]["image"] = name = f"{node}_{found.name}".replace(":", "_")
        taken[name] = found
    return taken


def save(result: Result, out: Path) -> list[tuple[str, Path]]:
    """Write the files of a run; one whose name another node has used is told apart by its own node."""
    out.mkdir(parents=True, exist_ok=True)
    written: dict[Path, str] = {}
    for file in result.files:
        path = out / file.name
        if path in written:
            path = out / f"{file.node}_{file.name}".replace(":", "_")
        path.write_bytes(file.content)
        written[path] = file.node
    return [(node, path) for path, node in written.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--extra-nodes", type=Path)
    opts = parser.parse_args()

    graph = read_graph(opts.graph)
    for setting in opts.set:
        change(graph, setting)
    images = take_images(graph, [opts.graph.parent, ROOT / "demo" / "images"])
    print("starting ComfyUI ...", flush=True)
    with Host(opts.extra_nodes) as host:
        for name, file in images.items():
            shutil.copyfile(file, host.base / "input" / name)
        print("running the graph ...", flush=True)
        result = host.run(graph, show_progress=True)
    for node, file in save(result, opts.out):
        print(f"node {node}: {file}")
    for node, text in result.texts:
        print(f"node {node}: {text}")


if __name__ == "__main__":
    try:
        main()
    except (GraphError, HostError) as e:
        sys.exit(f"error: {e}")
