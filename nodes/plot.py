"""A run's report drawn with Pillow."""

import math
import textwrap

from PIL import Image, ImageDraw, ImageFont

from ..sampler import WHY, Report

SIZE, SMOOTH = (960, 640), 2  # drawn twice as large, against jagged lines
LEFT, TOP, RIGHT, BOTTOM = 180, 110, 1860, 950  # of the axes, pixels of the large drawing
INK, GRID, PAPER, BAND, LINE, TARGET = "#202020", "#dcdcdc", "#ffffff", "#c6dbef", "#1f5fa8", "#c03030"
# How a level ended: the colour of its mark.
MARKS = {"iterations": "#1f5fa8", "budget": "#e08a00", "target": "#2a9d50", "held": "#7a4fb0"}


class LogAxis:
    """From values to pixels, logarithmically; `start` and `end` are the pixels of the smallest and largest value."""

    def __init__(self, values: list[float], start: int, end: int):
        low, high = math.log10(min(values)), math.log10(max(values))
        margin = max(0.05 * (high - low), 0.05)
        self.low, self.high, self.start, self.end = low - margin, high + margin, start, end

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values, at most about ten of them."""
        span = self.high - self.low
        steps = (1, 1.5, 2, 3, 4, 5, 6, 8) if span < 1 else (1, 2, 5) if span < 3 else (1,)
        found = [m * 10.0**d for d in range(math.floor(self.low), math.ceil(self.high)) for m in steps]
        return [v for v in found if self.low <= math.log10(v) <= self.high]


def draw_report(report: Report) -> Image.Image:
    """Residual over sigma: mean over the batch as a line, smallest to largest as a band, a mark at every level."""
    sheet = Image.new("RGB", (SIZE[0] * SMOOTH, SIZE[1] * SMOOTH), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(34)
    pen.text((LEFT, 40), "Residual of the constraint before the corrections of each noise level", INK, font)
    levels = [level for level in report.levels if level.stop != "silent" and max(level.residual) > 0]
    if levels:
        draw_axes(pen, font, report, levels)
    else:
        pen.text((LEFT + 20, TOP + 40), "No constraint was active in this run.", INK, font)
    for i, line in enumerate(textwrap.wrap(report.summary(), 100)):
        pen.text((LEFT, 1120 + 48 * i), line, INK, font)
    return sheet.reduce(SMOOTH)


def draw_axes(pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont, report: Report, levels: list) -> None:
    floor = min(r for level in levels for r in level.residual if r > 0)
    sizes = [max(r, floor) for level in levels for r in level.residual] + [report.target] * (report.target > 0)
    across = LogAxis([level.sigma for level in levels], RIGHT, LEFT)  # noise falls from left to right
    up = LogAxis(sizes, BOTTOM, TOP)
    for value in across.ticks():
        pen.line((across(value), TOP, across(value), BOTTOM), GRID, 2)
        pen.text((across(value), BOTTOM + 28), f"{value:g}", INK, font, "mm")
    for value in up.ticks():
        pen.line((LEFT, up(value), RIGHT, up(value)), GRID, 2)
        pen.text((LEFT - 20, up(value)), f"{value:g}", INK, font, "rm")
    pen.text(((LEFT + RIGHT) / 2, BOTTOM + 80), "noise level sigma, from the first step to the last", INK, font, "mm")
    if report.target:
        pen.line((LEFT, up(report.target), RIGHT, up(report.target)), TARGET, 4)
        pen.text((LEFT + 12, up(report.target) - 12), "target", TARGET, font, "ls")
    x = [across(level.sigma) for level in levels]
    low, mean, high = (
        [up(max(pick(level.residual), floor)) for level in levels] for pick in (min, lambda r: sum(r) / len(r), max)
    )
    if len(levels) > 1:
        pen.polygon([*zip(x, high, strict=True), *zip(x[::-1], low[::-1], strict=True)], BAND)
        pen.line([*zip(x, mean, strict=True)], LINE, 4)
    for level, a, b in zip(levels, x, mean, strict=True):
        pen.ellipse((a - 10, b - 10, a + 10, b + 10), MARKS[level.stop])
    pen.rectangle((LEFT, TOP, RIGHT, BOTTOM), outline=INK, width=2)
    left, middle = LEFT, BOTTOM + 130
    for stop in (stop for stop in MARKS if any(level.stop == stop for level in levels)):
        pen.ellipse((left, middle - 10, left + 20, middle + 10), MARKS[stop])
        pen.text((left + 34, middle), WHY[stop], INK, font, "lm")
        left += 34 + pen.textlength(WHY[stop], font) + 60
