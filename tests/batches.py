"""What the tests of `dev.py batch` share: a folder of small pictures, the command, and what it left."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tools"))

GRAPH = ROOT / "workflows" / "api" / "inpaint_demo.json"


def save(file: Path, shade: int) -> Path:
    """A picture of 64 x 64 whose right half is to be generated."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((64, 64, 4), shade, np.uint8)
    pixels[:, :32, 3], pixels[:, 32:, 3] = 255, 0
    Image.fromarray(pixels).save(file)
    return file


def save_six(folder: Path) -> Path:
    for k in range(6):
        save(folder / f"p{k}.png", 40 * k)
    return folder


def command(inputs: Path, out: Path, *options: object, graph: Path = GRAPH) -> list[str]:
    fixed = [graph, "--inputs", inputs, "--out", out, "--set", "6.steps=2", *options]
    return [sys.executable, str(ROOT / "tools" / "batch.py"), *map(str, fixed)]


def batch(*args: Any, **kwargs: Any) -> subprocess.CompletedProcess:
    return subprocess.run(command(*args, **kwargs), text=True, capture_output=True)


def content(out: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in out.glob("*.png")}


def results(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))
