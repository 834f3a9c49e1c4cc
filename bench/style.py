"""Style: references give the look, prompts the content; the published loop against ours, on the embedded model.

    python dev.py bench style --out DIR [--references 3 --prompts 2 --seeds 2]

Held-out emoji serve as references and prompts, evenly spaced over the sorted names: nobody chose them. The feature
network is EfficientNet-Lite0. Every method starts from the same noise; `plain` samples without a constraint.
Writes style.json (a row per picture), style.md, style.png and the contact sheet sheet.png.
"""

import argparse
import datetime
import platform
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
from efficientnet import load_network, tokens_after
from metrics import energy_distance, mean_pairwise, paired_interval
from pack import ROOT, sampler
from targets import EMOJI, CheckpointTarget, read_pictures, start_noise
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(ROOT / "demo"))
from emoji import read_index

SECOND_BLOCK = 9  # of the feature network, for the measure that no method optimises
NEAREST = 5


@dataclass(frozen=True)
class Entry:
    """One line of the comparison: a label, the engine's settings, the way to the latent; None = no constraint."""

    label: str
    settings: Any
    direction: str | None
    cfg: float | None = None


def entries() -> list[Entry]:
    fast, paper = sampler.PRESETS["fast"], sampler.PRESETS["paper"]
    return [
        Entry("plain", fast, None),
        Entry("ours/fast", fast, "encoder difference"),
        Entry("ours/conditional_only", replace(fast, conditional_only=True), "encoder difference"),
        Entry("ours/cfg1", fast, "encoder difference", 1.0),
        Entry("published/paper", paper, "decoder gradient"),
        Entry("published/conditional_only", replace(paper, conditional_only=True), "decoder gradient"),
    ]


def heldout() -> dict[str, dict[str, str]]:
    """The index's row of every held-out picture, by file name."""
    rows: dict[str, dict[str, str]] = {}
    families = {r["family"]: r for r in reversed(read_index()) if r["split"] == "heldout"}
    for row in reversed(families.values()):
        name = "_".join(row["words"].split()[:4])
        rows[f"{name}_{row['codepoints']}" if name in rows else name] = row
    return {name: row for name, row in rows.items() if (ROOT / "demo" / "heldout" / f"{name}.png").exists()}


def evenly(names: list[str], count: int, offset: float) -> list[str]:
    """`count` names at the same distance from each other, the first one `offset` of that distance in."""
    return [names[int((i + offset) * len(names) / count)] for i in range(count)]


class Bench:
    """The model, the feature network, and the pictures that are compared with."""

    def __init__(self, opts: argparse.Namespace):
        self.opts, self.target, self.network = opts, CheckpointTarget(EMOJI, None), load_network()
        from newton_pack.nodes import style, words

        self.style, self.words, self.rows = style, words, heldout()
        names = sorted(self.rows)
        self.references, self.prompts = evenly(names, opts.references, 0.25), evenly(names, opts.prompts, 0.75)
        self.gallery = [n for n in names if n not in self.references]
        files = [ROOT / "demo" / "heldout" / f"{n}.png" for n in names]
        self.pictures = dict(zip(names, read_pictures(files), strict=True))
        self.gallery_features = self.target.features(np.stack([self.pictures[n] for n in self.gallery]))

    def load(self, device: torch.device) -> sampler.Features:
        def features(pictures: Tensor) -> Tensor:
            self.backward += torch.is_grad_enabled()
            return tokens_after(self.network, self.opts.block, pictures)

        return features

    def condition(self, text: str) -> list:
        return self.words.WordConditioning.execute(text).result[0]

    def generate(self, entry: Entry, reference: str, prompt: str) -> tuple[np.ndarray, dict[str, int]]:
        """Pictures (seeds, H, W, 3) of one reference and prompt, and what one picture cost."""
        import comfy.sample
        import comfy.samplers

        self.backward, evaluated, calls = 0, [], []
        spec = entry.direction and self.style.StyleSpec(
            as_channels_first(self.pictures[reference]), self.load, self.target.vae, self.opts.normalisation,
            entry.direction,
        )  # fmt: skip
        model = counted(self.target.model, evaluated)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", self.opts.levels)
        noise = start_noise((4, 16, 16), [1000 + s for s in range(self.opts.seeds)])
        settings = entry.settings if spec else replace(entry.settings, iterations=0)
        engine = self.target.adapter.make_sampler(spec, settings, lambda done, total: calls.append(done))
        with torch.inference_mode():
            out = comfy.sample.sample_custom(
                model, noise, entry.cfg or self.opts.cfg, engine, sigmas,
                self.condition(self.rows[prompt]["words"]), self.condition(""), torch.zeros_like(noise),
                disable_pbar=True, seed=1,
            )  # fmt: skip
            pictures = self.target.vae.decode(out).clamp(0, 1).cpu().numpy()
        cost = {"calls": calls[-1], "network_evals": sum(evaluated) // len(noise), "backward_calls": self.backward}
        return pictures, cost

    @torch.no_grad()
    def distances(self, pictures: np.ndarray, reference: str, block: int) -> np.ndarray:
        features = partial(tokens_after, self.network, block)
        ref = sampler.reference_gram(features, as_channels_first(self.pictures[reference]), self.opts.normalisation)
        style = sampler.StyleConstraint(features, ref, None, self.opts.normalisation)
        return style.distance(as_channels_first(pictures)).numpy()

    def measure(self, pictures: np.ndarray, reference: str, prompt: str) -> list[dict[str, float]]:
        """One row of measures per seed."""
        features, category = self.target.features(pictures), self.rows[prompt]["category"]
        near = np.linalg.norm(features[:, None] - self.gallery_features, axis=-1).argsort(1)[:, :NEAREST]
        shares = [np.mean([self.rows[self.gallery[i]]["category"] == category for i in row]) for row in near]
        palette = [colour_distance(p, self.pictures[reference]) for p in pictures]
        measures = {
            "style_distance": self.distances(pictures, reference, self.opts.block),
            "second_layer_distance": self.distances(pictures, reference, SECOND_BLOCK),
            "colour_distance": palette, "content_score": shares,
            "diversity": [mean_pairwise(features)] * len(pictures),
        }  # fmt: skip
        return [{k: float(v[i]) for k, v in measures.items()} for i in range(len(pictures))]


def as_channels_first(pictures: np.ndarray) -> Tensor:
    """(H, W, 3) or (B, H, W, 3) to (B, 3, H, W)."""
    return torch.from_numpy(np.atleast_3d(pictures).reshape(-1, *pictures.shape[-3:])).float().movedim(-1, 1)


def colour_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Energy distance of the two pictures' colours, every fourth pixel each way."""
    return energy_distance(a[::4, ::4].reshape(-1, 3), b[::4, ::4].reshape(-1, 3))


def counted(model: Any, evaluated: list[int]) -> Any:
    """A clone of MODEL that notes the batch of every forward pass of the network."""
    from comfy.patcher_extension import WrappersMP

    def wrapper(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        evaluated.append(len(x))
        return executor(x, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", wrapper)
    return model


def run_all(bench: Bench, chosen: list[Entry]) -> tuple[list[dict], dict[tuple[str, str, str], np.ndarray]]:
    """Rows of all methods, and their pictures by (method, reference, prompt)."""
    rows, pictures, free = [], {}, {}
    cases = [(e, r, p) for e in chosen for r in bench.references for p in bench.prompts]
    for entry, reference, prompt in tqdm(cases, unit="run"):
        if entry.direction is None and prompt in free:  # sampling without a constraint knows no reference
            made, cost = free[prompt]
        else:
            made, cost = bench.generate(entry, reference, prompt)
        if entry.direction is None:
            free[prompt] = made, cost
        pictures[entry.label, reference, prompt] = made
        method, _, preset = entry.label.partition("/")
        unguided = bench.measure(free[prompt][0], reference, prompt)
        for seed, measured in enumerate(bench.measure(made, reference, prompt)):
            rows.append({
                "task": "style", "model": bench.target.name, "method": method, "preset": preset,
                "image": reference, "prompt": bench.rows[prompt]["words"], "seed": seed, "split": "heldout",
                "levels": bench.opts.levels, "cfg": entry.cfg or bench.opts.cfg, **cost, **measured,
                "style_distance_unguided": unguided[seed]["style_distance"],
                "second_layer_distance_unguided": unguided[seed]["second_layer_distance"],
                "colour_distance_unguided": unguided[seed]["colour_distance"],
            })  # fmt: skip
    return rows, pictures


def ratio(group: list[dict], key: str) -> str:
    """Mean over references and prompts of distance / unguided distance, with half its 95 % interval."""
    cases = sorted({(r["image"], r["prompt"]) for r in group})
    of_case = [[r for r in group if (r["image"], r["prompt"]) == c] for c in cases]
    values = [np.mean([r[key] for r in g]) / np.mean([r[f"{key}_unguided"] for r in g]) for g in of_case]
    mean, half = paired_interval(values, np.zeros(len(values)))
    return f"{mean:.2f} ± {half:.2f}"


def table(rows: list[dict]) -> str:
    heads = ["method", "cfg", "calls", "network evals", "backward", "style distance", "second layer", "colours",
             "content", "diversity"]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, group in report.by_method(rows).items():
        first = group[0]
        costs = [f"{first[k]:g}" for k in ("cfg", "calls", "network_evals", "backward_calls")]
        parts = [ratio(group, f"{k}_distance") for k in ("style", "second_layer", "colour")]
        means = [f"{np.mean([r[k] for r in group]):.2f}" for k in ("content_score", "diversity")]
        lines.append("| " + " | ".join([name, *costs, *parts, *means]) + " |")
    return "\n".join(lines)


def plot(rows: list[dict], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for axis, key in zip(axes, ("style_distance", "second_layer_distance"), strict=True):
        for i, (name, group) in enumerate(report.by_method(rows).items()):
            mean, half = ratio(group, key).split(" ± ")
            axis.errorbar(
                group[0]["network_evals"], float(mean), float(half), fmt="os^vD<>pP*X"[i], capsize=3, label=name
            )
        axis.set(xscale="log", xlabel="network evaluations per picture", title=f"{key} / unguided")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def sheet(bench: Bench, chosen: list[Entry], pictures: dict[tuple[str, str, str], np.ndarray]) -> Any:
    """The first seed of every reference and prompt."""
    rows = []
    for reference in bench.references:
        for prompt in bench.prompts:
            line = [bench.pictures[reference], *(pictures[e.label, reference, prompt][0] for e in chosen)]
            name = f"{bench.rows[reference]['words']}; prompt: {bench.rows[prompt]['words']}"
            rows.append((name, [report.to_bytes(p) for p in line], [""] * len(line)))
    return report.draw_sheet("style", ["reference", *(e.label for e in chosen)], rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--references", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--levels", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--block", type=int, default=2, help="of EfficientNet-Lite0 (16, 0 = the first)")
    parser.add_argument("--normalisation", choices=list(sampler.NORMALISATIONS), default="none")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="labels beside plain, such as ours/fast")
    return parser.parse_args()


READING = (
    "Distances are divided by those of plain sampling at the same seeds: mean over references and prompts ± half its "
    f"95 % interval; the second layer (block {SECOND_BLOCK}) and the colours (energy distance) are optimised by no "
    f"method. Content: share of the prompt's category among the {NEAREST} nearest held-out emoji. Diversity: mean "
    "feature distance between seeds. Calls, network evaluations and backward passes are per picture."
)


def main() -> None:
    opts = parse()
    try:
        bench = Bench(opts)
    except ImportError as e:
        sys.exit(f"skipped: EfficientNet-Lite0 is not installed ({e}); tools/requirements-dev.txt names it")
    chosen = [e for e in entries() if not opts.only or e.label in {"plain", *opts.only}]
    rows, pictures = run_all(bench, chosen)
    named = {k: v for k, v in vars(opts).items() if k != "out" and v is not None}
    head = {
        "versions": {"torch": torch.__version__, "python": platform.python_version(), **bench.target.notes},
        "command": "dev.py bench style " + " ".join(f"--{k} {' '.join(v) if k == 'only' else v}" for k, v in named.items()),
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    opts.out.mkdir(parents=True, exist_ok=True)
    (opts.out / "style.json").write_text(report.as_lines(head, rows), encoding="utf-8")
    body = f"`{head['command']}`, {head['date']}\n\n{READING}\n\n{table(rows)}\n"
    (opts.out / "style.md").write_text(body, encoding="utf-8")
    plot(rows, opts.out / "style.png")
    sheet(bench, chosen, pictures).save(opts.out / "sheet.png")
    print(body)


if __name__ == "__main__":
    main()
