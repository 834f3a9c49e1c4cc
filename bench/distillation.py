"""A consistency function of the demo model: from any level of noise to where its deterministic sampler ends.

What LCM (arXiv 2310.04378) distils, learned from whole trajectories (Euler, 25 steps) instead of neighbouring steps.
The prompts are those of the training split, half of them dropped. Resumable: trajectories and training state are kept.
"""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from pack import ROOT
from safetensors.torch import load_file, save_file
from targets import AVATARS
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(ROOT / "demo"))
sys.path.append(str(ROOT / "nodes"))

import flow
from avatars import index

PREFIX = "model.diffusion_model."
DEPTH, LEVELS, BATCH = 6, 25, 32
KEPT_BACK = 2  # batches of trajectories, for validation
RATE = 2e-4

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Velocity (B, 16, h, w) of z, times (B,) in [0, 1000] and context (B, 8, 768)."""


def training_prompts() -> flow.Prompts:
    return flow.Prompts([row["words"] for row in index() if row["split"] == "train"])


def estimate(network: Network, z: Tensor, s: Tensor, context: Tensor) -> Tensor:
    """x0 of z (B, 16, 16, 16) at noise levels s (B,) in (0, 1]."""
    v = network(z.to(flow.FAST), 1000 * s, context=context.to(flow.FAST)).float()
    return z - s.view(-1, 1, 1, 1) * v


@torch.no_grad()
def trajectory(teacher: Network, prompts: flow.Prompts, seed: int) -> dict[str, Tensor]:
    """Noisy latents z (25, B, 16, 16, 16) at levels s (25,), their end x0, pick and keep (B,); odd seeds between."""
    generator = torch.Generator().manual_seed(seed)
    pick = torch.randint(len(prompts.words), (BATCH,), generator=generator)
    keep = torch.randint(2, (BATCH,), generator=generator)
    context = prompts.embed(pick, keep[:, None])
    u = 1 - (torch.arange(LEVELS) + seed % 2 / 2) / LEVELS
    s = 3 * u / (1 + 2 * u)  # the host's levels for SD3
    z, path = torch.randn(BATCH, 16, 16, 16, generator=generator), []
    for cur, nxt in zip(s, [*s[1:], torch.tensor(0.0)], strict=True):
        path.append(z)
        x0 = estimate(teacher, z, cur.expand(BATCH), context)
        z = x0 + nxt / cur * (z - x0)
    return {"z": torch.stack(path).half(), "s": s, "x0": z, "pick": pick, "keep": keep}


def draw_trajectories(teacher: Network, prompts: flow.Prompts, folder: Path, count: int) -> list[dict[str, Tensor]]:
    for k in tqdm(range(count), "trajectories", mininterval=30):
        file = folder / f"trajectory_{k:04}.pt"
        if not file.exists():
            torch.save(trajectory(teacher, prompts, k), file)
    return [torch.load(folder / f"trajectory_{k:04}.pt") for k in range(count)]


@torch.no_grad()
def end_errors(network: Network, prompts: flow.Prompts, paths: list[dict[str, Tensor]]) -> str:
    """Mean squared distance of the estimate from the trajectory's end, at five levels of noise."""
    found = []
    for k in (0, 3, 6, 12, 18):
        ends = [
            estimate(network, p["z"][k].float(), p["s"][k].expand(BATCH), prompts.embed(p["pick"], p["keep"][:, None]))
            for p in paths
        ]
        errors = [(end - p["x0"]).square().mean() for end, p in zip(ends, paths, strict=True)]
        found.append(f"{torch.stack(errors).mean():.3f}")
    return " ".join(found)


def train(run: flow.FlowRun, prompts: flow.Prompts, paths: list[dict[str, Tensor]], seconds: float) -> None:
    """Every step sees as many levels as pictures, evenly; losses are relative to their running mean at the level."""
    means = torch.full((LEVELS,), 0.05)
    z, s, x0, pick, keep = (torch.stack([p[name] for p in paths]) for name in ("z", "s", "x0", "pick", "keep"))
    for bar, rate in run.loop("distillation", seconds, RATE, decay=True):
        of, row = torch.randint(len(paths), (BATCH,)), torch.randint(BATCH, (BATCH,))
        level = ((torch.arange(BATCH) + torch.rand(BATCH)) / BATCH * LEVELS).long()
        context = prompts.embed(pick[of, row], keep[of, row][:, None])
        end = estimate(run.fast, z[of, level, row].float(), s[of, level], context)
        error = (end - x0[of, row]).square().mean((1, 2, 3))
        run.update((error / means[level]).mean(), rate)
        for k, e in zip(level, error.detach(), strict=True):
            means[k].lerp_(e, 0.03)
        if run.step % 50 == 0:
            bar.set_postfix_str("error by noise " + " ".join(f"{m:.3f}" for m in means[::5]), refresh=False)


def distil(folder: Path, hours: float, count: int) -> tuple[Path, str]:
    """A checkpoint with the distilled network in place of the demo model's, and how it did on trajectories kept back.

    Args:
        hours: of training in this run, none once the checkpoint is there; trajectories are drawn first.
        count: of trajectories, in batches of 32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, log = folder / "distilled.safetensors", folder / "distilled.txt"
    if not file.exists():
        tensors = load_file(AVATARS)
        weights = {k.removeprefix(PREFIX): v.float() for k, v in tensors.items() if k.startswith(PREFIX)}
        run, prompts = flow.FlowRun(folder / "student.pt", DEPTH, weights), training_prompts()
        teacher = flow.make_mmdit(DEPTH).to(flow.FAST).requires_grad_(False)
        teacher.load_state_dict(weights)
        paths = draw_trajectories(teacher, prompts, folder, count)
        before = end_errors(teacher, prompts, paths[:KEPT_BACK])
        train(run, prompts, paths[KEPT_BACK:], 3600 * hours)
        after = end_errors(copy.deepcopy(run.ema).to(flow.FAST), prompts, paths[:KEPT_BACK])
        log.write_text(
            f"after {run.step} steps on {BATCH * (count - KEPT_BACK)} trajectories; squared distance from the end at "
            f"five levels, on {BATCH * KEPT_BACK} others: {before} at the start, {after} now",
            encoding="utf-8",
        )
        student = {PREFIX + k: v.half().contiguous() for k, v in run.ema.state_dict().items()}
        save_file(tensors | student, file)
    return file, log.read_text(encoding="utf-8")
