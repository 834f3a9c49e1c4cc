"""The pictures of the help pages, made by the shipped model in a headless ComfyUI; writes web/docs/pictures.

COMFYUI_PATH=.cache/comfyui-0.3.75 .cache/venv-0.3.75/bin/python tools/help_pictures.py [--only NewtonSettings ...]
"""

import argparse
import shutil
from pathlib import Path

from headless import ROOT, Host
from help_runs import PICTURES, Panels
from PIL import Image, ImageDraw, ImageFont, ImageOps
from tqdm import tqdm

FOLDER = ROOT / "web" / "docs" / "pictures"
SIDE, GAP, LABEL, DRAWN = 160, 6, 24, 500  # pixels
LARGEST = 25_000  # bytes of a file


def table(panels: Panels) -> Image.Image:
    """Rows of two or three, each picture under its name: help panels are narrow."""
    columns = 3 if len(panels) % 3 == 0 else 2
    width, height = SIDE + GAP, SIDE + LABEL + GAP
    sheet = Image.new("RGB", (columns * width - GAP, -(-len(panels) // columns) * height - GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (name, shown) in enumerate(panels.items()):
        picture = shown if isinstance(shown, Image.Image) else Image.fromarray(shown)
        filter = Image.Resampling.NEAREST if picture.height < 128 else Image.Resampling.LANCZOS  # few pixels stay seen
        left, top = i % columns * width, i // columns * height
        pen.text((left + SIDE // 2, top + LABEL // 2), name, "#1b1f24", ImageFont.load_default(16), "mm")
        sheet.paste(picture.convert("RGB").resize((SIDE, SIDE), filter), (left, top + LABEL))
    return sheet


def save(panels: Panels, file: Path) -> None:
    """A node's own drawing is saved as it is, only smaller; as well as the file's size allows."""
    sheet = ImageOps.contain(panels[""], (DRAWN, DRAWN)) if "" in panels else table(panels)
    for quality in range(80, 20, -10):
        sheet.save(file, quality=quality, optimize=True)
        if file.stat().st_size <= LARGEST:
            break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=list(PICTURES), metavar="NODE_ID")
    opts = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    with Host(ROOT / "tools" / "random_encoder") as host:
        shutil.copytree(ROOT / "demo" / "images", host.base / "input", dirs_exist_ok=True)
        for name in (bar := tqdm(opts.only, unit="picture")):
            bar.set_description(name)
            save(PICTURES[name](host), FOLDER / f"{name}.jpg")


if __name__ == "__main__":
    main()
