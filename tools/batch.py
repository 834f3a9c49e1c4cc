"""Run a graph in API format over many pictures; `python dev.py batch` starts this."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from client import Graph, HostError, Result
from hand_out import Outcome, Workers, on_servers
from headless import BASES, ROOT
from rows import Job, Row, read_job, read_rows
from run_graph import GraphError, change, find_images, loaders, read_graph
from table import Table, ask_for_reports
from tqdm import tqdm


class Batch:
    """Rows, their table on disk, and a line of progress."""

    def __init__(self, graph: Graph, rows: list[Row], folders: list[Path], out: Path):
        own = [n for n in loaders(graph) if not all(n in row.pictures or row.problem for row in rows)]
        self.common = find_images(graph, own, folders)
        self.rows, self.table, self.failures, self.skipped = rows, Table(out), 0, 0
        self.bar = tqdm(total=len(rows), unit="row", smoothing=0.05, dynamic_ncols=True)

    def jobs(self) -> Iterator[Job]:
        """Those that are not on disk yet, each read when it is its turn."""
        for row in self.rows:
            try:
                if row.problem:
                    raise OSError(row.problem)
                job = read_job(row, self.common)
            except OSError as e:
                self.fail(row.name, str(e))
                continue
            if self.table.has(job):
                self.skipped += 1
                self.bar.update()
            else:
                yield job

    def fail(self, name: str, error: str) -> None:
        self.table.fail(name, error)
        self.failures += 1
        self.bar.write(f"{name}: {error}", file=sys.stderr)
        self.step()

    def step(self) -> None:
        self.bar.set_postfix(failures=self.failures, refresh=False)
        self.bar.update()

    def take(self, outcomes: Iterator[Outcome]) -> None:
        for job, outcome in outcomes:
            if isinstance(outcome, Result):
                self.table.finish(job, outcome)
                self.step()
            else:
                self.fail(job.name, sentence(str(outcome)))

    def close(self) -> None:
        self.bar.close()
        self.table.write([row.name for row in self.rows])
        left = len(self.rows) - len(self.table.records)
        done = f"{len(self.rows) - left - self.failures} of {len(self.rows)} rows are there, {self.skipped} from before"
        again = "; starting again runs them" if left or self.failures else ""
        print(f"{done}; {self.failures} failed, {left} left{again}: {self.table.out / 'results.csv'}")


def sentence(error: str) -> str:
    """One line of what a host says in many."""
    text = " ".join(error.partition("\n  File")[0].replace("\n ", ";").split())
    if "OutOfMemoryError" not in text:
        return text
    return f"{text.partition(': ')[0]}: out of memory; fewer workers on a GPU (--workers, --gpus) leave more to each"


def above_zero(kind: type) -> Callable[[str], float]:
    def number(text: str) -> float:
        if (value := kind(text)) <= 0:
            raise ValueError
        return value

    number.__name__ = f"{kind.__name__} above 0"  # for argparse's sentence
    return number


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="dev.py batch")
    parser.add_argument("graph", type=Path, metavar="GRAPH.json")
    parser.add_argument(
        "--inputs", nargs="+", required=True, metavar="[NODE=]FOLDER or TABLE.csv",
        help="pictures for the node that loads them, of several nodes paired by name; or columns NODE.input",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.input=value", help="change a widget")
    parser.add_argument("--workers", type=above_zero(int), help="default: one for each GPU, else for each --cores")
    parser.add_argument("--cores", type=above_zero(int), default=1, help="of each worker; default 1")
    parser.add_argument("--gpus", type=above_zero(float), help="of each worker, .5 lets two share one; default 1")
    parser.add_argument("--address", metavar="ray://HOST:10001", help="of a Ray cluster; default: this machine")
    parser.add_argument("--servers", metavar="http://HOST:PORT,...", help="servers that run already, in place of Ray")
    parser.add_argument("--extra-nodes", type=Path, metavar="DIR", help="load this node pack too")
    return parser.parse_args()


def hand_out(opts: argparse.Namespace, jobs: Iterator[Job]) -> Iterator[Outcome]:
    if opts.servers:
        yield from on_servers(jobs, opts.servers.split(","))
        return
    BASES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=BASES, ignore_cleanup_errors=True) as base,
        Workers(opts.workers, opts.cores, opts.gpus, opts.address) as workers,
    ):
        yield from workers.run(jobs, Path(base), opts.extra_nodes)


def run(opts: argparse.Namespace) -> int:
    graph = read_graph(opts.graph)
    for setting in opts.set:
        change(graph, setting)
    ask_for_reports(graph)
    batch = Batch(graph, read_rows(graph, opts.inputs), [opts.graph.parent, ROOT / "demo" / "images"], opts.out)
    try:
        jobs = batch.jobs()
        if first := next(jobs, None):  # else nothing has to be started
            batch.take(hand_out(opts, chain([first], jobs)))
    finally:
        batch.close()
    return 1 if batch.failures else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(run(parse()))
    except (GraphError, HostError) as e:
        sys.exit(f"error: {e}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; starting again resumes")
