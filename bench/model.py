"""The embedded checkpoint by itself: autoencoder, denoising loss, prompts, and how near held-out pictures are.

    python dev.py bench model --out DIR [--checkpoint FILE]

Writes model.json and model.md: PSNR of the autoencoder, denoising loss by noise level on held-out families beside as
many training pictures (a gap is memorising), each held-out picture's nearest training picture, and how often a
prompt's words are among the words of the training picture nearest to what it made; sheets of samples. Training
pictures are drawn from the Noto Color Emoji font; where it is missing, what needs them is left out.
"""

import argparse
import datetime
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from metrics import paired_interval
from report import draw_sheet, to_bytes
from targets import EMOJI, CheckpointTarget, add_dtype, start_noise, training_emoji
from torch import Tensor
from tqdm import tqdm

BANDS = (0, 125, 250, 375, 500, 625, 750, 875, 1000)
PROMPTS = (
    "cat face", "red heart", "flag", "clock face", "moon face", "woman", "hand", "face smiling", "fruit", "car",
    "square", "book", "animals bird", "building", "arrow", "flower",
)  # fmt: skip
GUIDANCE = 4.0


def conditioning(text: str) -> list:
    from newton_pack.nodes.word_vectors import embed_words

    return [[embed_words(text).unsqueeze(0), {"pooled_output": torch.zeros(1, 768)}]]


def sample(target: CheckpointTarget, prompt: str, seeds: list[int], cfg: float, steps: int = 30) -> np.ndarray:
    """Pictures (B, H, W, 3) by the stock euler_ancestral."""
    import comfy.sample

    noise = start_noise((4, 16, 16), seeds)
    out = comfy.sample.sample(
        target.model, noise, steps, cfg, "euler_ancestral", "simple", conditioning(prompt), conditioning(""),
        torch.zeros_like(noise), disable_pbar=True, seed=seeds[0],
    )  # fmt: skip
    return decode(target, out)


@torch.no_grad()
def decode(target: CheckpointTarget, latents: Tensor) -> np.ndarray:
    return target.vae.decode(latents).clamp(0, 1).cpu().numpy()


@torch.no_grad()
def encode(target: CheckpointTarget, pictures: np.ndarray) -> Tensor:
    return target.vae.encode(torch.from_numpy(pictures).float())


def vae_psnr(target: CheckpointTarget, pictures: np.ndarray) -> np.ndarray:
    """dB, per picture."""
    error = decode(target, encode(target, pictures)) - pictures
    return -10 * np.log10(np.square(error).mean((1, 2, 3)))


@torch.no_grad()
def losses(target: CheckpointTarget, pictures: np.ndarray, words: list[str], repeats: int) -> np.ndarray:
    """Squared error of the predicted noise, (B, bands), prompted with the picture's own words."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([target.model])
    base = target.model.model
    z = base.process_latent_in(encode(target, pictures))
    context = torch.cat([conditioning(w)[0][0] for w in words])
    out = np.zeros((len(z), len(BANDS) - 1))
    generator = torch.Generator().manual_seed(0)
    for b, (low, high) in enumerate(pairwise(BANDS)):
        for _ in range(repeats):
            t = torch.randint(low, high, (len(z),), generator=generator)
            sigma = base.model_sampling.sigma(t)
            noise = torch.randn(z.shape, generator=generator)
            x = z + sigma.view(-1, 1, 1, 1) * noise
            x0 = torch.cat([
                base.apply_model(x[i : i + 32], sigma[i : i + 32], c_crossattn=context[i : i + 32])
                for i in range(0, len(z), 32)
            ])  # fmt: skip
            predicted = (x - x0) / sigma.view(-1, 1, 1, 1)
            out[:, b] += (predicted - noise).square().mean((1, 2, 3)).numpy() / repeats
    return out


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index into b and distance of the nearest vector, for each of a."""
    d = np.sqrt((a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)[None] + 1e-6)
    return d.argmin(1), d.min(1)


def loss_table(held: np.ndarray, train: np.ndarray) -> str:
    lines = ["| timestep | held-out | training | difference, 95 % |", "|---|---|---|---|"]
    for b, (low, high) in enumerate(pairwise(BANDS)):
        half = np.hypot(
            paired_interval(held[:, b], 0 * held[:, b])[1], paired_interval(train[:, b], 0 * train[:, b])[1]
        )
        gap = held[:, b].mean() - train[:, b].mean()
        lines.append(f"| {low}–{high} | {held[:, b].mean():.4f} | {train[:, b].mean():.4f} | {gap:+.4f} ± {half:.4f} |")
    return "\n".join(lines)


def prompted(target: CheckpointTarget, seeds: int, words: list[str], features: np.ndarray) -> tuple[list, str, list]:
    """Rows of the JSON, the table, and the rows of the sheet."""
    rows, lines, sheet = [], ["| prompt | hit | among the 5 nearest | training pictures |", "|---|---|---|---|"], []
    for k, prompt in enumerate(tqdm(PROMPTS, desc="prompts")):
        made = sample(target, prompt, list(range(1000 * k, 1000 * k + seeds)), GUIDANCE)
        wanted = set(prompt.split())
        fits = np.array([wanted <= set(w.split()) for w in words])
        f = target.features(made)
        order = np.argsort(((f[:, None] - features[None]) ** 2).sum(-1), axis=1)
        hit, among = fits[order[:, 0]].mean(), fits[order[:, :5]].any(1).mean()
        rows.append({"prompt": prompt, "hit": hit, "among_5": among, "share": fits.mean()})
        lines.append(f"| {prompt} | {hit:.0%} | {among:.0%} | {fits.mean():.1%} |")
        captions = [words[i][:24] for i in order[:6, 0]]
        sheet.append((f"prompt: {prompt}; below: the nearest training picture's words", [to_bytes(p) for p in made[:6]],
                      captions))  # fmt: skip
    mean = {k: float(np.mean([r[k] for r in rows])) for k in ("hit", "among_5", "share")}
    lines.append(f"| **all** | {mean['hit']:.0%} | {mean['among_5']:.0%} | {mean['share']:.1%} |")
    return rows, "\n".join(lines), sheet


def all_words(names: list[str]) -> list[str]:
    """The words of held-out pictures, which are named by their first four."""
    from emoji import read_index

    rows = [r for r in read_index() if r["split"] == "heldout"]
    return [next(r["words"] for r in rows if n.startswith("_".join(r["words"].split()[:4]))) for n in names]


def against_training(
    target: CheckpointTarget, names: list[str], held: np.ndarray, opts: argparse.Namespace
) -> tuple[dict, list[str], list]:
    """What needs the training pictures: entries of the JSON, paragraphs, rows of the prompted sheet."""
    words, train = training_emoji(None)
    few = np.linspace(0, len(train) - 1, len(held)).round().astype(int)
    loss = [losses(target, held, all_words(names), opts.repeats)]
    loss += [losses(target, train[few], [words[i] for i in few], opts.repeats)]
    own, features = target.features(held), target.features(train)
    index, distance = nearest(own, features)
    among = np.array([nearest(features[[i]], np.delete(features, i, 0))[1][0] for i in few])
    rows, table, sheet = prompted(target, opts.seeds, words, features)
    found = {
        "loss": {"heldout": loss[0].tolist(), "train": loss[1].tolist()},
        "nearest": {n: [words[i], float(d)] for n, i, d in zip(names, index, distance, strict=True)},
        "prompts": rows,
    }
    closest = distance.argmin()
    text = [
        "Denoising loss by noise level, prompted with each picture's own words:\n\n" + loss_table(*loss),
        f"Feature distance to the nearest training picture: held-out median {np.median(distance):.2f}, least "
        f"{distance[closest]:.2f} ({names[closest]}: {words[index[closest]]}); of as many training pictures to the "
        f"other training pictures: median {np.median(among):.2f}.",
        f"Prompts at cfg {GUIDANCE}: share of {opts.seeds} samples whose nearest training picture has all of the "
        "prompt's words; the last column is the rate by chance.\n\n" + table,
    ]
    return found, text, sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=EMOJI)
    parser.add_argument("--seeds", type=int, default=8, help="samples per prompt")
    parser.add_argument("--repeats", type=int, default=8, help="noise draws per picture and noise band")
    add_dtype(parser)
    opts = parser.parse_args()
    opts.out.mkdir(parents=True, exist_ok=True)
    target = CheckpointTarget(opts.checkpoint, dtype=opts.dtype)
    names, held = target.truths("heldout", 10**6)
    psnr = vae_psnr(target, held)
    free = [
        ("", [to_bytes(p) for p in sample(target, "", list(range(i, i + 6)), 1.0)], [""] * 6) for i in range(0, 36, 6)
    ]
    draw_sheet("no prompt, cfg 1, euler_ancestral, 30 steps", [""] * 6, free).save(opts.out / "sheet_free.png")
    found = {"vae_psnr": dict(zip(names, psnr.tolist(), strict=True))}
    text = [
        f"Autoencoder on {len(held)} held-out pictures: median PSNR {np.median(psnr):.2f} dB, least {psnr.min():.1f}."
    ]
    try:
        more, paragraphs, sheet = against_training(target, names, held, opts)
    except SystemExit as e:
        text.append(f"Left out, for want of training pictures: {e}")
    else:
        found |= more
        text += paragraphs
        draw_sheet(f"prompted, cfg {GUIDANCE}", [""] * 6, sheet).save(opts.out / "sheet_prompts.png")
    head = {"versions": {"torch": torch.__version__, **target.notes}, "command": "dev.py bench model",
            "checkpoint": opts.checkpoint.name, "date": datetime.date.today().isoformat()}  # fmt: skip
    (opts.out / "model.json").write_text(json.dumps(head | found, indent=1), encoding="utf-8")
    (opts.out / "model.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
