"""Labelled contact sheets."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL, GAP, HEAD = 192, 12, 26  # pixels

Row = tuple[str, list[np.ndarray], list[str]]


def draw_sheet(title: str, columns: list[str], rows: list[Row]) -> Image.Image:
    """A row of pictures per case: its name to the left above, a caption under each picture."""
    font, small = ImageFont.load_default(16), ImageFont.load_default(13)
    height = CELL + 2 * HEAD
    sheet = Image.new("RGB", (len(columns) * (CELL + GAP) + GAP, 2 * HEAD + len(rows) * height + GAP), "#f4f4f4")
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 6), title, fill="black", font=font)
    for i, column in enumerate(columns):
        pen.text((GAP + i * (CELL + GAP), HEAD + 6), column, fill="black", font=font)
    for j, (name, pictures, captions) in enumerate(rows):
        top = 2 * HEAD + j * height
        pen.text((GAP, top + 6), name, fill="#555555", font=small)
        for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            left = GAP + i * (CELL + GAP)
            sheet.paste(Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.BICUBIC), (left, top + HEAD))
            pen.text((left, top + HEAD + CELL + 4), caption, fill="#555555", font=small)
    return sheet
