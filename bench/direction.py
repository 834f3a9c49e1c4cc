"""The ways from an error in pixels to a direction in the latent: agreement, effect, cost, and the encoder's step h.

    python dev.py bench direction --out DIR [--size 96] [--photos 2]

On photographs, with the tiny autoencoders of SD1.x, SDXL, SD3 and FLUX. At every noise level the estimate is the best
linear (Wiener) one for noise of that deviation on latents with the photographs' own power spectrum: no diffusion model
of these latents is at hand. Writes direction.json and direction.md.
"""

import argparse
import datetime
import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pack import ROOT, sampler
from PIL import Image
from report import as_lines
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

ASSETS = Path(os.environ.get("NEWTON_ASSETS", ROOT.parent / "shared" / "assets"))
# File stem, scale and shift of the latents, as the host's own loader sets them.
VAES = {"SD1.x": ("taesd", 0.18215, 0.0), "SDXL": ("taesdxl", 0.13025, 0.0), "SD3": ("taesd3", 1.5305, 0.0609),
        "FLUX": ("taef1", 0.3611, 0.1159)}  # fmt: skip
NOISE = (0.3, 1.0, 3.0)
STEPS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2)


def load_vae(stem: str, scale: float, shift: float) -> Any:
    import comfy.sd
    from safetensors.torch import load_file

    weights = {"vae_scale": torch.tensor(scale), "vae_shift": torch.tensor(shift)}
    for half in ("encoder", "decoder"):
        part = load_file(ASSETS / "taesd" / f"{stem}_{half}.safetensors")
        weights |= {f"taesd_{half}.{k}": v.float() for k, v in part.items()}
    return comfy.sd.VAE(sd=weights, dtype=torch.float32)


def photographs(count: int, size: int) -> Tensor:
    """Centre crops, (count, 3, size, size) in [0, 1], evenly spaced over the folders."""
    files = sorted((ASSETS / "photos").rglob("*.png")) + sorted((ASSETS / "photos").rglob("*.jpg"))
    files = [files[i] for i in np.linspace(0, len(files) - 1, count).round().astype(int)]
    out = []
    for file in files:
        image = Image.open(file).convert("RGB")
        left, top = (image.width - size) // 2, (image.height - size) // 2
        out.append(np.asarray(image.crop((left, top, left + size, top + size))) / 255)
    return torch.from_numpy(np.stack(out)).float().movedim(-1, 1)


class Case:
    """One autoencoder on the photographs: all ways, and estimates at any noise level."""

    def __init__(self, name: str, pictures: Tensor):
        from newton_pack.nodes import comfy_adapter

        stem, self.scale, self.shift = VAES[name]
        self.vae = load_vae(stem, self.scale, self.shift)
        self.codec = comfy_adapter.PixelCodec(
            self.vae, 0, lambda z: (z - self.shift) * self.scale, lambda z: z / self.scale + self.shift
        )
        self.pictures = pictures
        self.z = torch.cat([self.codec.encode(p) for p in pictures.split(1)])

    def estimate(self, sigma: float) -> Tensor:
        mean = self.z.mean((0, 2, 3), keepdim=True)
        power = torch.fft.rfft2(self.z - mean, norm="ortho").abs().square().mean(0)
        noise = torch.randn(self.z.shape, generator=torch.Generator().manual_seed(0))
        noisy = torch.fft.rfft2(self.z - mean + sigma * noise, norm="ortho")
        return mean + torch.fft.irfft2(noisy * power / (power + sigma**2), s=self.z.shape[-2:], norm="ortho")

    def ways(self, operator: Any, picture: Tensor) -> dict[str, sampler.PixelConstraint]:
        m, codec = sampler.LinearMeasurement(operator, operator.A(picture)), self.codec
        encoder = sampler.EncoderDifference(codec.encode, codec.step)
        return {
            "least_squares": sampler.PixelConstraint(m, codec.decode, sampler.least_squares),
            "encoder": sampler.PixelConstraint(m, codec.decode, encoder),
            "gradient": sampler.PixelConstraint(m, codec.decode, codec.decoder_vjp),
        }

    def drop(self, operator: Any, x0: Tensor, e: Tensor, picture: Tensor) -> float:
        """The residual that the best step along e leaves, as a share of the residual before."""
        y = operator.A(picture)

        def residual(x: Tensor) -> float:
            return (y - operator.A(self.codec.decode(x))).square().mean().sqrt().item()

        before = residual(x0)
        return min(residual(x0 + t * e / e.abs().amax()) for t in (0.25, 0.5, 1.0, 2.0)) / before


def cosine(a: Tensor, b: Tensor) -> float:
    return F.cosine_similarity(a.flatten().double(), b.flatten().double(), 0).item()


def operators(size: int) -> dict[str, Any]:
    areas = {f"area x{f}": sampler.Resample.by_factor((size // f, size // f), f, smooth=True) for f in (4, 8)}
    return areas | {"gaussian blur 2": sampler.Blur(sampler.gaussian_kernel(2.0)), "grey": sampler.grey()}


def agreement(case: Case, name: str, size: int, bar: tqdm) -> list[dict]:
    rows = []
    for label, operator in operators(size).items():
        for sigma in NOISE:
            found = []
            for x0, picture in zip(case.estimate(sigma).split(1), case.pictures.split(1), strict=True):
                e = {k: way.update(x0, 0.0).e for k, way in case.ways(operator, picture).items()}
                found.append(
                    [cosine(e[k], e["gradient"]) for k in e] + [case.drop(operator, x0, e[k], picture) for k in e]
                )
            keys = [f"{what}_{k}" for what in ("cosine", "left") for k in e]
            rows.append({"task": "agreement", "model": name, "operator": label, "sigma": sigma}
                        | dict(zip(keys, np.mean(found, 0).tolist(), strict=True)))  # fmt: skip
            bar.update()
    return rows


def flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def cost(case: Case, name: str, size: int) -> dict:
    """Arithmetic of one error in units of one decode; memory kept for the gradient in units of the host's estimate."""
    operator, picture, x0 = sampler.Resample.by_factor((size // 4, size // 4), 4), case.pictures[:1], case.z[:1]
    m, kept = sampler.LinearMeasurement(operator, operator.A(picture)), {}

    def keep(t: Tensor) -> Tensor:
        kept[t.data_ptr()] = t.nbytes
        return t.detach()

    decode = flops(lambda: case.codec.decode(x0))
    ways = case.ways(operator, picture)
    forward = {f"flops_{k}": flops(partial(ways[k].update, x0, 0.0)) / decode for k in ("least_squares", "encoder")}

    class Alone(type(case.codec)):
        """Without the small decodes that tell the memory beforehand."""

        def make_room(self, x0: Tensor) -> None:
            pass

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        grad = flops(
            lambda: Alone(**vars(case.codec)).decoder_vjp(sampler.Estimate(x0, case.codec.decode), m.data_residual, m)
        )
    host = case.vae.memory_used_decode(x0.shape, torch.float32)
    return {"task": "cost", "model": name, **forward, "flops_gradient": grad / decode,
            "memory_gradient": sum(kept.values()) / host}  # fmt: skip


def steps(case: Case, name: str, size: int) -> list[dict]:
    """Cosine of the encoder's difference in each precision with its derivative, a tiny step in double precision."""
    picture, encoder = case.pictures[:1], case.vae.first_stage_model
    estimate = case.codec.decode(case.estimate(1.0)[:1])
    operator = sampler.Resample.by_factor((size // 4, size // 4), 4)
    e = operator.A_dagger(operator.A(picture - estimate))
    e = e / e.abs().max()

    def difference(h: float) -> Tensor:
        return encoder.encode(2 * (estimate + h * e) - 1) - encoder.encode(2 * estimate - 1)

    estimate, e = estimate.double(), e.double()
    encoder.double()
    exact = difference(1e-6)
    estimate, e = estimate.float(), e.float()
    rows = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        encoder.to(dtype).float()
        hooks = [m.register_forward_hook(partial(rounded, dtype)) for m in encoder.modules()]
        rows.append({"task": "step", "model": name, "dtype": str(dtype)[6:],
                     "cosines": [cosine(difference(h), exact) for h in STEPS]})  # fmt: skip
        for hook in hooks:
            hook.remove()
    return rows


def rounded(dtype: torch.dtype, module: torch.nn.Module, inputs: tuple, output: Tensor) -> Tensor:
    """What a layer gives in half precision where sums are kept in single precision, as on GPUs."""
    return output.to(dtype).float()


AGREEMENT = """What the best step leaves of the residual, along least squares, the encoder's difference and the
gradient, and in brackets the cosines of the first two with the third, by the noise level of the estimate; means over
photographs."""
COST = """Cost of one direction: arithmetic in units of one decode, and the memory kept for the gradient in units of the
host's estimate for a plain decode."""
STEP = "Cosine of the encoder's difference with its derivative, by the step h."


def table(text: str, heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join([text, "", *lines, ""])


def tables(rows: list[dict]) -> str:
    task = {name: [r for r in rows if r["task"] == name] for name in ("agreement", "cost", "step")}
    lines: dict[tuple[str, str], list[str]] = {}
    for r in task["agreement"]:
        left = ", ".join(f"{r[f'left_{k}']:.2f}" for k in ("least_squares", "encoder", "gradient"))
        cell = f"{left} ({r['cosine_least_squares']:.2f}, {r['cosine_encoder']:.2f})"
        lines.setdefault((r["model"], r["operator"]), []).append(cell)
    cost_keys = ("flops_least_squares", "flops_encoder", "flops_gradient", "memory_gradient")
    return "\n".join([
        table(AGREEMENT, ["model", "operator", *(f"σ {s}" for s in NOISE)], [[*k, *v] for k, v in lines.items()]),
        table(COST, ["model", "least squares", "encoder difference", "decoder gradient", "kept for the gradient"],
              [[r["model"], *(f"{r[k]:.2f}" for k in cost_keys)] for r in task["cost"]]),
        table(STEP, ["model", "precision", *(f"h {h}" for h in STEPS)],
              [[r["model"], r["dtype"], *(f"{c:.3f}" for c in r["cosines"])] for r in task["step"]]),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=96, help="side of the pictures, a multiple of 32")
    parser.add_argument("--photos", type=int, default=2)
    parser.add_argument("--models", nargs="+", choices=VAES, default=list(VAES))
    opts = parser.parse_args()
    if not (ASSETS / "taesd").is_dir():
        sys.exit(f"skipped: {ASSETS / 'taesd'} is missing (NEWTON_ASSETS)")
    opts.out.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    pictures, rows = photographs(opts.photos, opts.size), []
    with tqdm(total=len(opts.models) * len(operators(opts.size)) * len(NOISE)) as bar, torch.inference_mode():
        for name in opts.models:
            case = Case(name, pictures)
            rows += [*agreement(case, name, opts.size, bar), cost(case, name, opts.size), *steps(case, name, opts.size)]
    head = {"versions": {"torch": torch.__version__, "python": platform.python_version()},
            "command": f"python dev.py bench direction --size {opts.size} --photos {opts.photos}",
            "date": datetime.date.today().isoformat()}  # fmt: skip
    (opts.out / "direction.json").write_text(as_lines(head, rows), encoding="utf-8")
    text = f"`{head['command']}`, {head['date']}\n\n{tables(rows)}\n"
    (opts.out / "direction.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
