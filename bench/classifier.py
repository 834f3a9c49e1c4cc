"""Train the classifier that judges avatars, and say how right it is.

    python dev.py bench classifier --out DIR [--data FOLDER] [--steps 1000]

FOLDER holds avatars.jsonl and avatars.bin, as demo/avatars.py and demo/avatars.mjs make them. Trained on the training
pictures alone, half of them with a part hidden, blurred and noisy by chance as decoded latents are; broken pictures
(two avatars glued or mixed, bent, smeared, out of place) teach what is not one whole avatar. Writes judge.safetensors
in half precision (copy it to bench/), classifier.json and classifier.md: accuracy on the held-out pictures.
"""

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import report
import torch
import torch.nn.functional as F
from jacobian import write
from judge import ATTRIBUTES, SIDE, Judge, Network, attributes, load_pictures, read_index
from masks import ALL_MASKS, bench_mask
from metrics import wilson
from safetensors.torch import save_file
from targets import DRAWN
from torch import Tensor
from tqdm import tqdm

UNSEEN = -100  # no class: what cross_entropy leaves out
BATCH, BROKEN, RATE = 64, 5, 2e-3  # pictures, broken ones of each kind, learning rate


def uniform(low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape)


@cache
def mask_bank() -> Tensor:
    """(640, 64, 64), 1 where visible: the benchmarks' masks and their opposites, and what is on one side of a line."""
    bank = []
    for seed in range(64):
        cut = SIDE // 4 + seed % (SIDE // 2)
        beyond = np.tile(np.arange(SIDE) >= cut, (SIDE, 1))
        hidden = [bench_mask("half", SIDE, seed), bench_mask("half", SIDE, seed).T, beyond, beyond.T]
        hidden.append(bench_mask(list(ALL_MASKS)[1 + seed % 4], SIDE, seed))
        bank += [part for mask in hidden for part in (mask, ~mask)]
    return torch.from_numpy(np.stack(bank)).float()


def some_masks(count: int) -> Tensor:
    """(count, 1, 64, 64), 1 where visible."""
    return mask_bank()[torch.randint(len(mask_bank()), (count,))][:, None]


def as_decoded(x: Tensor) -> Tensor:
    """Softer, noisier and slightly off in colour, by chance, as what an autoencoder gives."""
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear")
    x = torch.lerp(x, soft, uniform(0, 1, len(x), 1, 1, 1) * (torch.rand(len(x), 1, 1, 1) < 0.5))
    x = x + uniform(-0.03, 0.03, len(x), 3, 1, 1) + 0.02 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)
    return x.clamp(0, 1)


def glued(x: Tensor, other: Tensor) -> Tensor:
    """One avatar beside, below, or within another."""
    return torch.lerp(other, x, some_masks(len(x)))


def mixed(x: Tensor, other: Tensor) -> Tensor:
    return torch.lerp(x, other, uniform(0.3, 0.7, len(x), 1, 1, 1))


def bent(x: Tensor, other: Tensor) -> Tensor:
    """Moved by a smooth random field, of a deviation of a tenth of the width."""
    coarse = 0.22 * torch.randn(len(x), 2, 5, 5)
    field = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic").movedim(1, -1)
    grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid + field, padding_mode="border", align_corners=False)


def smeared(x: Tensor, other: Tensor) -> Tensor:
    """No details, all over or in a part."""
    flat = F.interpolate(F.avg_pool2d(x, 8), scale_factor=8.0, mode="bilinear")
    return torch.lerp(flat, x, some_masks(len(x)) * (torch.rand(len(x), 1, 1, 1) < 0.6))


def out_of_place(x: Tensor, other: Tensor) -> Tensor:
    """Cut off by the border, or in two pieces."""
    shifts = torch.randint(SIDE // 5, SIDE // 2, (len(x),)).tolist()
    return torch.stack([one.roll(s, 1 + i % 2) for i, (one, s) in enumerate(zip(x, shifts, strict=True))])


WAYS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (glued, mixed, bent, smeared, out_of_place)


class Data:
    """Pictures at the network's size and what is to be read from them."""

    def __init__(self, folder: Path):
        rows, pictures = [r for r in read_index(folder) if r["split"] != "backdrop"], load_pictures(folder)
        blocks = range(0, len(rows), 500)
        small = [self.reduced(pictures[i : i + 500]) for i in tqdm(blocks, desc="reducing", mininterval=10)]
        self.pictures, self.split = np.concatenate(small), np.array([r["split"] for r in rows])
        told = [attributes(r) for r in rows]
        self.labels = {
            name: torch.tensor([kinds.index(t[name]) if t[name] in kinds else UNSEEN for t in told])
            for name, kinds in ATTRIBUTES.items()
        }

    @staticmethod
    def reduced(pictures: np.ndarray) -> np.ndarray:
        n, side, *_ = pictures.shape
        k = side // SIDE
        return pictures.reshape(n, SIDE, k, SIDE, k, 3).mean((2, 4)).round().astype(np.uint8)

    def of(self, pick: np.ndarray) -> Tensor:
        return torch.from_numpy(self.pictures[pick]).movedim(-1, 1).float() / 255

    def broken(self, pick: np.ndarray, pool: np.ndarray, way: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Broken pictures; the other avatar, out of the pool, is of another style."""
        style = self.labels["style"].numpy()
        others = [next(k for k in np.random.choice(pool, 200) if style[k] != style[i]) for i in pick]
        return way(self.of(pick), self.of(np.array(others)))


def step(network: Network, data: Data, train: np.ndarray) -> Tensor:
    pick = np.random.choice(train, BATCH)
    bad = torch.cat([data.broken(np.random.choice(train, BROKEN), train, way) for way in WAYS])
    visible = torch.cat([some_masks(BATCH // 2), torch.ones(BATCH // 2 + len(bad), 1, SIDE, SIDE)])
    # All in one batch: statistics of broken pictures by themselves would tell them apart.
    logits, whole = network(torch.cat([as_decoded(data.of(pick)), as_decoded(bad)]), visible)
    loss = sum(F.cross_entropy(logits[name][:BATCH], data.labels[name][pick]) for name in ATTRIBUTES)
    scores = whole[BATCH // 2 :]
    truth = torch.cat([torch.ones(BATCH // 2), torch.zeros(len(bad))])
    return loss + F.binary_cross_entropy_with_logits(scores, truth)


def train(data: Data, steps: int) -> Network:
    network, own = Network(), np.flatnonzero(data.split == "train")
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps, pct_start=0.1)
    for k in (bar := tqdm(range(steps), desc="training", mininterval=10)):
        loss = step(network, data, own)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if k % 50 == 0:
            bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
    return network.eval()


def accuracies(judge: Judge, data: Data) -> list[dict]:
    """Rows: each attribute from whole pictures and from each half, and how many pictures are called whole."""
    held = np.flatnonzero(data.split == "heldout")
    pictures = data.of(held).movedim(1, -1).numpy()
    right = np.tile(bench_mask("half", SIDE, 0), (len(held), 1, 1))
    rows = []

    def add(name: str, view: str, hits: np.ndarray) -> None:
        low, high = wilson(int(hits.sum()), len(hits))
        row = {"task": "model", "model": "classifier", "measure": "attribute_accuracy_truth", "attribute": name}
        rows.append(row | {"view": view, "value": float(hits.mean()), "low": low, "high": high, "n": len(hits)})

    for view, visible in (("whole", None), ("left half", ~right), ("right half", right)):
        read = judge.read(pictures, visible)
        for name, kinds in ATTRIBUTES.items():
            truth = data.labels[name][held].tolist()
            hits = [r[name] == kinds[k] for r, k in zip(read, truth, strict=True) if k != UNSEEN]
            add(name, view, np.array(hits))
    add("one whole avatar", "whole", judge.whole(pictures))
    np.random.seed(0)
    torch.manual_seed(0)
    for way in WAYS:
        add(f"not whole: {way.__name__}", "whole", ~judge.whole(data.broken(held, held, way).movedim(1, -1).numpy()))
    return rows


def table(rows: list[dict]) -> str:
    views = list(dict.fromkeys(r["view"] for r in rows))
    lines = ["| attribute | " + " | ".join(views) + " |", "|---|" + "---|" * len(views)]
    for name in dict.fromkeys(r["attribute"] for r in rows):
        found = {r["view"]: r for r in rows if r["attribute"] == name}
        cells = [f"{found[v]['value']:.1%} ({found[v]['low']:.1%}–{found[v]['high']:.1%})" if v in found else ""
                 for v in views]  # fmt: skip
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DRAWN, help="folder of avatars.jsonl and avatars.bin")
    parser.add_argument("--steps", type=int, default=1000)
    opts = parser.parse_args()
    torch.manual_seed(0)
    np.random.seed(0)
    data = Data(opts.data)
    opts.out.mkdir(parents=True, exist_ok=True)
    weights, file = train(data, opts.steps).state_dict(), opts.out / "judge.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, file)
    rows = accuracies(Judge(file), data)
    body = f"Share of {rows[0]['n']} held-out pictures, 95 % Wilson intervals. Bar: 97 % of the whole.\n\n{table(rows)}"
    write(opts.out, "classifier", report.heading("classifier", opts, {}), rows, body)


if __name__ == "__main__":
    main()
