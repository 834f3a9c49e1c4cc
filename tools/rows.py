"""The rows of a batch: a graph with the pictures and values of each."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from client import Graph
from run_graph import GraphError, change, loaders

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Row:
    """One run of the graph: `pictures` by the node that loads them, `problem` where it cannot run."""

    name: str
    graph: Graph
    pictures: dict[str, Path] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Job:
    """A row with its pictures read; the graph calls them by their content, so that it is the same on every machine."""

    name: str
    graph: Graph
    pictures: dict[str, bytes]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.graph, sort_keys=True).encode()).hexdigest()


def read_job(row: Row, common: dict[str, Path]) -> Job:
    """Raises OSError where a picture cannot be read. `common` are pictures that all rows share."""
    graph, pictures = copy.deepcopy(row.graph), {}
    for node, file in (common | row.pictures).items():
        content = file.read_bytes()
        name = hashlib.sha256(content).hexdigest()[:20] + file.suffix.lower()
        pictures[name], graph[node]["inputs"]["image"] = content, name
    return Job(row.name, graph, pictures)


def read_rows(graph: Graph, inputs: list[str]) -> list[Row]:
    """Of a CSV, of one folder of pictures, or of folders by node: NODE=FOLDER."""
    if len(inputs) == 1 and inputs[0].lower().endswith(".csv"):
        return rows_of_csv(graph, Path(inputs[0]))
    found = loaders(graph)
    told = ", ".join(f"{i} ({kind})" for i, kind in found.items())
    folders = {}
    for text in inputs:
        node, equals, folder = text.partition("=")
        if not equals or node != Path(node).name:
            if len(found) != 1 or len(inputs) > 1:
                raise GraphError(
                    f"--inputs {text}: the graph has {len(found)} nodes that load a picture{told and ': ' + told}; "
                    "say which folder goes to which, --inputs NODE=FOLDER NODE=FOLDER"
                    if found
                    else f"--inputs {text}: the graph has no node that loads a picture; give a CSV of values"
                )
            (node,), folder = found, text
        if node not in found:
            raise GraphError(f"--inputs {text}: {node!r} is no node that loads a picture; there are {told or 'none'}")
        folders[node] = files_in(Path(folder))
    return pair(graph, folders)


def files_in(folder: Path) -> dict[str, Path]:
    """Pictures by their name without its ending."""
    if not folder.is_dir():
        raise GraphError(f"--inputs {folder}: there is no such folder")
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in PICTURES:
            continue
        if file.stem in files:
            raise GraphError(f"--inputs {folder}: {files[file.stem].name} and {file.name} have the same name")
        files[file.stem] = file
    if not files:
        raise GraphError(f"--inputs {folder}: there is no picture in it ({' '.join(PICTURES)})")
    return files


def pair(graph: Graph, folders: dict[str, dict[str, Path]]) -> list[Row]:
    """A row for each name; one that a folder lacks is told, and the others run."""
    rows = []
    for name in sorted(set().union(*folders.values())):
        pictures = {node: files[name] for node, files in folders.items() if name in files}
        missing = [next(iter(files.values())).parent for node, files in folders.items() if node not in pictures]
        problem = f"no picture {name} in {', '.join(map(str, missing))}" if missing else ""
        rows.append(Row(name, graph, pictures, problem))
    if all(row.problem for row in rows):
        raise GraphError(f"--inputs: no picture has its pair; {rows[0].problem}")
    return rows


def rows_of_csv(graph: Graph, file: Path) -> list[Row]:
    """Columns NODE.input, and `name` if wanted; an empty cell leaves the graph's own value."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as f:
            lines = list(csv.DictReader(f, strict=True))
    except (OSError, ValueError, csv.Error) as e:
        raise GraphError(f"--inputs {file}: cannot be read: {e}") from None
    if not lines:
        raise GraphError(f"--inputs {file}: there is no row below its heading")
    known, rows = loaders(graph), []
    for number, cells in enumerate(lines, 1):
        if None in cells:
            raise GraphError(f"--inputs {file}: row {number} has more cells than the heading")
        changed, pictures, problem = copy.deepcopy(graph), {}, ""
        for column, cell in cells.items():
            node, _, name = column.partition(".")
            if column == "name" or not cell:
                continue
            if node in known and name == "image":
                pictures[node] = file.parent / cell
                problem = problem or ("" if pictures[node].is_file() else f"no picture {pictures[node]}")
            try:
                change(changed, f"{column}={cell}")
            except GraphError as e:
                raise GraphError(f"{file}: column {column}: {str(e).partition(': ')[2]}") from None
        stem = next(iter(pictures.values())).stem if pictures else ""
        own = cells.get("name") or "_".join(filter(None, (f"{number:0{len(str(len(lines)))}}", stem)))
        rows.append(Row(own, changed, pictures, problem))
    counts = Counter(row.name for row in rows)
    for row in rows:
        if counts[row.name] > 1:
            raise GraphError(f"--inputs {file}: two rows have the name {row.name}")
        if not re.fullmatch(r"[\w .()+-]+", row.name):
            raise GraphError(f"--inputs {file}: the name {row.name!r} is no file name")
    return rows
