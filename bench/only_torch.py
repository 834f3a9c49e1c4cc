"""ComfyUI's network code on a machine that has only PyTorch and NumPy.

The host imports packages that no measurement here calls: those that are not installed are replaced by modules of empty
classes. `make_kit` gathers what has to travel: the host's own Python files, and the small packages that it does call.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

UNUSED = (
    "PIL", "aiohttp", "av", "comfy_aimdo", "huggingface_hub", "kornia", "psutil", "pydantic", "pydantic_settings",
    "regex", "requests", "safetensors", "scipy", "sentencepiece", "tokenizers", "torchaudio", "torchsde",
    "torchvision", "tqdm", "transformers", "yaml",
)  # fmt: skip
CARRIED = ("einops", "packaging", "tqdm", "comfy_kitchen")  # the last one of hosts of 2026
HOST_FOLDERS = ("comfy", "comfy_api", "comfy_execution", "comfy_config", "utils", "app", "api_server")


class EmptyClass(type):
    """Its attributes are empty classes again."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return EmptyClass(name, (), {})


class Empty(ModuleType):
    """Every name is an empty class."""

    __getattr__ = EmptyClass.__getattr__


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Comes last: only what nothing else finds."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in UNUSED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__version__ = "0"
        if module.__name__ == "psutil":
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            module.virtual_memory = lambda: type("Memory", (), {"total": total, "available": total})


def make_kit(folder: Path) -> Path:
    """What a machine with PyTorch alone needs beside this repository."""
    comfyui = Path(os.environ["COMFYUI_PATH"])
    shutil.rmtree(folder, ignore_errors=True)
    copy_python([f for name in HOST_FOLDERS for f in (comfyui / name).rglob("*.py")], comfyui, folder / "comfyui")
    copy_python(list(comfyui.glob("*.py")), comfyui, folder / "comfyui")
    for spec in filter(None, map(importlib.util.find_spec, CARRIED)):
        package = Path(spec.origin).parent
        copy_python(list(package.rglob("*.py")), package.parent, folder / "packages")
    return folder


def copy_python(files: list[Path], root: Path, to: Path) -> None:
    for file in files:
        place = to / file.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def use_kit(folder: Path) -> None:
    """Let this process find the host there, and go without what is not installed."""
    os.environ["COMFYUI_PATH"] = str(folder.resolve() / "comfyui")
    sys.path.append(str(folder.resolve() / "packages"))
    sys.meta_path.append(Finder())
