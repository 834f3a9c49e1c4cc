"""A run's report drawn with Pillow."""

import math
import textwrap

from PIL import Image, ImageDraw, ImageFont

from ..sampler import WHY, Report

SIZE = (960, 640)
LEFT, TOP, RIGHT, BOTTOM = 90, 60, 930, 470  # of the axes, pixels
INK, GRID, PAPER, BAND, LINE, TARGET = "#202020", "#dcdcdc", "#ffffff", "#c6dbef", "#1f5fa8", "#c03030"
# How a level ended: the colour of its mark.
MARKS = {"iterations": "#1f5fa8", "budget": "#e08a00", "target": "#2a9d50"}


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
        """1, 2 and 5 times the powers of ten; with many decades the powers alone."""
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        found = [m * 10.0**d for d in decades for m in ((1, 2, 5) if self.high - self.low < 3 else (1,))]
        return [v for v in found if self.low <= math.log10(v) <= self.high]


def draw_report(report: Report) -> Image.Image:
    """Residual over sigma: mean over the batch as a line, smallest to largest as a band, a mark at every level."""
    sheet = Image.new("RGB", SIZE, PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    pen.text((LEFT, 22), "Residual of the constraint before the corrections of each noise level", INK, font)
    levels = [level for level in report.levels if level.stop != "silent" and max(level.residual) > 0]
    if levels:
        draw_axes(pen, font, report, levels)
    else:
        pen.text((LEFT, TOP + 40), "No constraint was active in this run.", INK, font)
    for i, line in enumerate(textwrap.wrap(report.summary(), 100)):
        pen.text((LEFT, 560 + 24 * i), line, INK, font)
    return sheet


def draw_axes(pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont, report: Report, levels: list) -> None:
    floor = min(r for level in levels for r in level.residual if r > 0)
    sizes = [max(r, floor) for level in levels for r in level.residual] + [report.target] * (report.target > 0)
    across = LogAxis([level.sigma for level in levels], RIGHT, LEFT)  # noise falls from left to right
    up = LogAxis(sizes, BOTTOM, TOP)
    for value in across.ticks():
        pen.line((across(value), TOP, across(value), BOTTOM), GRID)
        pen.text((across(value), BOTTOM + 14), f"{value:g}", INK, font, "mm")
    for value in up.ticks():
        pen.line((LEFT, up(value), RIGHT, up(value)), GRID)
        pen.text((LEFT - 10, up(value)), f"{value:g}", INK, font, "rm")
    pen.text(((LEFT + RIGHT) / 2, BOTTOM + 40), "noise level sigma, from the first step to the last", INK, font, "mm")
    if report.target:
        pen.line((LEFT, up(report.target), RIGHT, up(report.target)), TARGET, 2)
        pen.text((RIGHT - 6, up(report.target) - 6), "target", TARGET, font, "rs")
    x = [across(level.sigma) for level in levels]
    low, mean, high = (
        [up(max(pick(level.residual), floor)) for level in levels] for pick in (min, lambda r: sum(r) / len(r), max)
    )
    if len(levels) > 1:
        pen.polygon([*zip(x, high, strict=True), *zip(x[::-1], low[::-1], strict=True)], BAND)
        pen.line([*zip(x, mean, strict=True)], LINE, 2)
    for level, a, b in zip(levels, x, mean, strict=True):
        pen.ellipse((a - 5, b - 5, a + 5, b + 5), MARKS[level.stop])
    pen.rectangle((LEFT, TOP, RIGHT, BOTTOM), outline=INK)
    legend = [stop for stop in MARKS if any(level.stop == stop for level in levels)]
    for i, stop in enumerate(legend):
        pen.ellipse((LEFT + 280 * i, BOTTOM + 59, LEFT + 280 * i + 10, BOTTOM + 69), MARKS[stop])
        pen.text((LEFT + 280 * i + 18, BOTTOM + 64), WHY[stop], INK, font, "lm")
