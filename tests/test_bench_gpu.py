"""The GPU benchmark's kit: a process that finds nothing but PyTorch and NumPy runs the host and the pack from it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "bench"))

import gpu
from safetensors.torch import load_file, save_file

# What a fresh installation of PyTorch brings.
BROUGHT = (
    "torch", "torchgen", "functorch", "numpy", "numpy.libs", "sympy", "mpmath", "networkx", "jinja2", "markupsafe",
    "filelock", "fsspec", "typing_extensions.py",
)  # fmt: skip


def test_a_file_is_read_without_its_package(tmp_path):
    tensors = {"a": torch.randn(3, 4).half(), "b": torch.arange(5.0)}
    save_file(tensors, tmp_path / "x.safetensors")
    read = gpu.read_safetensors(tmp_path / "x.safetensors")
    assert all(torch.equal(read[k], t) for k, t in load_file(tmp_path / "x.safetensors").items())


@pytest.mark.skipif("COMFYUI_PATH" not in os.environ or os.name == "nt", reason="COMFYUI_PATH is not set, or no links")
def test_a_machine_that_has_only_pytorch(tmp_path):
    from only_torch import make_kit

    kit, packages = make_kit(tmp_path / "kit"), tmp_path / "packages"
    assert sum(f.stat().st_size for f in kit.rglob("*")) < 10 * 2**20
    packages.mkdir()
    for name in BROUGHT:
        place = Path(numpy.__file__).parent.parent / name
        if place.exists():
            (packages / name).symlink_to(place)
    command = [sys.executable, "-S", ROOT / "bench" / "gpu.py", "--out", tmp_path, "--kit", kit, "--kinds", "SD3",
               "--levels", "2", "--repeats", "1", "--seconds", "0"]  # fmt: skip
    env = {k: v for k, v in os.environ.items() if k != "COMFYUI_PATH"} | {"PYTHONPATH": str(packages)}
    done = subprocess.run(list(map(str, command)), env=env, text=True, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| demo | ours | newton | 2 | bfloat16 |" in done.stdout
    assert "Left out for want of time: SD3 at 64 pixels, batch 1" in done.stdout
