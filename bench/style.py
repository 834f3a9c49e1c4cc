"""Style: references give the look, prompts the content; the published loop against ours, on the embedded model.

    python dev.py bench style --out DIR [--references 4 --prompts 4 --seeds 2] [--side 1024] [--only ours/fast ...]

References are the first held-out avatars of each generator in the list's order, prompts the hair colour, skin and
background of the first ones of other generators, which all can draw: what is to come is another generator's look on the
same prompt. The classifier of judge.py says whether it did. The feature network is EfficientNet-Lite0. Every method
starts from the same noise; `plain` samples without a constraint. Larger than the model's 128 pixels it sees windows of
its own size (Window Conditioning) and draws many figures, of which the classifier is not asked.
Writes style.json (a row per picture), style.md, style.png (distance against model calls) and sheet.png.
"""

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch
import vgg
from efficientnet import load_network, patch_tokens
from entry import Entry
from judge import attributes, hit, shared_judge
from metrics import energy_distance, mean_pairwise
from pack import sampler
from targets import AVATARS, CheckpointTarget, add_dtype, conditioning, heldout_avatars, start_noise
from torch import Tensor
from tqdm import tqdm

WANTED = ("hair_colour", "skin", "background")  # of the prompt: what every generator can draw
SIDE = 128  # pixels, of the model's own pictures
MEASURES = ("style_distance", "second_layer_distance", "fine_distance", "vgg_distance", "colour_distance")
LAYOUT = report.Layout(
    name="style",
    columns=(
        ("cfg", 1, "cfg"),
        ("calls", 0, "calls"),
        ("network_evals", 0, "network evaluations"),
        ("backward_calls", 0, "backward"),
        ("style_ratio", 2, "style distance"),
        ("second_layer_ratio", 2, "second layer"),
        ("fine_ratio", 2, "finer patches"),
        ("vgg_ratio", 2, "VGG"),
        ("colour_ratio", 2, "colours"),
        ("style_right", 2, "style right"),
        ("content_score", 2, "attributes kept"),
        ("whole", 2, "whole avatars"),
        ("diversity", 2, "diversity"),
    ),
    reading="Means over references and prompts ± standard deviation over seeds; calls, network evaluations and "
    "backward passes are per picture. Distances to the reference are divided by those of plain sampling with the same "
    "prompt and seed. Style distance is what the methods optimise; the second layer, the same layer in finer patches, "
    "Gram matrices of VGG16 and the colours (energy distance of pixels) are optimised by none. Style right: the "
    "classifier names the reference's generator. Attributes kept: share of the prompt's hair colour, skin and "
    "background that it finds. Diversity: mean feature distance between seeds.",
    plotted=(
        ("style_ratio", "style distance / plain"),
        ("second_layer_ratio", "second layer / plain"),
        ("style_right", "style right"),
        ("content_score", "attributes kept"),
    ),
    baselines=("published/paper",),
    compared=("style_ratio", "style_right", "content_score", "diversity"),
)


def entries() -> list[Entry]:
    fast, paper = sampler.PRESETS["fast"], sampler.PRESETS["paper"]
    forward, gradient = "forward only", "decoder gradient"
    return [
        Entry("plain", "", settings=replace(fast, iterations=0)),
        Entry("ours", "fast", settings=fast, direction=forward),
        Entry("ours", "fast_gradient", settings=fast, direction=gradient),
        Entry("ours", "fast_conditional", settings=replace(fast, conditional_only=True), direction=forward),
        Entry("ours", "fast_guided", settings=replace(fast, guided_up_to=None), direction=forward),
        Entry("ours", "fast_cfg1.5", settings=fast, direction=forward, cfg=1.5),
        Entry("ours", "fast_cfg1", settings=fast, direction=forward, cfg=1.0),
        Entry("published", "paper", settings=paper, direction=gradient),
        Entry("published", "paper_conditional", settings=replace(paper, conditional_only=True), direction=gradient),
    ]


def words_of(row: dict[str, str]) -> str:
    """The prompt of an avatar without the words that tell its style."""
    return f"{row['hair_colour']}hair {row['skin']}skin {row['background']}{row['pattern']}"


class Bench:
    """The model, the feature network, and the pictures that are compared with."""

    def __init__(self, opts: argparse.Namespace):
        self.opts, self.target, self.network = opts, CheckpointTarget(AVATARS, dtype=opts.dtype), load_network()
        from newton_pack.nodes import style, windows

        self.style, self.windows, self.backward = style, windows.WindowConditioning, 0
        names, rows, pictures = heldout_avatars(128)
        self.rows, self.pictures = dict(zip(names, rows, strict=True)), dict(zip(names, pictures, strict=True))
        firsts: dict[str, list[str]] = {}
        for name in names:
            firsts.setdefault(self.rows[name]["style"], []).append(name)
        self.references = [name for group in zip(*firsts.values(), strict=False) for name in group][: opts.references]
        self.names = [name for name in names if name not in self.references]

    def prompts(self, reference: str) -> list[str]:
        """The first pictures of other generators."""
        style = self.rows[reference]["style"]
        return [name for name in self.names if self.rows[name]["style"] != style][: self.opts.prompts]

    def features(self, pictures: Tensor) -> Tensor:
        self.backward += torch.is_grad_enabled()
        return patch_tokens(self.network, self.opts.block, pictures)

    def generate(self, entry: Entry, reference: str) -> tuple[np.ndarray, dict[str, int]]:
        """Pictures (prompts, seeds, H, W, 3) of one reference as one batch, and what one picture cost."""
        import comfy.sample
        import comfy.samplers

        self.backward, reports, adapter, model = 0, [], self.target.adapter, self.target.model
        spec = entry.direction and self.style.StyleSpec(
            channels_first(self.pictures[reference][None]), lambda device: self.features, self.target.vae,
            self.opts.normalisation, entry.direction,
        )  # fmt: skip
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", self.opts.levels)
        cells, seeds, prompts = self.opts.side // 8, self.opts.seeds, self.prompts(reference)
        texts = [words_of(self.rows[prompt]) for prompt in prompts for _ in range(seeds)]
        shape = self.target.vae.latent_channels, cells, cells
        noise = start_noise(shape, [1000 + s for _ in prompts for s in range(seeds)])
        words = conditioning(texts), conditioning([""])
        if self.opts.side > SIDE:
            words = self.windows.execute(*words, {"samples": noise}, SIDE // 8, SIDE // 16).result
        with torch.inference_mode():
            out = comfy.sample.sample_custom(
                model, noise, entry.cfg or self.opts.cfg,
                adapter.make_sampler(spec or None, entry.settings, on_report=reports.append), sigmas,
                *words, torch.zeros_like(noise), disable_pbar=True, seed=1,
            )  # fmt: skip
            pictures = self.target.vae.decode(out).clamp(0, 1).cpu().numpy()
        (done,) = reports
        cost = {"calls": done.calls, "network_evals": done.network_evals, "backward_calls": self.backward}
        return pictures.reshape(len(prompts), seeds, *pictures.shape[1:]), cost

    @torch.no_grad()
    def distances(self, pictures: np.ndarray, reference: str, block: int, side: int = 8) -> np.ndarray:
        features, given = partial(patch_tokens, self.network, block, side=side), self.pictures[reference][None]
        gram = sampler.reference_gram(features, channels_first(given), self.opts.normalisation)
        return sampler.style_distance(features(channels_first(pictures)), gram, self.opts.normalisation).numpy()

    def measure(self, pictures: np.ndarray, reference: str, prompt: str) -> list[dict[str, float]]:
        """One row of measures per seed."""
        opts, given, told = self.opts, self.pictures[reference], attributes(self.rows[prompt])
        measures = {
            "style_distance": self.distances(pictures, reference, opts.block),
            "second_layer_distance": self.distances(pictures, reference, opts.second_block),
            "fine_distance": self.distances(pictures, reference, opts.block, side=32),
            **vgg.style_distances(pictures, given),
            "colour_distance": [colour_distance(p, given) for p in pictures],
            "diversity": [mean_pairwise(self.target.features(pictures))] * len(pictures),
        }
        if opts.side == SIDE:
            read = shared_judge().read(pictures)
            measures |= {
                "style_right": [r["style"] == self.rows[reference]["style"] for r in read],
                "content_score": [np.nanmean([hit(name, r, told) for name in WANTED]) for r in read],
                "whole": shared_judge().whole(pictures),
            }
        return [{k: float(v[i]) for k, v in measures.items()} for i in range(len(pictures))]


def channels_first(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).float().movedim(-1, 1)  # BHWC -> BCHW


def colour_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Energy distance of the two pictures' colours, at 32 pixels each way."""
    return energy_distance(*(p[:: len(p) // 32, :: len(p) // 32].reshape(-1, 3) for p in (a, b)))


def run_all(bench: Bench, chosen: list[Entry]) -> tuple[list[dict], dict[tuple[str, str, str], np.ndarray]]:
    """Rows of all methods, and their pictures (seeds, H, W, 3) by (method, reference, prompt); `plain` comes first."""
    rows, made, free = [], {}, {}
    for entry, reference in tqdm([(e, r) for e in chosen for r in bench.references], unit="run"):
        batch, cost = bench.generate(entry, reference)
        for prompt, pictures in zip(bench.prompts(reference), batch, strict=True):
            made[entry.label, reference, prompt] = pictures
            found = bench.measure(pictures, reference, prompt)
            if not entry.direction:
                free[reference, prompt] = found
            for seed, (measured, unguided) in enumerate(zip(found, free[reference, prompt], strict=True)):
                present = [k for k in MEASURES if k in measured]
                ratios = {f"{k.removesuffix('distance')}ratio": measured[k] / unguided[k] for k in present}
                rows.append({
                    "task": "style", "model": bench.target.name, "method": entry.method, "preset": entry.preset,
                    "image": reference, "prompt": prompt, "seed": seed, "split": "heldout", "levels": bench.opts.levels,
                    "cfg": entry.cfg or bench.opts.cfg, **cost, **measured, **ratios,
                    "style_distance_unguided": unguided["style_distance"],
                })  # fmt: skip
    return rows, made


def draw(bench: Bench, chosen: list[Entry], made: dict[tuple[str, str, str], np.ndarray]) -> Any:
    """The first seed of every reference and prompt."""
    rows = []
    for reference in bench.references:
        for prompt in bench.prompts(reference):
            line = [bench.pictures[reference], *(made[e.label, reference, prompt][0] for e in chosen)]
            name = f"{bench.rows[reference]['style']}; prompt: {words_of(bench.rows[prompt])}"
            rows.append((name, [report.to_bytes(p) for p in line], [""] * len(line)))
    return report.draw_sheet("style", ["reference", *(e.label for e in chosen)], rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--references", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--side", type=int, default=SIDE, help="in pixels, a multiple of the model's 128")
    parser.add_argument("--levels", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--block", type=int, default=0, help="of EfficientNet-Lite0 (16, 0 = the first)")
    parser.add_argument("--second-block", type=int, default=2, help="for the measure that no method optimises")
    parser.add_argument("--normalisation", choices=list(sampler.NORMALISATIONS), default="none")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="beside plain: method, preset or method/preset")
    add_dtype(parser)
    return parser.parse_args()


def main() -> None:
    opts = parse()
    try:
        bench = Bench(opts)
    except ImportError as e:
        sys.exit(f"skipped: {e}; tools/requirements-dev.txt names EfficientNet-Lite0")
    chosen = [e for e in entries() if e.chosen(opts.only and ["plain", *opts.only])]
    rows, made = run_all(bench, chosen)
    report.write(opts.out, LAYOUT, report.heading("style", opts, bench.target.notes | vgg.notes()), rows)
    draw(bench, chosen, made).save(opts.out / "sheet.png")


if __name__ == "__main__":
    main()
