"""A run's report drawn with Pillow."""

import math
import textwrap

from PIL import Image, ImageDraw, ImageFont

from ..sampler import WHY, LevelReport, Report

WIDTH, SMOOTH = 960, 2  # drawn twice as large, against jagged lines
LEFT, TOP, RIGHT, BOTTOM = 180, 110, 1860, 950  # of the axes, pixels of the large drawing
INK, GRID, PAPER, BAND, LINE, TARGET = "#202020", "#dcdcdc", "#ffffff", "#c6dbef", "#1f5fa8", "#c03030"
PANEL, CAPTION = 1110, 190  # height of a term's part and of the summary below, pixels of the large drawing
# How a level ended: the colour of its mark.
MARKS = {"iterations": "#1f5fa8", "budget": "#e08a00", "target": "#2a9d50", "held": "#7a4fb0"}

Row = tuple[LevelReport, tuple[float, ...]]  # a noise level and the residual of each sample


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
    """A panel for each term of the constraint, the run's summary below."""
    panels = [draw_term(report, i, label) for i, label in enumerate(report.labels())]
    sheet = Image.new("RGB", (WIDTH * SMOOTH, PANEL * len(panels) + CAPTION), PAPER)
    for i, panel in enumerate(panels):
        sheet.paste(panel, (0, PANEL * i))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(34)
    lines = textwrap.wrap(report.summary(), 100)
    if not panels:
        lines = ["No constraint was active in this run.", *lines]
    for i, line in enumerate(lines):
        pen.text((LEFT, PANEL * len(panels) + 20 + 48 * i), line, INK, font)
    return sheet.reduce(SMOOTH)


def draw_term(report: Report, i: int, label: str) -> Image.Image:
    """Residual over sigma: mean over the batch as a line, smallest to largest as a band, a mark at every level."""
    panel = Image.new("RGB", (WIDTH * SMOOTH, PANEL), PAPER)
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(34)
    pen.text((LEFT, 40), f"Residual before the corrections of each noise level: {label}", INK, font)
    active = [(level, level.residual[i]) for level in report.levels if max(level.residual[i]) > 0]  # NaN is not
    shown = [row for row in active if math.isfinite(sum(row[1]))]
    if shown:
        draw_axes(pen, font, report.target, shown)
    if len(shown) < len(active):
        pen.text((LEFT + 20, TOP + 40), "The run diverged: residuals that are no number are left out.", TARGET, font)
    elif not active:
        pen.text((LEFT + 20, TOP + 40), "This constraint was never active, or never violated.", INK, font)
    return panel


def draw_axes(pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont, target: float, shown: list[Row]) -> None:
    floor = min(r for _, residual in shown for r in residual if r > 0)
    sizes = [max(r, floor) for _, residual in shown for r in residual] + [target] * (target > 0)
    across = LogAxis([level.sigma for level, _ in shown], RIGHT, LEFT)  # noise falls from left to right
    up = LogAxis(sizes, BOTTOM, TOP)
    for value in across.ticks():
        pen.line((across(value), TOP, across(value), BOTTOM), GRID, 2)
        pen.text((across(value), BOTTOM + 28), f"{value:g}", INK, font, "mm")
    for value in up.ticks():
        pen.line((LEFT, up(value), RIGHT, up(value)), GRID, 2)
        pen.text((LEFT - 20, up(value)), f"{value:g}", INK, font, "rm")
    pen.text(((LEFT + RIGHT) / 2, BOTTOM + 80), "noise level sigma, from the first step to the last", INK, font, "mm")
    if target:
        pen.line((LEFT, up(target), RIGHT, up(target)), TARGET, 4)
        pen.text((LEFT + 12, up(target) - 12), "target", TARGET, font, "ls")
    draw_curve(pen, shown, across, up, floor)
    pen.rectangle((LEFT, TOP, RIGHT, BOTTOM), outline=INK, width=2)
    left, middle = LEFT, BOTTOM + 130
    for stop in (stop for stop in MARKS if any(level.stop == stop for level, _ in shown)):
        pen.ellipse((left, middle - 10, left + 20, middle + 10), MARKS[stop])
        pen.text((left + 34, middle), WHY[stop], INK, font, "lm")
        left += 34 + pen.textlength(WHY[stop], font) + 60


def draw_curve(pen: ImageDraw.ImageDraw, shown: list[Row], across: LogAxis, up: LogAxis, floor: float) -> None:
    x = [across(level.sigma) for level, _ in shown]
    low, mean, high = (
        [up(max(pick(residual), floor)) for _, residual in shown] for pick in (min, lambda r: sum(r) / len(r), max)
    )
    if len(shown) > 1:
        pen.polygon([*zip(x, high, strict=True), *zip(x[::-1], low[::-1], strict=True)], BAND)
        pen.line([*zip(x, mean, strict=True)], LINE, 4)
    for (level, _), a, b in zip(shown, x, mean, strict=True):
        pen.ellipse((a - 10, b - 10, a + 10, b + 10), MARKS[level.stop])
