"""The models that are measured, behind one face: pictures and masks in, pictures out."""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import lanpaint
import numpy as np
import small_ddpm
import small_host
import torch
from efficientnet import perceptual_features
from entry import Entry
from methods import Denoiser
from pack import ROOT, sampler
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(ROOT / "demo"))
from avatars import HELDOUT, load_pictures, read_heldout, read_index

AVATARS = ROOT / "demo" / "ncs_avatars.safetensors"
EMOJI = ROOT / "demo" / "ncs_emoji.safetensors"
DEMO = {"avatars": AVATARS, "emoji": EMOJI}
# The pictures that demo/avatars.py and demo/avatars.mjs draw; only the first held-out ones are in the repository.
DRAWN = Path(os.environ.get("NEWTON_AVATARS", ROOT / ".cache" / "train_avatars"))
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=list(DTYPES), help="of the network; else what the host chooses")


class Target(Protocol):
    """A model under test; pictures are float (B, H, W, C) in [0, 1], masks bool (B, H, W), True where hidden."""

    name: str
    notes: dict[str, str]
    dtype: torch.dtype
    rows: dict[str, dict[str, str]]  # attributes of the truths by name, of avatars
    batch: int  # pictures at a time

    def truths(self, split: str, count: int) -> tuple[list[str], np.ndarray]: ...

    def features(self, pictures: np.ndarray) -> np.ndarray: ...

    def inpaint(self, entry: Entry, levels: int, truth: np.ndarray, hidden: np.ndarray, seeds: list[int]) -> tuple:
        """Pictures before any compositing, and the denoiser calls."""
        ...


def conditioning(texts: list[str]) -> list:
    """Words to the host's conditioning, a prompt for each picture of a batch."""
    from newton_pack.nodes.word_vectors import embed_words

    return [[torch.stack([embed_words(t) for t in texts]), {"pooled_output": torch.zeros(len(texts), 768)}]]


def start_noise(shape: tuple[int, ...], seeds: list[int]) -> Tensor:
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds])


class SmallTarget:
    """MNIST or Fashion; the truths are draws from the model itself, other seeds for tuning than for reporting."""

    dtype, rows, batch = torch.float32, {}, 32

    def __init__(self, name: str):
        if not small_ddpm.weights_file(name).exists():
            raise FileNotFoundError(f"skipped: {small_ddpm.weights_file(name)} is missing (NEWTON_ASSETS)")
        self.name, self.model = name, small_ddpm.SmallDenoiser(name)
        self.notes = {
            "features": "the diffusion network's own encoder, 1960 values, on the clean picture at timestep 50",
            "truths": "drawn from the model itself, 100 levels, eta 1; other seeds for tuning than for reporting",
        }

    def truths(self, split: str, count: int) -> tuple[list[str], np.ndarray]:
        drawn = small_ddpm.draw_pictures(self.name, count, seed={"train": 1, "heldout": 2}[split])
        return [f"{self.name}_{i:03}" for i in range(count)], pictures_of(drawn)

    def features(self, pictures: np.ndarray) -> np.ndarray:
        return self.model.features(latents_of(pictures)).numpy()

    def inpaint(self, entry, levels, truth, hidden, seeds):
        if entry.method == "lanpaint":
            model, mask = small_host.load_model(self.name), torch.from_numpy(hidden).float()
            out, calls = lanpaint.sample(model, small_host.PROMPT, latents_of(truth), mask, levels, seeds[0])
            return pictures_of(out), calls
        sigmas, y = small_ddpm.levels(levels), latents_of(truth)
        mask = torch.from_numpy(~hidden).float().unsqueeze(1)
        denoise = Denoiser(self.model, lambda sigma: sampler.Scales(1.0, sigma))
        x = sigmas[0] * start_noise(y.shape[1:], seeds)
        return pictures_of(entry.run(denoise, x, sigmas, y, mask, seeds[0])), denoise.calls


def latents_of(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures).float().movedim(-1, 1) * 2 - 1


def pictures_of(latents: Tensor) -> np.ndarray:
    return ((latents.detach() + 1) / 2).clamp(0, 1).movedim(1, -1).numpy()


class CheckpointTarget:
    """Any checkpoint ComfyUI loads, scheduler `simple`; pictures from a folder of PNG files.

    The host chooses the network's precision unless told. `prompt`, `negative` and `cfg` may be changed; they start as
    none, none and 1. Without a folder the pictures are avatars, and `rows` holds their attributes by name.
    """

    cfg, batch = 1.0, 32

    def __init__(self, file: Path, folder: Path | None = None, dtype: str | None = None):
        sys.path.insert(0, os.environ["COMFYUI_PATH"])
        from comfy.cli_args import args

        args.cpu = not torch.cuda.is_available()
        import comfy.sd
        from newton_pack.nodes import comfy_adapter, fill

        self.adapter, self.fill = comfy_adapter, fill.FILLS["extend"]
        self.name, self.folder = file.stem, folder
        self.rows: dict[str, dict[str, str]] = {}
        self.model, clip, self.vae = comfy.sd.load_checkpoint_guess_config(
            str(file), output_vae=True, output_clip=folder is not None and file not in DEMO.values(),
            model_options={"dtype": DTYPES[dtype]} if dtype else {},
        )[:3]  # fmt: skip
        if dtype:
            self.model.model.manual_cast_dtype = None  # else a CPU would compute in fp32
        self.dtype = self.model.model.manual_cast_dtype or self.model.model.get_dtype()
        if clip is not None:
            self.prompt = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        else:
            self.prompt = conditioning([""])
        self.negative = self.prompt
        self.extract, feature_name = perceptual_features()
        self.notes = {"features": feature_name, "network's precision": str(self.dtype).removeprefix("torch.")}

    def truths(self, split: str, count: int) -> tuple[list[str], np.ndarray]:
        if self.folder is not None:
            files = sorted(self.folder.glob("*.png"))[:count]
            return [f.stem for f in files], read_pictures(files)
        found = heldout_avatars(count) if split == "heldout" else training_avatars(count)
        self.rows.update(zip(found[0], found[1], strict=True))
        return found[0], found[2]

    def features(self, pictures: np.ndarray) -> np.ndarray:
        return self.extract(pictures)

    def inpaint(self, entry, levels, truth, hidden, seeds):
        mask = torch.from_numpy(hidden).float()
        with torch.no_grad():
            samples = self.vae.encode(self.fill(torch.from_numpy(truth).float(), mask))
            weights = sampler.known_weights(mask, *samples.shape[-2:])
        if entry.method == "lanpaint":
            out, calls = lanpaint.sample(self.model, self.prompt, samples, mask, levels, seeds[0])
            return self.decode(out), calls

        def run(denoise: Denoiser, x: Tensor, sigmas: list[float], space: Any) -> Tensor:
            return entry.run(denoise, x, sigmas, space.process_in(samples.to(x)), weights.to(x), seeds[0])

        out, calls = self.sample(run, *self.beginning(levels, entry.strength, samples), seeds)
        return self.decode(out), calls

    def beginning(self, levels: int, strength: float, given: Tensor) -> tuple[Tensor, Tensor]:
        """Noise levels of a run, and the latent that noise of the first one is added to, as the host's `denoise`."""
        sigmas = self.sigmas(int(levels / strength))[-levels - 1 :]
        return sigmas, given if strength < 1 else torch.zeros_like(given)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        return self.vae.decode(latents).clamp(0, 1).cpu().numpy()

    def sigmas(self, levels: int) -> Tensor:
        import comfy.samplers

        return comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "simple", levels)

    def sample(self, run: Callable[..., Tensor], sigmas: Tensor, start: Tensor, seeds: list[int]) -> tuple[Tensor, int]:
        """Latents that run(denoise, x, sigmas, space) makes of `start` with noise of sigmas[0], and the calls."""
        import comfy.sample
        import comfy.samplers
        from newton_pack.nodes.constraint_spec import LatentSpace

        counted = []

        def function(model_k: Any, x: Tensor, sigmas: Tensor, extra_args: dict, callback: Any, disable: Any) -> Tensor:
            base = model_k.inner_model.inner_model
            scales, to_sigma = self.adapter.measured_scales(base.model_sampling), base.model_sampling.percent_to_sigma
            host = self.adapter.HostDenoiser(model_k, extra_args)
            unguided = partial(host, model_options=self.adapter.without_guidance(host.model_options))
            denoise = Denoiser(host, scales, conditional=lambda: host.x0_cond, unguided_model=unguided)
            space = LatentSpace(x.shape, x.device, base.process_latent_in, base.process_latent_out, to_sigma)
            out = run(denoise, x, sigmas.tolist(), space)
            counted.append(denoise.calls)
            return out.detach()

        out = comfy.sample.sample_custom(
            self.model, start_noise(start.shape[1:], seeds), self.cfg, comfy.samplers.KSAMPLER(function), sigmas,
            self.prompt, self.negative, start, disable_pbar=True, seed=seeds[0],
        )  # fmt: skip
        return out, counted[0]


def read_pictures(files: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(f).convert("RGB"), np.float32) / 255 for f in files])


Avatars = tuple[list[str], list[dict[str, str]], np.ndarray]


def heldout_avatars(count: int) -> Avatars:
    """The first `count` held-out avatars in the list's order: names, rows of the index, pictures."""
    rows = read_heldout()[:count]
    return [Path(r["file"]).stem for r in rows], rows, read_pictures([HELDOUT / r["file"] for r in rows])


def training_avatars(count: int) -> Avatars:
    """The first `count` training avatars, for choosing; to be drawn first."""
    if not (DRAWN / "avatars.bin").exists():
        raise FileNotFoundError(f"skipped: {DRAWN / 'avatars.bin'} is missing (demo/avatars.py, NEWTON_AVATARS)")
    every = read_index(DRAWN)
    picked = [i for i, row in enumerate(every) if row["split"] == "train"][:count]
    rows = [every[i] | {"prompt": every[i]["words"]} for i in picked]
    return [f"train_{i:05}" for i in picked], rows, load_pictures(DRAWN)[picked].astype(np.float32) / 255


def open_target(model: str, folder: Path | None, dtype: str | None = None) -> Target:
    if model in ("mnist", "fashion"):
        return SmallTarget(model)
    return CheckpointTarget(DEMO.get(model, Path(model)), folder, dtype)
