"""The embedded checkpoint by itself, judged on the held-out avatars in the list's order.

    python dev.py bench model --out DIR [--images 128] [--seeds 3] [--checkpoint FILE]

The autoencoder, samples without a prompt and under held-out prompts, and half pictures completed by our default and by
stock replacement at equal calls, read by the classifier of judge.py. Writes model.json, model.md with the bars beside
the figures, and contact sheets. Resumable: what was made is kept in DIR/made; use a new DIR after changes.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import report
import torch
from inpaint import Cases, run_entry
from jacobian import write
from judge import ATTRIBUTES, KEPT, Judge, agreement, attributes, hit
from methods import entries
from metrics import bootstrap, composite, set_distance, wilson
from scipy.spatial.distance import cdist
from targets import AVATARS, CheckpointTarget, add_dtype, conditioning, start_noise
from tqdm import tqdm

USED = tuple(name for name in ATTRIBUTES if name != "hair")
PROMPTED = ("style", "hair_colour", "skin", "glasses")
COMPLETED = {"ours": "ours/fast", "replacement_equal_calls": "replacement_equal_calls"}
# Of whose figures, and what is asked of them; of the distance ratio at most, of the others at least.
BARS = {
    "psnr_median": ("autoencoder", 30.0), "attribute_accuracy_truth": ("truth", 0.97), "complete_share": ("free", 0.95),
    "prompt_right": ("prompted", 0.85), "half_agreement": ("ours", 0.9), "distance_ratio": ("free", 2.0),
}  # fmt: skip
ALL = "all of these"
READING = (
    "autoencoded: the true pictures through encoder and decoder. half agreement: read from the generated half alone, "
    "and of the truth from the same half of the true picture. Intervals are 95 %: Wilson for shares of independent "
    "samples, else by bootstrap over pictures, the seeds of a picture together. distance ratio: energy distance of "
    "features between samples and held-out pictures over that of two halves of the held-out pictures, sets of equal "
    "size; the interval is over random halves. free to autoencoded: samples against the held-out pictures as the "
    "autoencoder gives them, over halves of those: what is left of the distance without the autoencoder's share."
)


def sample(target: CheckpointTarget, texts: list[str], seeds: list[int], opts: argparse.Namespace) -> np.ndarray:
    """Pictures (B, H, W, 3) by stock `euler`; without a prompt without guidance."""
    import comfy.sample

    made = []
    for first in tqdm(range(0, len(seeds), target.batch), desc="sampling", unit="batch"):
        part = slice(first, first + target.batch)
        noise = start_noise((target.vae.latent_channels, 16, 16), seeds[part])
        out = comfy.sample.sample(
            target.model, noise, opts.levels, opts.cfg if any(texts) else 1.0, "euler", "simple",
            conditioning(texts[part]), conditioning([""]), torch.zeros_like(noise), disable_pbar=True, seed=0,
        )  # fmt: skip
        made.append(target.decode(out))
    return np.concatenate(made)


def kept(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What was made earlier, or now; as 8-bit pictures."""
    if not file.exists():
        np.save(file, (255 * make()).round().astype(np.uint8))
    return np.load(file).astype(np.float32) / 255


class Bench:
    """The model and the held-out pictures, and the rows that are found."""

    def __init__(self, opts: argparse.Namespace):
        self.opts, self.target, self.judge = opts, CheckpointTarget(opts.checkpoint, dtype=opts.dtype), Judge()
        self.cases = Cases(self.target, "heldout", opts.images, opts.seeds, ["half"])
        self.held = self.cases.pictures
        self.told = [attributes(self.target.rows[name]) for name in self.cases.names]
        self.prompts = [self.target.rows[name]["prompt"] for name in self.cases.names]
        self.made, self.rows = opts.out / "made", []
        self.made.mkdir(parents=True, exist_ok=True)

    def add(self, measure: str, method: str, attribute: str, value: float, interval: tuple[float, float]) -> None:
        low, high = interval
        row = {"task": "model", "model": self.target.name, "measure": measure, "method": method}
        row |= {"attribute": attribute, "value": float(value), "interval": (high - low) / 2, "low": low, "high": high}
        self.rows.append(row)

    def add_shares(self, measure: str, method: str, hits: dict[str, np.ndarray], joint: bool = True) -> None:
        """Of each attribute's hits (pictures, seeds), NaN where there is no such attribute, and of all together."""
        if joint:
            hits = hits | {ALL: np.nanmin(np.stack(list(hits.values())), 0)}
        for name, values in hits.items():
            found = values[~np.isnan(values).any(1)].mean(1)
            self.add(measure, method, name, found.mean(), bootstrap(found, np.mean))

    def right(self, pictures: np.ndarray, names: tuple[str, ...], seeds: int) -> dict[str, np.ndarray]:
        """Hits (pictures, seeds) of each attribute against the index; pictures run slower than seeds."""
        read, told = self.judge.read(pictures), [t for t in self.told for _ in range(seeds)]
        hits = {name: [hit(name, r, t) for r, t in zip(read, told, strict=True)] for name in names}
        return {name: np.array(values, float).reshape(-1, seeds) for name, values in hits.items()}

    @torch.no_grad()
    def autoencoder(self) -> None:
        latents = self.target.vae.encode(torch.from_numpy(self.held).float())
        decoded = self.target.decode(latents)
        psnr = -10 * np.log10(np.square(decoded - self.held).mean((1, 2, 3)))
        self.add("psnr_median", "autoencoder", "", np.median(psnr), bootstrap(psnr, np.median))
        for method, pictures in (("truth", self.held), ("autoencoded", decoded)):
            self.add_shares("attribute_accuracy_truth", method, self.right(pictures, USED, 1), joint=False)
            self.add_whole(method, pictures)
        self.decoded_features = self.target.features(decoded)
        self.add_ratio("autoencoded", self.decoded_features, self.cases.truth_features)

    def add_whole(self, method: str, pictures: np.ndarray, seeds: int = 1) -> None:
        """The interval counts pictures all of whose seeds are whole: seeds of one prompt are not independent."""
        whole = self.judge.whole(pictures)
        every = whole.reshape(-1, seeds).all(1)
        self.add("complete_share", method, "", whole.mean(), wilson(int(every.sum()), len(every)))

    def free(self) -> np.ndarray:
        count = len(self.cases.index)
        seeds = [50_000 + k for k in range(count)]
        made = kept(self.made / "free.npy", lambda: sample(self.target, [""] * count, seeds, self.opts))
        self.add_whole("free", made)
        features = self.target.features(made)
        self.add_ratio("free", features, self.cases.truth_features)
        self.add_ratio("free to autoencoded", features, self.decoded_features)
        return made

    def add_ratio(self, method: str, features: np.ndarray, truths: np.ndarray) -> None:
        """Of the distance of sets of features to the truths over that of halves of the truths."""
        every, n, rng, found = np.concatenate([truths, features]), len(truths), np.random.default_rng(0), []
        d = cdist(every, every)
        for _ in range(200):
            order, drawn = rng.permutation(n), n + rng.permutation(len(features))[: n // 2]
            halves = order[: n // 2], order[n // 2 : n // 2 * 2]
            found.append((set_distance(d, drawn, halves[0]), set_distance(d, *halves)))
        samples, own = np.array(found).T
        spread = np.percentile(samples / own, (2.5, 97.5)).tolist()
        self.add("distance_ratio", method, "", samples.mean() / own.mean(), tuple(spread))

    def prompted(self) -> np.ndarray:
        texts = [self.prompts[i] for _, i, _ in self.cases.index]
        make = lambda: sample(self.target, texts, self.cases.noise_seeds, self.opts)  # noqa: E731
        made = kept(self.made / "prompted.npy", make)
        self.add_shares("prompt_right", "prompted", self.right(made, PROMPTED, self.opts.seeds))
        self.add_whole("prompted", made, self.opts.seeds)
        return made

    def halves(self) -> dict[str, np.ndarray]:
        """Half pictures completed by each method, without a prompt."""
        cases, filled, hits = self.cases, {}, {}
        rows = [self.target.rows[cases.names[i]] for _, i, _ in cases.index]
        chosen = {e.label: e for e in entries(self.target.dtype)}
        with tqdm(total=2 * len(cases.index), unit="picture") as bar:
            for method, label in COMPLETED.items():
                made = run_entry(self.target, chosen[label], self.opts.levels, cases, self.made, bar)[0]
                pasted = np.stack([composite(*c) for c in zip(cases.truth, made, cases.hidden, strict=True)])
                filled[method] = pasted
        for method, pictures in [("truth", cases.truth), *filled.items()]:
            found = agreement(self.judge, rows, pictures, cases.hidden)
            hits[method] = {name: found[:, k].reshape(-1, self.opts.seeds) for k, name in enumerate(KEPT)}
            self.add_shares("half_agreement", method, hits[method])
        ours, other = (np.nanmean(np.stack(list(hits[m].values())), (0, 2)) for m in COMPLETED)
        self.add(
            "half_agreement", "ours - replacement", "mean", (ours - other).mean(), bootstrap(ours - other, np.mean)
        )
        return filled


def table(rows: list[dict]) -> str:
    lines = ["| measure | of | attribute | value | 95 % | bar |", "|---|---|---|---|---|---|"]
    for r in rows:
        measured, (judged, bar) = r["measure"], BARS[r["measure"]]
        digits = "{:.2f}" if measured in ("psnr_median", "distance_ratio") else "{:.1%}"
        most = measured == "distance_ratio"
        passed = r["value"] <= bar if most else r["value"] >= bar
        cells = [measured.replace("_", " "), r["method"].replace("_", " "), r["attribute"].replace("_", " ")]
        cells += [digits.format(r["value"]), f"{digits.format(r['low'])} to {digits.format(r['high'])}"]
        cells += [
            f"{'≤' if most else '≥'} {digits.format(bar)}: {'yes' if passed else 'no'}" if r["method"] == judged else ""
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_sheets(bench: Bench, free: np.ndarray, prompted: np.ndarray, filled: dict[str, np.ndarray]) -> None:
    out, cases, seeds = bench.opts.out, bench.cases, bench.opts.seeds
    some = [("", [report.to_bytes(p) for p in free[i : i + 8]], [""] * len(free[i : i + 8])) for i in range(0, 48, 8)]
    report.draw_sheet("no prompt", [""] * 8, [row for row in some if row[1]]).save(out / "sheet_free.png")
    rows, half_rows = [], []
    for i in range(min(12, len(bench.held))):
        k, truth = i * seeds, report.to_bytes(bench.held[i])
        rows.append(
            (bench.prompts[i], [truth, *(report.to_bytes(p) for p in prompted[k : k + seeds])], [""] * (seeds + 1))
        )
        given = np.where(cases.hidden[k][..., None], 0.5, bench.held[i])
        line = [truth, report.to_bytes(given)] + [report.to_bytes(m[k]) for m in filled.values()]
        half_rows.append((cases.names[i], line, [""] * len(line)))
    report.draw_sheet("prompted", ["truth", *[""] * seeds], rows).save(out / "sheet_prompts.png")
    report.draw_sheet("halves", ["truth", "given", *filled], half_rows).save(out / "sheet_halves.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=AVATARS)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--levels", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=2.5, help="of the prompted samples")
    add_dtype(parser)
    opts = parser.parse_args()
    bench = Bench(opts)
    bench.autoencoder()
    write_sheets(bench, bench.free(), bench.prompted(), bench.halves())
    body = f"{len(bench.held)} held-out pictures, {opts.seeds} seeds. {READING}\n\n{table(bench.rows)}"
    write(opts.out, "model", report.heading("model", opts, bench.target.notes), bench.rows, body)


if __name__ == "__main__":
    main()
