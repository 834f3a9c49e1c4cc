"""What a benchmark leaves: JSON, a Markdown table, a plot of quality against calls, contact sheets."""

import argparse
import datetime
import itertools
import json
import math
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contact_sheet import draw_sheet
from metrics import paired_interval

__all__ = ["Layout", "draw_sheet", "heading", "to_bytes", "write"]


@dataclass(frozen=True)
class Layout:
    """What a benchmark's table, comparison and plot show.

    Attributes:
        name: of the files.
        columns: (key, digits, heading).
        reading: how to read the table.
        plotted: (key, title).
        baselines: the methods to which the others are compared.
        compared: keys of that comparison.
        sections: keys whose values get a table each.
    """

    name: str
    columns: tuple[tuple[str, int, str], ...]
    reading: str
    plotted: tuple[tuple[str, str], ...]
    baselines: tuple[str, ...]
    compared: tuple[str, ...]
    sections: tuple[str, ...] = ()

    def parts(self, rows: list[dict]) -> dict[str, list[dict]]:
        """The rows of each table by its title."""
        parts: dict[str, list[dict]] = {}
        for row in rows:
            parts.setdefault(", ".join(f"{k} {row[k]}" for k in self.sections), []).append(row)
        return parts


def label(row: dict) -> str:
    return f"{row['method']}/{row['preset']}" if row["preset"] else row["method"]


def by_method(rows: list[dict]) -> dict[str, list[dict]]:
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(label(row), []).append(row)
    return groups


def value(row: dict, key: str) -> float:
    return abs(row["seam"] - row["seam_truth"]) if key == "seam_error" else row[key]


def over_seeds(rows: list[dict], key: str) -> tuple[float, float]:
    """Mean, and standard deviation of the seeds' means."""
    seeds = sorted({r["seed"] for r in rows})
    means = [np.mean([value(r, key) for r in rows if r["seed"] == s]) for s in seeds]
    return float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def by_picture(rows: list[dict], key: str) -> list[float]:
    """One mean per picture over masks and seeds: the independent cases."""
    images = sorted({r["image"] for r in rows})
    return [float(np.mean([value(r, key) for r in rows if r["image"] == i])) for i in images]


def table(layout: Layout, rows: list[dict]) -> str:
    """Means and standard deviations over seeds, one line per method."""
    columns = [c for c in layout.columns if c[0] in rows[0]]
    lines = ["| " + " | ".join(["method", *(c[2] for c in columns)]) + " |", "|" + "---|" * (len(columns) + 1)]
    for name, group in by_method(rows).items():
        cells = [name]
        for key, digits, _ in columns:
            if key == "sharpness":  # median: a mean would be ruled by truths that are nearly flat
                cells.append(f"{np.median([r[key] for r in group]):.2f}")
                continue
            mean, spread = over_seeds(group, key)
            cells.append(f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread > 1e-6 else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def comparison(layout: Layout, rows: list[dict], base: str) -> str:
    """Paired differences to a baseline; negative is better, diversity aside."""
    groups = by_method(rows)
    keys = [k for k in layout.compared if k == "seam_error" or k in rows[0]]
    if base not in groups or not keys:
        return ""
    lines = ["| method | " + " | ".join(keys) + " |", "|---|" + "---|" * len(keys)]
    for name, group in groups.items():
        if name == base:
            continue
        cells = []
        for key in keys:
            mean, half = paired_interval(by_picture(group, key), by_picture(groups[base], key))
            cells.append(f"{mean:+.4g} ± {half:.2g}" + (" *" if abs(mean) > half else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    note = f"Difference to `{base}`, mean over pictures ± half the paired 95 % interval; * excludes zero."
    return f"\n\n{note}\n\n" + "\n".join(lines)


def draw_methods(axis: Any, rows: list[dict], key: str) -> None:
    """Mean and spread over model calls; a line where there are none."""
    from matplotlib import colormaps

    for k, (name, group) in enumerate(by_method(rows).items()):
        mean, spread = over_seeds(group, key)
        if group[0]["calls"] == 0:
            axis.axhline(mean, ls=("--", ":", "-.")[k % 3], color="grey", label=name)
            continue
        colour = colormaps["tab20"](2 * k % 20 + k // 10)
        axis.errorbar(
            group[0]["calls"], mean, spread, fmt="os^vD<>pP*Xh"[k % 12], capsize=3, label=name, ms=8, color=colour
        )
    calls = sorted({r["calls"] for r in rows} - {0})
    ticks = [low for low, high in itertools.pairwise([*calls, math.inf]) if high > 1.05 * low]  # no overlap
    axis.set(xscale="log", xlabel="model calls", xlim=(calls[0] / 1.15, 1.15 * calls[-1]))  # also of what is not shown
    axis.set_xticks(ticks, [str(t) for t in ticks], rotation=60)
    axis.minorticks_off()
    axis.grid(alpha=0.3)


def plot(layout: Layout, rows: list[dict], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = [
        (*p, name, part)
        for name, part in layout.parts(rows).items()
        for p in layout.plotted
        if p[0] == "seam_error" or p[0] in part[0]
    ]
    figure, axes = plt.subplots(2, len(panels) // 2, figsize=(3 + 2.5 * len(panels), 9), layout="constrained")
    for axis, (key, title, name, part) in zip(axes.flat, panels, strict=True):
        draw_methods(axis, part, key)
        axis.set(title=f"{title}, {name}" if name else title)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside right center")
    figure.suptitle(f"{rows[0]['model']}, {rows[0]['split']}: mean and standard deviation over seeds")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def heading(name: str, opts: argparse.Namespace, notes: dict[str, str]) -> dict[str, Any]:
    """Versions, command and date of a run; of paths only the last part."""
    words = []
    for option, given in vars(opts).items():
        if option != "out" and given is not None and given is not False:
            path = option == "model" or isinstance(given, Path)
            one = [] if given is True else [Path(given).name if path else given]
            values = given if isinstance(given, list | tuple) else one
            words.append(" ".join([f"--{option.replace('_', '-')}", *map(str, values)]))
    return {
        "versions": {"torch": torch.__version__, "python": platform.python_version(), **notes},
        "command": f"dev.py bench {name} " + " ".join(words),
        "date": datetime.date.today().isoformat(),
    }


def compact(value: Any) -> Any:
    """Five significant digits; what JSON cannot say becomes null."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None


def as_lines(head: dict[str, Any], rows: list[dict]) -> str:
    """JSON with one row a line."""
    lines = ",\n".join(json.dumps({k: compact(v) for k, v in r.items()}) for r in rows)
    return json.dumps(head, indent=1)[:-2] + ',\n "rows": [\n' + lines + "\n]}\n"


def write(out: Path, layout: Layout, head: dict[str, Any], rows: list[dict]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if not torch.cuda.is_available():  # what a CPU takes says little
        rows = [{k: v for k, v in r.items() if k != "seconds"} for r in rows]
    (out / f"{layout.name}.json").write_text(as_lines(head, rows), encoding="utf-8")
    notes = "".join(f"- {k}: {v}\n" for k, v in head["versions"].items())
    body = f"`{head['command']}`, {head['date']}\n\n{notes}\n{layout.reading}\n"
    for name, part in layout.parts(rows).items():
        compared = "".join(comparison(layout, part, base) for base in layout.baselines)
        body += (f"\n## {name}\n" if name else "") + f"\n{table(layout, part)}{compared}\n"
    (out / f"{layout.name}.md").write_text(body, encoding="utf-8")
    if layout.plotted:
        plot(layout, rows, out / f"{layout.name}.png")
    print(body)


def to_bytes(picture: np.ndarray) -> np.ndarray:
    rgb = np.broadcast_to(picture, (*picture.shape[:2], 3))
    return (rgb * 255).round().clip(0, 255).astype(np.uint8)
