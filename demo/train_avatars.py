"""Train the avatar checkpoint: a TAESD-format autoencoder, then a flow transformer in SD3's format.

The pictures come from `avatars.py` and `avatars.mjs`, in --data. Everything made here lives in --work, is saved every
few minutes, and the same command goes on from there; the first begins with the shipped checkpoint. `--hours` is the
wall time of this run, `--decay` lets the learning rate fall to zero over it (for the last run; --rate 4e-4 for a short
one), `--vae-hours` once there are latents trains the decoder alone, on the encoder's latents and on the transformer's,
`--export FILE` writes the half-precision checkpoint at its end.
"""

import argparse
import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

sys.path.append(str(Path(__file__).parent.parent / "nodes"))

import flow
from avatars import load_pictures, read_index
from networks import LAYOUTS, export, import_host, make_vae
from safetensors import safe_open
from train import Run, autocast, picture_loss, vae_step

SHIPPED = Path(__file__).parent / "ncs_avatars.safetensors"
LAYOUT = LAYOUTS["sd3"]
VAE_RATE, RENEWED = 5e-4, 5120
SHEET_PROMPTS, SHEET_SEEDS, GUIDANCE = 8, 2, 2.5


def as_float(pictures: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 255


def shipped(prefix: str) -> dict[str, Tensor]:
    """Weights of the shipped checkpoint whose names begin with `prefix`, without it."""
    with safe_open(SHIPPED, "pt") as file:
        return {k.removeprefix(prefix): file.get_tensor(k).float() for k in file.keys() if k.startswith(prefix)}  # noqa: SIM118


def shipped_steps() -> int:
    """How many steps the shipped transformer was trained."""
    with safe_open(SHIPPED, "pt") as file:
        return int(file.metadata()["steps"])


def shipped_vae() -> torch.nn.Module:
    """The autoencoder of the shipped checkpoint, to start from."""
    vae = make_vae(LAYOUT.channels)
    scales = {k: v for k, v in vae.state_dict().items() if not k.startswith("taesd_")}
    vae.load_state_dict(shipped("first_stage_model.") | scales)
    return vae


@torch.no_grad()
def psnr(vae: torch.nn.Module, pictures: np.ndarray) -> Tensor:
    """dB, per picture."""
    out = []
    for i in range(0, len(pictures), 20):
        image = as_float(pictures[i : i + 20])
        error = vae.taesd_decoder(vae.taesd_encoder(image)).clamp(0, 1) - image
        out.append(-10 * torch.log10(error.square().mean((1, 2, 3))))
    return torch.cat(out)


def train_vae(run: Run, pictures: np.ndarray, train: np.ndarray, held: np.ndarray, seconds: float) -> None:
    """On 64 px crops of the training pictures."""
    for _ in run.loop(seconds, VAE_RATE, "autoencoder"):
        y, x = np.random.randint(0, 65, 2)
        vae_step(run, as_float(np.stack([pictures[i, y : y + 64, x : x + 64] for i in np.random.choice(train, 8)])))
        if run.step % 500 == 0:
            tqdm.write(f"step {run.step}: held-out median {psnr(run.ema, pictures[held[:60]]).median():.2f} dB")


def train_decoder(run: Run, pictures: np.ndarray, encoded: Tensor, renewed: Tensor, seconds: float) -> None:
    """On 64 px crops: half from the encoder's latents with a little noise, half from those of `flow.renew`.

    Both (N, 16, 16, 16), of the pictures (N, 128, 128, 3) in their order.
    """
    for _ in run.loop(seconds, VAE_RATE, "decoder"):
        crops = [(i, *np.random.randint(0, 9, 2)) for i in np.random.choice(len(pictures), 8)]
        noisy = [z + 0.05 * torch.rand(1) * torch.randn_like(z) for z in cut(encoded, crops[:4])]
        image = as_float(np.stack([pictures[i, 8 * y : 8 * y + 64, 8 * x : 8 * x + 64] for i, y, x in crops]))
        with autocast("cpu"):
            out = run.model.taesd_decoder(torch.stack(noisy + cut(renewed, crops[4:])))
        run.update(picture_loss(out, image)[1])


def cut(latents: Tensor, crops: list[tuple[int, int, int]]) -> list[Tensor]:
    """(16, 8, 8) of each picture at these rows and columns."""
    return [latents[i, :, y : y + 8, x : x + 8].float() for i, y, x in crops]


@torch.no_grad()
def encode_all(vae: torch.nn.Module, pictures: np.ndarray) -> Tensor:
    """Latents (N, 16, 16, 16) in half precision."""
    encoder = copy.deepcopy(vae.taesd_encoder).to(flow.FAST)
    starts = tqdm(range(0, len(pictures), 8), desc="encoding", unit="batch", mininterval=30)
    batches = (as_float(pictures[i : i + 8]).contiguous(memory_format=torch.channels_last) for i in starts)
    return torch.cat([encoder(image.to(flow.FAST)).half() for image in batches])


def normalised(latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of zero mean and unit deviation over all, and these two."""
    mean, std = latents[::10].float().mean(), latents[::10].float().std()
    return ((latents.float() - mean) / std).half(), mean, std


class Checks:
    """What is looked at while the network trains: losses on held-out and on training pictures, and a sheet."""

    def __init__(self, latents: Tensor, prompts: flow.Prompts, truths: np.ndarray, train: Tensor, held: Tensor,
                 vae: torch.nn.Module, mean: Tensor, std: Tensor):  # fmt: skip
        self.latents, self.prompts, self.truths = latents, prompts, truths
        self.train, self.held, self.vae, self.mean, self.std = train[:64], held[:64], vae, mean, std

    def __call__(self, run: flow.FlowRun) -> dict[str, list[float]]:
        Image.fromarray(self.sheet(run)).save(run.file.with_name(f"sheet_{run.step:06}.png"))
        return {
            "heldout": flow.losses(run, self.latents, self.prompts, self.held),
            "train": flow.losses(run, self.latents, self.prompts, self.train),
        }

    @torch.no_grad()
    def sheet(self, run: flow.FlowRun) -> np.ndarray:
        """A column for each of the first held-out pictures: it, samples of its words; below, samples without words."""
        model, generator = copy.deepcopy(run.ema).to(flow.FAST), torch.Generator().manual_seed(0)
        shape = self.latents.shape[1:]
        context = self.prompts.embed(self.held[:SHEET_PROMPTS]).repeat(SHEET_SEEDS, 1, 1)
        noise = torch.randn(len(context), *shape, generator=generator)
        free = torch.randn(SHEET_PROMPTS, *shape, generator=generator)
        nothing = torch.zeros(len(free), *context.shape[1:])
        out = torch.cat([flow.sample(model, context, noise, GUIDANCE), flow.sample(model, nothing, free, 1)])
        images = self.vae.taesd_decoder(out * self.std + self.mean).clamp(0, 1)
        made = (255 * images).round().byte().permute(0, 2, 3, 1).numpy()
        every = np.concatenate([self.truths[:SHEET_PROMPTS], made])
        rows = [np.concatenate(list(every[i : i + SHEET_PROMPTS]), 1) for i in range(0, len(every), SHEET_PROMPTS)]
        return np.concatenate(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", required=True, help="folder of a ComfyUI")
    parser.add_argument("--data", type=Path, required=True, help="folder of avatars.jsonl and avatars.bin")
    parser.add_argument("--work", type=Path, required=True, help="folder for training state")
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument(
        "--vae-hours",
        type=float,
        default=0.0,
        help="of this, for the autoencoder; once there are latents, for its decoder alone",
    )
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--anew", action="store_true", help="begin with random weights, as another depth needs")
    parser.add_argument("--rate", type=float, default=1e-3, help="of learning, for the transformer")
    parser.add_argument("--decay", action="store_true", help="let the learning rate fall to zero over this run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--export", type=Path, help="write the checkpoint here when the time is up")
    opts = parser.parse_args()

    end = time.time() + 3600 * opts.hours
    torch.set_num_threads(opts.threads)
    import_host(opts.comfyui)
    opts.work.mkdir(parents=True, exist_ok=True)
    rows, pictures = read_index(opts.data), load_pictures(opts.data)
    split = np.array([r["split"] for r in rows])
    train, held = np.flatnonzero((split == "train") | (split == "backdrop")), np.flatnonzero(split == "heldout")

    encoded = opts.work / "latents.pt"
    torch.manual_seed(opts.seed)
    np.random.seed(opts.seed)
    vae = Run(opts.work / "vae.pt", shipped_vae(), VAE_RATE, "cpu")
    decoder_alone = encoded.exists()
    if not decoder_alone:
        if opts.vae_hours:
            train_vae(vae, pictures, train, held, 3600 * opts.vae_hours)
        torch.save(encode_all(vae.ema, pictures), encoded)
    latents, mean, std = normalised(torch.load(encoded))

    start = () if opts.anew else (shipped("model.diffusion_model."), shipped_steps())
    run = flow.FlowRun(opts.work / "flow.pt", opts.depth, *start)
    torch.manual_seed(opts.seed + run.step)
    words = [r["words"] for r in rows]
    if opts.vae_hours and decoder_alone:
        some = np.random.choice(train, RENEWED, replace=False)
        renewed = flow.renew(run.ema, latents, flow.Prompts(words), torch.from_numpy(some))
        raw = [z.float() * std + mean for z in (latents[some], renewed)]
        train_decoder(vae, pictures[some], *raw, 3600 * opts.vae_hours)
    if opts.vae_hours:
        print(f"autoencoder: held-out median {psnr(vae.ema, pictures[held]).median():.2f} dB")
    train, held = torch.from_numpy(train), torch.from_numpy(held)
    check = Checks(latents, flow.Prompts(words), pictures[held[:SHEET_PROMPTS]], train, held, vae.ema, mean, std)
    kept = flow.Prompts([words[i] for i in train])
    told = torch.from_numpy(split == "backdrop")[train]
    flow.train(run, latents[train], kept, told, end - time.time(), opts.rate, opts.decay, check)
    if opts.export:
        meta = {
            "modelspec.title": "Newton Constrained Sampling demo (avatars, 128 px)",
            "modelspec.license": "MIT; pictures: by DiceBear from designs under CC BY 4.0, see demo/DATA_CARD.md",
            "trained_by": "demo/train_avatars.py",
            "steps": str(run.step),
            "seed": str(opts.seed),
        }
        export(opts.export, LAYOUT, vae.ema, mean, std, run.ema, meta)


if __name__ == "__main__":
    main()
