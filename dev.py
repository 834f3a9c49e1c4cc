"""Developer commands: test, demo, run, batch, bench, train, lint.

The first start creates .cache/venv-0.3.75 with pinned packages and fetches ComfyUI 0.3.75 to .cache (about 2 GB in
all). COMFYUI_PATH=FOLDER uses another ComfyUI and makes an environment for it beside that one, with what its
requirements.txt asks for; the folder itself and your own environment stay as they are. To use your own environment,
do without dev.py: install tools/requirements-dev.txt there and start its pytest with COMFYUI_PATH set.
pip's own variables are respected: on Linux without a GPU, point PIP_EXTRA_INDEX_URL at PyTorch's index of CPU builds
(pytorch.org names it) to avoid several GB of CUDA packages.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
SPREAD = ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile"]
sys.path.insert(0, str(ROOT / "tools"))

from environment import CACHE, Host, SetupError, install_batch, set_up  # noqa: E402


def free_threads() -> int:
    """Cores that nothing else uses: torch becomes many times slower when its threads have to share."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0
    return max(1, (os.cpu_count() or 1) - round(load))


def start(host: Host, command: list[str | Path]) -> int:
    """Run a program of the environment from the repository root, pass SIGTERM on, return its exit status."""
    threads = 1 if "--dist" in command else free_threads()
    env = {"OMP_NUM_THREADS": str(threads), **os.environ, "COMFYUI_PATH": str(host.comfyui)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits what is ignored
    child = subprocess.Popen([str(c) for c in command], cwd=ROOT, env=env)
    # Ctrl-C reaches both; the child cleans up and its status counts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    return child.wait()


def benchmarks() -> list[str]:
    """The programs in bench/ (its other files are helpers)."""
    files = sorted((ROOT / "bench").glob("*.py"))
    return [f.stem for f in files if '__name__ == "__main__"' in f.read_text(encoding="utf-8")]


def absolute(path: str) -> Path:
    """Paths mean what they mean where dev.py was called; the programs run in the repository root."""
    return Path(path).absolute()


def place_of_inputs(text: str) -> str:
    """[NODE=]PATH, the path made absolute; a folder's name may have an = too."""
    node, equals, path = text.partition("=")
    return f"{node}={absolute(path)}" if equals and node == Path(node).name else str(absolute(text))


def add_batch(commands: Any) -> None:
    text = (
        "run a graph over many pictures, on many workers; further arguments go to tools/batch.py, whose help says all"
    )
    batch = commands.add_parser("batch", help=text, description=text)
    batch.add_argument("graph", type=absolute, metavar="GRAPH.json")
    batch.add_argument("--inputs", nargs="+", type=place_of_inputs, required=True, metavar="[NODE=]FOLDER or TABLE.csv")
    batch.add_argument("--out", type=absolute, required=True, metavar="DIR")
    batch.add_argument("--extra-nodes", type=absolute, metavar="DIR", help="load this node pack too")
    batch.add_argument("--servers", metavar="http://HOST:PORT,...", help="servers that run already, in place of Ray")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("test", help="run the tests; further arguments go to pytest", add_help=False)
    demo = commands.add_parser("demo", help="all tasks on held-out pictures, ours beside the stock ways; --only GROUP")
    demo.add_argument("--out", type=absolute, default=ROOT / "out" / "demo", metavar="DIR")
    run = commands.add_parser("run", help="run a graph in API format without a browser")
    run.add_argument("graph", type=absolute, metavar="GRAPH.json")
    run.add_argument("--out", type=absolute, required=True, metavar="DIR")
    run.add_argument("--set", action="append", default=[], metavar="NODE.input=value", help="change a widget")
    run.add_argument("--extra-nodes", type=absolute, metavar="DIR", help="load this node pack too")
    add_batch(commands)
    bench = commands.add_parser("bench", help="run a benchmark of bench/")
    bench.add_argument("name", nargs="?", default="inpaint", metavar="NAME", help="default: inpaint")
    bench.add_argument("--out", type=absolute, required=True, metavar="DIR")
    train = commands.add_parser("train", help="train an embedded checkpoint; further arguments go to its program")
    train.add_argument("--model", choices=("emoji", "avatars"), default="emoji")
    train.add_argument("--hours", type=float, required=True, help="wall time; running again goes on from there")
    commands.add_parser("lint", help="ruff check, ruff format --check and pyright")
    if argv[:1] == ["bench"] and argv[1:] and argv[1].startswith("--"):
        argv = ["bench", "inpaint", *argv[1:]]  # or the value of an option would be taken for the name
    opts, opts.rest = parser.parse_known_args(argv)
    if opts.rest and opts.command not in ("test", "demo", "train", "bench", "batch"):
        parser.error(f"unrecognized arguments: {' '.join(opts.rest)}")
    if opts.command == "bench" and opts.name not in benchmarks():
        parser.error(f"no benchmark {opts.name!r}; there are: {', '.join(benchmarks()) or 'none yet'}")
    return opts


def programs(opts: argparse.Namespace, host: Host) -> list[list[str | Path]]:
    """The command lines that a command stands for."""
    if opts.command == "test":
        # All of them on a process a core, each with a ComfyUI of its own; what is named runs in this one.
        spread = [] if opts.rest else SPREAD
        # The script, not `-m pytest`: that would put the root on sys.path, where nodes/ hides ComfyUI's nodes.py.
        return [[host.bin / "pytest", *spread, *opts.rest]]
    if opts.command == "lint":
        return [
            [host.bin / "ruff", "check", "."],
            [host.bin / "ruff", "format", "--check", "."],
            [host.bin / "pyright", "--pythonpath", host.python],
        ]
    if opts.command == "demo":
        return [[host.python, ROOT / "tools" / "demo.py", "--out", opts.out, *opts.rest]]
    if opts.command == "run":
        changes = [part for change in opts.set for part in ("--set", change)]
        extra = ["--extra-nodes", opts.extra_nodes] if opts.extra_nodes else []
        return [[host.python, ROOT / "tools" / "run_graph.py", opts.graph, "--out", opts.out, *changes, *extra]]
    if opts.command == "batch":
        paths = ["--inputs", *opts.inputs, "--out", opts.out]
        extra = ["--extra-nodes", opts.extra_nodes] if opts.extra_nodes else []
        servers = ["--servers", opts.servers] if opts.servers else []
        return [[host.python, ROOT / "tools" / "batch.py", opts.graph, *paths, *extra, *servers, *opts.rest]]
    if opts.command == "bench":
        return [[host.python, ROOT / "bench" / f"{opts.name}.py", "--out", opts.out, *opts.rest]]
    program, work, data = {
        "emoji": ("train.py", CACHE / "train", []),
        "avatars": ("train_avatars.py", CACHE / "train_avatars", ["--data", CACHE / "train_avatars"]),
    }[opts.model]
    paths = ["--comfyui", host.comfyui, "--work", work, "--export", work / f"ncs_{opts.model}.safetensors", *data]
    return [[host.python, ROOT / "demo" / program, *paths, "--hours", str(opts.hours), *opts.rest]]


def make_out(folder: Path) -> None:
    """Before the run: hours of results must not be lost for want of a place."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        raise SetupError(f"--out {folder} cannot be written: {e.strerror}") from None


def main(argv: list[str]) -> int:
    if sys.version_info < (3, 10):  # noqa: UP036
        raise SetupError(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    opts = parse(argv)
    if "out" in opts:
        make_out(opts.out)
    # A set-up that is ended ends pip too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    host = set_up()
    if opts.command == "batch" and not opts.servers:
        install_batch(host)
    worst = 0
    for command in programs(opts, host):
        status = start(host, command)
        worst = max(worst, status if status >= 0 else 128 - status)  # negative: by a signal
        if worst >= 128:
            break
    return worst


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as e:
        sys.exit(f"dev.py: {e}")
    except KeyboardInterrupt:
        sys.exit("dev.py: interrupted; starting again resumes")
