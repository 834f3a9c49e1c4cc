"""What a batch leaves: the saved files of each row, rows/NAME.json of those that ran, results.csv of all."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from client import Graph, Result
from rows import Job

COLUMNS = ("name", "seed", "calls", "residual", "seconds", "files", "error")
ASKED = "batch_report_"  # of the nodes that a batch adds


@dataclass
class Record:
    """A row that ran. `residual` is that of each term at the end, in the term's unit, means over its pictures."""

    name: str
    digest: str = ""
    seed: str = ""
    calls: int | None = None
    residual: list[str] = field(default_factory=list)
    seconds: float | None = None
    files: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    error: str = ""


def ask_for_reports(graph: Graph) -> None:
    """Let the graph tell as text what each of our samplers reports."""
    for node in [i for i, n in graph.items() if n["class_type"] == "NewtonConstrainedSampler"]:
        report = next(
            (
                i
                for i, n in graph.items()
                if n["class_type"] == "NewtonConstraintReport" and n["inputs"]["report"][0] == node
            ),
            f"{ASKED}{node}",
        )
        graph.setdefault(report, {"class_type": "NewtonConstraintReport", "inputs": {"report": [node, 1]}})
        graph[f"{ASKED}text_{node}"] = {"class_type": "PreviewAny", "inputs": {"source": [report, 1]}}


def reported(texts: list[str]) -> tuple[int | None, list[str]]:
    """Model calls of all reports together, and the residuals at the end."""
    first = [text.partition("\n")[0] for text in texts]
    calls = [int(n) for line in first for n in re.findall(r" levels, (\d+) model calls", line)]
    residuals = [r for line in first for r in re.findall(r" at first, ([\d.]+|nan|inf) at the end", line)]
    return sum(calls) if calls else None, residuals


def seeds(graph: Graph) -> str:
    found = [n["inputs"].get(key) for n in graph.values() for key in ("seed", "noise_seed")]
    return " ".join(str(s) for s in found if isinstance(s, int))


class Table:
    """Records by name; those of an earlier start are read from disk when their row comes up."""

    def __init__(self, out: Path):
        self.out, self.records = out, dict[str, Record]()
        (out / "rows").mkdir(parents=True, exist_ok=True)

    def has(self, job: Job) -> bool:
        """Whether the row is on disk, from the same graph, values and pictures."""
        try:
            record = Record(**json.loads(self.file(job.name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return False
        if record.digest != job.digest or record.error or not all((self.out / f).is_file() for f in record.files):
            return False
        self.records[job.name] = record
        return True

    def file(self, name: str) -> Path:
        return self.out / "rows" / f"{name}.json"

    def finish(self, job: Job, result: Result) -> None:
        """Write a row's files, and last its record, at once: a row is there entirely or not at all."""
        record = Record(job.name, job.digest, seeds(job.graph), seconds=round(result.seconds, 3))
        for number, file in enumerate((file for file in result.files if file.saved), 1):
            name = f"{job.name}_{file.node}_{number}{Path(file.name).suffix}".replace(":", "-")
            (self.out / name).write_bytes(file.content)
            record.files.append(name)
        record.texts = dict(result.texts)
        record.calls, record.residual = reported([t for node, t in result.texts if node.startswith(ASKED)])
        self.save(record)

    def fail(self, name: str, error: str) -> None:
        self.save(Record(name, error=error))

    def save(self, record: Record) -> None:
        self.records[record.name] = record
        part = self.file(record.name).with_suffix(".part")
        part.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
        part.replace(self.file(record.name))

    def write(self, names: list[str]) -> None:
        """results.csv in the order of the rows; those that have not run yet are left out."""
        with (self.out / "results.csv").open("w", newline="", encoding="utf-8") as f:
            lines = csv.writer(f)
            lines.writerow(COLUMNS)
            for name in names:
                if record := self.records.get(name):
                    cells = asdict(record) | {"residual": " ".join(record.residual), "files": " ".join(record.files)}
                    lines.writerow([cells[c] for c in COLUMNS])
