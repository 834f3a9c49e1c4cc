"""Train an embedded checkpoint on Noto emoji: a TAESD-format VAE, then an SD1.5-format mini UNet or its flow twin.

Resumable: everything lives in --work and is saved every two minutes. `--hours` is the wall time of this run;
the VAE is trained first (--vae-hours of it, once), the rest goes to the network. `--export FILE` writes the
half-precision checkpoint that the stock CheckpointLoaderSimple loads.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.append(str(Path(__file__).parent.parent / "nodes"))

from emoji import NO_FLIP, draw_all, find_font, read_index
from networks import LAYOUTS, Layout, export, fast_dtype, import_host, make_vae
from tqdm import tqdm
from word_vectors import TOKENS, embed_words

SAVE_EVERY = 120  # seconds
EDGES = 0.25  # weight of the differences of neighbours in the loss of pictures
BANDS = 8  # of the noise level, in the running loss


def load_pictures(work: Path, rows: list[dict[str, str]], font: str | None) -> torch.Tensor:
    """uint8 (N, 4, 128, 128), drawn once and kept."""
    cache = work / "pictures.pt"
    if not cache.exists():
        torch.save(torch.from_numpy(draw_all(rows, find_font(font))).permute(0, 3, 1, 2).contiguous(), cache)
    return torch.load(cache)


def over(rgba: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """uint8 RGBA over a background colour (B, 3, 1, 1), to float RGB in [0, 1]."""
    rgba = rgba.float() / 255
    return rgba[:, :3] * rgba[:, 3:] + background * (1 - rgba[:, 3:])


def autocast(device: str) -> torch.autocast:
    """Computes in the dtype that is fast there."""
    return torch.autocast(device, torch.bfloat16, enabled=fast_dtype(device) != torch.float32)


class Run:
    """One training stage: model, EMA, optimiser and step count, saved together."""

    def __init__(self, file: Path, model: torch.nn.Module, lr: float, device: str):
        self.file, self.step = file, 0
        self.model = model.to(device)
        self.ema = copy.deepcopy(self.model).requires_grad_(False)
        self.opt = torch.optim.AdamW(self.model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
        if file.exists():
            state = torch.load(file, map_location=device)
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            self.opt.load_state_dict(state["opt"])
            self.step = state["step"]

    def save(self) -> None:
        state = {k: getattr(self, k).state_dict() for k in ("model", "ema", "opt")} | {"step": self.step}
        torch.save(state, self.file.with_suffix(".tmp"))
        self.file.with_suffix(".tmp").replace(self.file)

    def loop(self, seconds: float, lr: float, name: str) -> Iterator[tqdm]:
        """Yield until the time is up; the caller computes a loss and calls `update`."""
        end, saved = time.time() + seconds, time.time()
        with tqdm(desc=name, initial=self.step, unit="step", mininterval=10) as bar:
            while time.time() < end:
                # Short warm-up, then a decay to a tenth over this run.
                left = max(0.1, (end - time.time()) / seconds)
                for group in self.opt.param_groups:
                    group["lr"] = lr * min(1, (self.step + 1) / 200) * left
                yield bar
                bar.update()
                if time.time() - saved > SAVE_EVERY:
                    self.save()
                    saved = time.time()
        self.save()

    def update(self, loss: torch.Tensor) -> None:
        self.opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.opt.step()
        self.step += 1
        decay = min(0.999, self.step / (self.step + 50))
        with torch.no_grad():
            for e, p in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                e.lerp_(p, 1 - decay)


def picture_loss(out: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared error per picture, and the loss of pictures (B, 3, H, W) in [0, 1].

    The logarithm weighs flat and busy pictures alike, as the median PSNR does, L1 faint and strong lines; differences
    of neighbours, at two scales, keep flat areas flat: feature networks see a texture of one grey level.
    """
    error = out.float() - image
    each = error.square().mean((1, 2, 3))
    edges = sum(e.diff(dim=k).abs().mean() for e in (error, F.avg_pool2d(error, 2)) for k in (2, 3))
    return each, 0.004 * torch.log(each + 1e-3).mean() + 0.12 * error.abs().mean() + EDGES * edges


def vae_step(run: Run, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One update on pictures (B, 3, H, W) in [0, 1]; returns the mean squared error and how far from normal z is."""
    image = image.contiguous(memory_format=torch.channels_last)
    with autocast(image.device.type):
        z = run.model.taesd_encoder(image)
        out = run.model.taesd_decoder(z + 0.03 * torch.randn_like(z))
    z = z.float()
    each, loss = picture_loss(out, image)
    spread = z.mean((0, 2, 3)).square().sum() + (z.var((0, 2, 3)) - 1).square().sum()
    run.update(loss + 1e-4 * spread)
    return each.detach().mean(), spread.detach()


def train_vae(run: Run, pictures: torch.Tensor, seconds: float, device: str) -> None:
    """Autoencoder on 64 px crops; latents are kept near zero mean and unit variance, and slightly noisy."""
    smooth = 0.0
    for bar in run.loop(seconds, 1e-3, "VAE"):
        pick = torch.randint(len(pictures), (8,))
        crop = torch.stack([random_crop(pictures[i], 64) for i in pick]).to(device)
        white = torch.rand(8, 1, 1, 1, device=device) < 0.5
        image = over(crop, torch.where(white, 1.0, torch.rand(8, 3, 1, 1, device=device)))
        mse, spread = vae_step(run, image)
        smooth = 0.99 * smooth + 0.01 * mse.item()
        if run.step % 50 == 0:
            bar.set_postfix_str(f"PSNR {-10 * torch.log10(torch.tensor(smooth)):.1f} dB, spread {spread:.3f}")


def start_from(vae: torch.nn.Module, file: Path) -> torch.nn.Module:
    """What fits of another layout's trained autoencoder: all but the convolutions next to the latent."""
    if file.exists():
        trained, own = torch.load(file, map_location="cpu")["ema"], vae.state_dict()
        vae.load_state_dict(own | {k: v for k, v in trained.items() if v.shape == own[k].shape})
    return vae


def random_crop(picture: torch.Tensor, size: int) -> torch.Tensor:
    y, x = torch.randint(0, 128 - size + 1, (2,)).tolist()
    return picture[:, y : y + size, x : x + size]


@torch.no_grad()
def encode_all(vae: torch.nn.Module, pictures: torch.Tensor, device: str) -> torch.Tensor:
    """Latents (N, 2, C, 16, 16) of every picture on white and of its mirror image, in half precision."""
    out = []
    for batch in tqdm(pictures.split(32), desc="encoding", unit="batch"):
        image = over(batch.to(device), torch.ones(1, 3, 1, 1, device=device))
        with autocast(device):
            sides = [vae.taesd_encoder(v.to(memory_format=torch.channels_last)) for v in (image, image.flip(-1))]
        out.append(torch.stack(sides, 1).half())
    return torch.cat(out)


def train_network(
    run: Run,
    layout: Layout,
    latents: torch.Tensor,
    rows: list[dict[str, str]],
    drop: float,
    seconds: float,
    device: str,
) -> None:
    """Prediction of the layout's target at uniform u; words are dropped singly, and all together in a share `drop`.

    The loss is relative to its running mean at the same noise level (as in EDM2, arXiv 2312.02696, section 2.3), else
    the unpredictable detail of low noise drowns the shapes, which are decided at high noise.
    """
    context = torch.stack([embed_words(r["words"]) for r in rows])
    flips = torch.tensor([r["category"] not in NO_FLIP for r in rows])
    bands = torch.ones(BANDS)
    log = run.file.with_suffix(".jsonl").open("a")
    for bar in run.loop(seconds, 3e-4, run.file.stem):
        pick = torch.randint(len(rows), (16,))
        side = torch.randint(2, (16,)) * flips[pick]
        keep = torch.rand(16, TOKENS, 1) > 0.15
        whole = torch.rand(16, 1, 1) > drop
        u = (torch.arange(16) + torch.rand(16)) / 16  # every band in every step
        band = (BANDS * u).long()
        z, u = latents[pick, side].to(device), u.to(device)
        x, t, target = layout.target(z, torch.randn_like(z), u)
        with autocast(device):
            out = run.model(x, t, context=(context[pick] * keep * whole).to(device))
        loss = (out.float() - target).square().mean((1, 2, 3))
        run.update((loss / bands[band].to(device)).mean())
        bands.lerp_(loss.detach().cpu().view(BANDS, -1).mean(1), 0.02)
        if run.step % 50 == 0:
            bar.set_postfix_str("loss by noise " + " ".join(f"{b:.3f}" for b in bands))
        if run.step % 500 == 0:
            print(json.dumps({"step": run.step, "loss": bands.tolist()}), file=log, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", required=True, help="folder of a ComfyUI")
    parser.add_argument("--work", type=Path, required=True, help="folder for caches and training state")
    parser.add_argument("--layout", choices=list(LAYOUTS), default="sd15")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--vae-hours", type=float, default=0.3)
    parser.add_argument("--font", help="path of NotoColorEmoji.ttf with bitmaps")
    parser.add_argument("--drop", type=float, default=0.1, help="share of prompts dropped as a whole")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--export", type=Path, help="write the checkpoint here when the time is up")
    opts = parser.parse_args()

    torch.set_num_threads(opts.threads)
    torch.manual_seed(opts.seed)
    import_host(opts.comfyui)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    opts.work.mkdir(parents=True, exist_ok=True)
    rows = read_index()
    pictures = load_pictures(opts.work, rows, opts.font)
    # The font may lack the newest emoji: they draw as nothing.
    train = torch.tensor([r["split"] == "train" for r in rows]) & pictures[:, 3].flatten(1).any(1)

    end, layout = time.time() + 3600 * opts.hours, LAYOUTS[opts.layout]
    vae_done = opts.work / f"{opts.layout}_latents.pt"
    fresh = start_from(make_vae(layout.channels), opts.work / "sd15_vae.pt")
    vae = Run(opts.work / f"{opts.layout}_vae.pt", fresh, 1e-3, device)
    if not vae_done.exists():
        train_vae(vae, pictures[train], 3600 * opts.vae_hours, device)
        torch.save(encode_all(vae.ema, pictures, device), vae_done)
    latents = torch.load(vae_done)[train].float()
    mean, std = latents.mean(), latents.std()
    latents = (latents - mean) / std
    network = Run(opts.work / f"{opts.layout}.pt", layout.make(), 3e-4, device)
    torch.manual_seed(opts.seed + network.step)
    kept = [r for r, used in zip(rows, train, strict=True) if used]
    train_network(network, layout, latents, kept, opts.drop, end - time.time(), device)
    if opts.export:
        meta = {
            "modelspec.title": "Newton Constrained Sampling demo (Noto emoji, 128 px)",
            "modelspec.license": "MIT; pictures: Noto Emoji, SIL OFL 1.1 / Apache-2.0",
            "trained_by": "demo/train.py",
            "steps": str(network.step),
            "seed": str(opts.seed),
        }
        export(opts.export, layout, vae.ema, mean, std, network.ema, meta)


if __name__ == "__main__":
    main()
