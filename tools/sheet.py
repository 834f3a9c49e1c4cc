"""Contact sheets of the demo: a column for each picture, rows of each task under one another."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from demo_tasks import Case, Task

CELL, GAP, LABEL, TITLE = 112, 4, 84, 34  # pixels
INK, FAINT, PAPER = "#1b1f24", "#6b7280", "#ffffff"

Rows = list[tuple[str, list[np.ndarray]]]


def block(title: str, rows: Rows) -> Image.Image:
    """A title, and below it rows of pictures with what they are on the left."""
    columns = len(rows[0][1])
    width, height = LABEL + columns * (CELL + GAP) + GAP, TITLE + len(rows) * (CELL + GAP) + 2 * GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, TITLE // 2), title, INK, ImageFont.load_default(18), "lm")
    for j, (name, pictures) in enumerate(rows):
        top = TITLE + j * (CELL + GAP)
        strong = name in ("ours", "sampled")
        pen.text((GAP, top + CELL // 2), name, INK if strong else FAINT, ImageFont.load_default(15), "lm")
        for i, picture in enumerate(pictures):
            cell = Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(cell, (LABEL + i * (CELL + GAP), top))
    return sheet


def task_block(task: "Task", cases: "list[Case]") -> Image.Image:
    names = [name for name in cases[0].pictures if name != "truth"]
    return block(task.title, [(name, [case.pictures[name] for case in cases]) for name in names])


def stack(blocks: list[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (max(b.width for b in blocks), sum(b.height for b in blocks)), PAPER)
    top = 0
    for b in blocks:
        whole.paste(b, (0, top))
        top += b.height
    return whole


def columns(blocks: list[Image.Image], count: int) -> Image.Image:
    """The blocks in order over `count` columns of about the same height."""
    share = sum(b.height for b in blocks) / count
    piles: list[list[Image.Image]] = [[] for _ in range(count)]
    above = 0
    for b in blocks:
        piles[min(count - 1, int((above + b.height / 2) / share))].append(b)
        above += b.height
    stacks = [stack(pile) for pile in piles if pile]
    space = 6 * GAP
    whole = Image.new("RGB", (sum(s.width + space for s in stacks), max(s.height for s in stacks)), PAPER)
    left = 0
    for s in stacks:
        whole.paste(s, (left, 0))
        left += s.width + space
    return whole


def draw_sheets(out: Path, cases: "dict[Task, list[Case]]") -> None:
    """sheet.jpg with all, and sheet_TASK.png."""
    truth = ("truth", [case.avatar.truth for case in next(iter(cases.values()))])
    blocks = {task: task_block(task, of) for task, of in cases.items()}
    for task, of in blocks.items():
        stack([block("Held-out pictures", [truth]), of]).save(out / f"sheet_{task.name}.png")
    whole = [block("Held-out pictures, in list order", [truth]), *blocks.values()]
    columns(whole, 2 if len(whole) > 3 else 1).save(out / "sheet.jpg", quality=90)
