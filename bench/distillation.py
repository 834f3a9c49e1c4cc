"""A consistency function of the demo model: from any level of noise to where its deterministic sampler ends.

What LCM (arXiv 2310.04378) distils, learned from whole trajectories (DDIM, 25 steps) instead of neighbouring steps. The
prompts are those of the training split, half of them dropped. Resumable: trajectories and training state are kept.
"""

import sys
from pathlib import Path

import torch
from pack import ROOT
from safetensors.torch import load_file, save_file
from targets import EMOJI
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(ROOT / "demo"))
sys.path.append(str(ROOT / "nodes"))

from emoji import read_index
from networks import make_unet
from train import Run
from word_vectors import embed_words

PREFIX = "model.diffusion_model."
BATCH, STRIDE = 16, 40
KEPT_BACK = 3  # trajectories for validation


def alpha_bar() -> Tensor:
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()


def contexts() -> Tensor:
    return torch.stack([embed_words(r["words"]) for r in read_index() if r["split"] == "train"])


def estimate(network: torch.nn.Module, z: Tensor, t: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """x0 and the predicted noise of variance preserving z (B, 4, 16, 16) at timesteps t (B,)."""
    a = alpha_bar()[t].view(-1, 1, 1, 1)
    with torch.autocast(z.device.type, torch.bfloat16):
        eps = network(z, t.float(), context=context).float()
    return (z - (1 - a).sqrt() * eps) / a.sqrt(), eps


@torch.no_grad()
def trajectory(teacher: torch.nn.Module, every: Tensor, seed: int) -> dict[str, Tensor]:
    """Noisy latents z (25, B, 4, 16, 16) at timesteps t (25,), their end x0 and context; odd seeds lie between."""
    generator = torch.Generator().manual_seed(seed)
    pick = torch.randint(len(every), (BATCH,), generator=generator)
    context = every[pick] * (torch.rand(BATCH, 1, 1, generator=generator) > 0.5)
    z, path = torch.randn(BATCH, 4, 16, 16, generator=generator), []
    t = torch.arange(999 - STRIDE // 2 * (seed % 2), 0, -STRIDE)
    for k in range(len(t)):
        path.append(z)
        x0, eps = estimate(teacher, z, t[k].expand(BATCH), context)
        a = alpha_bar()[t[min(k + 1, len(t) - 1)]]
        z = a.sqrt() * x0 + (1 - a).sqrt() * eps
    return {"z": torch.stack(path).half(), "t": t, "x0": x0, "context": context}


def draw_trajectories(teacher: torch.nn.Module, folder: Path, count: int) -> list[dict[str, Tensor]]:
    every = contexts()
    for k in tqdm(range(count), "trajectories"):
        file = folder / f"trajectory_{k:04}.pt"
        if not file.exists():
            torch.save(trajectory(teacher, every, k), file)
    return [torch.load(folder / f"trajectory_{k:04}.pt") for k in range(count)]


@torch.no_grad()
def end_errors(network: torch.nn.Module, paths: list[dict[str, Tensor]]) -> str:
    """Mean squared distance of the estimate from the trajectory's end, at five levels of noise."""
    found = []
    for k in (0, 3, 6, 12, 18):
        ends = [estimate(network, p["z"][k].float(), p["t"][k].expand(BATCH), p["context"])[0] - p["x0"] for p in paths]
        found.append(f"{torch.stack(ends).square().mean():.3f}")
    return " ".join(found)


def train(run: Run, paths: list[dict[str, Tensor]], seconds: float) -> None:
    """Every step sees 16 levels, evenly; the loss is relative to its running mean at the same level."""
    means = torch.full((len(paths[0]["t"]),), 0.05)
    for bar in run.loop(seconds, 1e-4, "distillation"):
        of, row = torch.randint(len(paths), (BATCH,)), torch.randint(BATCH, (BATCH,))
        level = ((torch.arange(BATCH) + torch.rand(BATCH)) / BATCH * len(means)).long()
        at = list(zip(of.tolist(), level.tolist(), row.tolist(), strict=True))
        z, t = torch.stack([paths[p]["z"][k, b] for p, k, b in at]), torch.stack([paths[p]["t"][k] for p, k, _ in at])
        context = torch.stack([paths[p]["context"][b] for p, _, b in at])
        end = torch.stack([paths[p]["x0"][b] for p, _, b in at])
        error = (estimate(run.model, z.float(), t, context)[0] - end).square().mean((1, 2, 3))
        run.update((error / means[level]).mean())
        means[level] = means[level].lerp(error.detach(), 0.03)
        if run.step % 25 == 0:
            bar.set_postfix_str("error by noise " + " ".join(f"{m:.3f}" for m in means[::5]))


def distil(folder: Path, hours: float, count: int) -> tuple[Path, str]:
    """A checkpoint with the distilled network in place of the demo model's, and how it did on trajectories kept back.

    Args:
        hours: of training in this run, none once the checkpoint is there; trajectories are drawn first.
        count: of trajectories of 16 samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, log = folder / "distilled.safetensors", folder / "distilled.txt"
    if not file.exists():
        tensors = load_file(EMOJI)
        teacher = make_unet()
        teacher.load_state_dict({k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)})
        paths = draw_trajectories(teacher.requires_grad_(False), folder, count)
        run = Run(folder / "student.pt", teacher.requires_grad_(True), 1e-4, "cpu")
        before = end_errors(run.model, paths[:KEPT_BACK])
        train(run, paths[KEPT_BACK:], 3600 * hours)
        after = end_errors(run.ema, paths[:KEPT_BACK])
        log.write_text(
            f"after {run.step} steps on {BATCH * (count - KEPT_BACK)} trajectories; squared distance from the end at "
            f"five levels, on {BATCH * KEPT_BACK} others: {before} at the start, {after} now",
            encoding="utf-8",
        )
        student = {PREFIX + k: v.half() for k, v in run.ema.state_dict().items()}
        save_file({k: v.contiguous() for k, v in (tensors | student).items()}, file)
    return file, log.read_text(encoding="utf-8")
