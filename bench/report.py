"""What a benchmark leaves: JSON, a Markdown table, a plot of quality against calls, contact sheets."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from metrics import composite, paired_interval
from pack import ROOT

sys.path.insert(0, str(ROOT / "tools"))
from sheet import draw_sheet

BASELINE = "replacement_equal_calls"
# Column: key, digits, heading.
COLUMNS = (
    ("calls", 0, "calls"),
    ("backward_calls", 0, "backward"),
    ("known_psnr", 1, "known PSNR, dB"),
    ("hidden_pixel_mse", 4, "hidden MSE"),
    ("hidden_feature_distance", 2, "hidden feature distance"),
    ("energy_score", 2, "energy score"),
    ("distribution_distance", 2, "distribution distance"),
    ("sharpness", 2, "sharpness"),
    ("diversity", 2, "diversity"),
)
READING = (
    "Means over pictures and masks ± standard deviation over seeds; sharpness is a median. The energy score is proper: "
    "it is lowest for draws from the true conditional distribution. The feature distance to the one truth alone also "
    "falls with diversity. The distribution distance compares pasted pictures, which share their known parts with the "
    "truths: below zero even for perfect draws, so only its order counts."
)
PLOTTED = (
    ("hidden_feature_distance", "hidden feature distance to the truth"),
    ("energy_score", "energy score (proper; lower is better)"),
    ("seam_error", "|seam - seam of the truth|"),
    ("diversity", "diversity over seeds"),
)


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


def table(rows: list[dict]) -> str:
    """Means and standard deviations over seeds, one line per method."""
    heads = ["method", *(c[2] for c in COLUMNS), "seam (truth)"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, group in by_method(rows).items():
        cells = [name]
        for key, digits, _ in COLUMNS:
            if key == "sharpness":  # median: a mean would be ruled by truths that are nearly flat
                cells.append(f"{np.median([r[key] for r in group]):.2f}")
                continue
            mean, spread = over_seeds(group, key)
            cells.append(f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread > 1e-6 else ""))
        seam, truth = over_seeds(group, "seam")[0], over_seeds(group, "seam_truth")[0]
        lines.append("| " + " | ".join([*cells, f"{seam:.4f} ({truth:.4f})"]) + " |")
    return "\n".join(lines)


def comparison(rows: list[dict]) -> str:
    """Paired differences to replacement at equal calls; negative is better, diversity aside."""
    groups = by_method(rows)
    if BASELINE not in groups:
        return ""
    keys = ("hidden_feature_distance", "energy_score", "seam_error", "hidden_pixel_mse", "diversity")
    lines = ["| method | " + " | ".join(keys) + " |", "|---|" + "---|" * len(keys)]
    for name, group in groups.items():
        if name == BASELINE:
            continue
        cells = []
        for key in keys:
            mean, half = paired_interval(by_picture(group, key), by_picture(groups[BASELINE], key))
            cells.append(f"{mean:+.4g} ± {half:.2g}" + (" *" if abs(mean) > half else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    note = f"Difference to `{BASELINE}`, mean over pictures ± half the paired 95 % interval; * excludes zero."
    return f"\n\n{note}\n\n" + "\n".join(lines)


def plot(rows: list[dict], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    for axis, (key, title) in zip(axes.flat, PLOTTED, strict=True):
        for k, (name, group) in enumerate(by_method(rows).items()):
            mean, spread = over_seeds(group, key)
            marker = "os^vD<>pP*X"[k % 11]
            axis.errorbar(group[0]["calls"], mean, spread, fmt=marker, capsize=3, label=name, ms=8)
        axis.set(xscale="log", xlabel="model calls", title=title)
        ticks = sorted({r["calls"] for r in rows})
        axis.set_xticks(ticks, [str(t) for t in ticks], rotation=60)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside right center")
    figure.suptitle(f"{rows[0]['model']}, {rows[0]['split']}: mean and standard deviation over seeds")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def compact(value: Any) -> Any:
    """Five significant digits; what JSON cannot say becomes null."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None


def as_lines(head: dict[str, Any], rows: list[dict]) -> str:
    """JSON with one row a line."""
    lines = ",\n".join(json.dumps({k: compact(v) for k, v in r.items()}) for r in rows)
    return json.dumps(head, indent=1)[:-2] + ',\n "rows": [\n' + lines + "\n]}\n"


def write(out: Path, head: dict[str, Any], rows: list[dict], name: str = "inpaint") -> None:
    (out / f"{name}.json").write_text(as_lines(head, rows), encoding="utf-8")
    notes = "".join(f"- {k}: {v}\n" for k, v in head["versions"].items())
    body = f"`{head['command']}`, {head['date']}\n\n{notes}\n{READING}\n\n{table(rows)}{comparison(rows)}\n"
    (out / f"{name}.md").write_text(body, encoding="utf-8")
    plot(rows, out / f"{name}.png")
    print(body)


def to_bytes(picture: np.ndarray) -> np.ndarray:
    rgb = np.broadcast_to(picture, (*picture.shape[:2], 3))
    return (rgb * 255).round().clip(0, 255).astype(np.uint8)


def write_sheets(out: Path, cases: Any, pictures: dict[str, np.ndarray], shown: int = 6) -> None:
    """A sheet per mask: the first pictures at the first seed."""
    for mask in cases.masks:
        rows = []
        for k, (m, image, seed) in enumerate(cases.index):
            if m != mask or seed or image >= shown:
                continue
            truth, hidden = cases.truth[k], cases.hidden[k]
            made = [composite(truth, p[k], hidden) for p in pictures.values()]
            line = [to_bytes(p) for p in (truth, np.where(hidden[..., None], 0.5, truth), *made)]
            rows.append((cases.names[image].replace("_", " "), line, [""] * len(line)))
        draw_sheet(f"mask: {mask}", ["truth", "input", *pictures], rows).save(out / f"sheet_{mask}.png")
