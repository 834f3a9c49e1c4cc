"""The models at hand as the benchmarks of the Jacobian see them: x0 and its products at chosen noise levels."""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import small_ddpm
import torch
from pack import sampler
from targets import DEMO, CheckpointTarget, conditioning
from torch import Tensor

from newton_pack.sampler import jacobian  # isort: skip

# Prompted or not, and the guidance scale.
GUIDANCE = {"no prompt": (False, 1.0), "prompt": (True, 1.0), "prompt, cfg 4": (True, 4.0)}
NO_GUIDANCE = "no prompt"


@dataclass
class View:
    """One model under one guidance.

    Attributes:
        name, guidance: as in the rows.
        names, z: the pictures and their latents (N, C, h, w), in the model's coordinates.
        other: latents of other pictures, in the same order.
        at: sigma to x0 of x (1, C, h, w).
        scales: of the noisy input at a sigma.
        sigma_at: noise over signal to sigma.
        decode: x0 to pictures (N, H, W, 3 or 1) in [0, 1].
        features: of such pictures, (N, d).
    """

    name: str
    guidance: str
    names: list[str]
    z: Tensor
    other: Tensor
    at: Callable[[float], jacobian.Function]
    scales: Callable[[float], Any]
    sigma_at: Callable[[float], float]
    decode: Callable[[Tensor], np.ndarray]
    features: Callable[[np.ndarray], np.ndarray]

    def noisy(self, z: Tensor, sigma: float, seed: int) -> Tensor:
        """x = alpha z + s n, one noise per picture and seed."""
        scales = self.scales(sigma)
        noise = torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(seed))
        return scales.alpha * z + scales.s * noise

    def transposed(self, x: Tensor, sigma: float) -> tuple[Tensor, jacobian.Function]:
        return jacobian.transposed(self.at(sigma), x)


def no_grad(f: jacobian.Function) -> jacobian.Function:
    def without(x: Tensor) -> Tensor:
        with torch.no_grad():
            return f(x)

    return without


def small_views(name: str, count: int) -> Iterator[View]:
    """MNIST or Fashion without the clipping of x0, which would make J 0 where it acts; truths are its own draws."""
    model = small_ddpm.SmallDenoiser(name)

    def at(sigma: float) -> jacobian.Function:
        t = (small_ddpm.SIGMAS.log() - np.log(sigma)).abs().argmin()
        return lambda x: x - sigma * model.net(x / (1 + sigma**2) ** 0.5, t.expand(len(x)))

    def decode(x0: Tensor) -> np.ndarray:
        return ((x0.detach().clamp(-1, 1) + 1) / 2).movedim(1, -1).numpy()

    def features(pictures: np.ndarray) -> np.ndarray:
        return model.features(torch.from_numpy(pictures).float().movedim(-1, 1) * 2 - 1).numpy()

    z = small_ddpm.draw_pictures(name, count, seed=2)
    names = [f"{name}_{i:03}" for i in range(count)]
    scales = lambda sigma: sampler.Scales(1.0, sigma)  # noqa: E731
    yield View(name, NO_GUIDANCE, names, z, z.roll(-1, 0), at, scales, lambda ratio: ratio, decode, features)


def checkpoint_views(
    file: Path, folder: Path | None, count: int, guidance: list[str], work: Callable[[View], None]
) -> None:
    """Calls `work` with each guidance; with prompts once a picture, under its own."""
    target = CheckpointTarget(file, folder)
    names, pictures = target.truths("heldout", count)
    with torch.no_grad():
        latents = target.vae.encode(torch.from_numpy(pictures).float())
    plain = target.prompt
    for name in guidance:
        prompted, target.cfg = GUIDANCE[name]
        for i in range(len(names)) if prompted else [None]:
            chosen = slice(None) if i is None else slice(i, i + 1)
            target.prompt = conditioning([target.rows[names[i]]["prompt"]]) if prompted else plain
            inspect(target, name, names[chosen], latents[chosen], latents.roll(-1, 0)[chosen], work)


def inspect(
    target: CheckpointTarget,
    guidance: str,
    names: list[str],
    latents: Tensor,
    other: Tensor,
    work: Callable[[View], None],
) -> None:
    """Calls `work` inside a sampling run of the host; `other` are the latents of other pictures."""
    from newton_pack.nodes.comfy_adapter.inspection import sigma_at

    sampling = target.model.get_model_object("model_sampling")

    def run(denoise: Any, x: Tensor, sigmas: list[float], space: Any) -> Tensor:
        view = View(
            target.name, guidance, names, *(space.process_in(z.to(x.device)) for z in (latents, other)),
            lambda sigma: lambda x: denoise(x, sigma), denoise.scales, lambda r: sigma_at(sampling, "--noise", r),
            lambda x0: target.decode(space.process_out(x0.detach())), target.features,
        )  # fmt: skip
        work(view)
        return x

    target.sample(run, torch.tensor([float(sampling.sigma_max), 0.0]), torch.zeros_like(latents[:1]), [0])


def add_models(parser: argparse.ArgumentParser, models: list[str]) -> None:
    parser.add_argument("--models", nargs="+", default=models, help="avatars, mnist, fashion or checkpoint files")
    parser.add_argument("--folder", type=Path, help="square RGB PNG files, for checkpoint files")
    parser.add_argument("--guidance", nargs="+", choices=list(GUIDANCE), help="default: all for the demo models")


def over_models(opts: argparse.Namespace, count: int, work: Callable[[View], None]) -> None:
    """Calls `work` with every model and guidance."""
    for model in opts.models:
        if model in ("mnist", "fashion"):
            if not small_ddpm.weights_file(model).exists():
                print(f"skipped: {small_ddpm.weights_file(model)} is missing (NEWTON_ASSETS)")
                continue
            for view in small_views(model, count):
                work(view)
            continue
        file = DEMO.get(model)
        if file is None and opts.folder is None:
            sys.exit(f"--folder: name one with PNG files, the pictures on which {model} is to be looked at")
        guidance = opts.guidance or (list(GUIDANCE) if file else [NO_GUIDANCE])
        checkpoint_views(file or Path(model), None if file else opts.folder, count, guidance, work)
