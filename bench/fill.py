"""How much the fill of unknown pixels disturbs the encoding of known cells.

For every picture and mask: rms difference between the encoding of the filled and of the true picture over the known
cells that touch an unknown one, in units of the latent's deviation. The embedded VAE on held-out avatars; TAESD (SD1.x)
on photographs where the assets are there.
"""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from masks import MASKS
from pack import sampler
from PIL import Image
from torch import Tensor
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("NEWTON_ASSETS", ROOT.parent / "shared" / "assets"))


def module(name: str, file: Path):
    spec = importlib.util.spec_from_file_location(name, file)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


FILLS = module("fill", ROOT / "nodes" / "fill.py").FILLS
known_weights = sampler.known_weights


def load_vae(weights: dict[str, Tensor], channels: int) -> torch.nn.Module:
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = True
    from comfy.taesd.taesd import TAESD

    vae = TAESD(latent_channels=channels).float()
    vae.load_state_dict(weights, strict=False)
    return vae


def pictures(files: list[Path], size: int) -> Tensor:
    """Centre crops, (B, size, size, 3) in [0, 1]."""
    out = []
    for file in files:
        image = Image.open(file).convert("RGB")
        left, top = (image.width - size) // 2, (image.height - size) // 2
        out.append(np.asarray(image.crop((left, top, left + size, top + size))) / 255)
    return torch.from_numpy(np.stack(out)).float()


def cases() -> list[tuple[str, torch.nn.Module, Tensor]]:
    from safetensors.torch import load_file

    prefix = "first_stage_model."
    weights = load_file(ROOT / "demo" / "ncs_avatars.safetensors")
    own = {k.removeprefix(prefix): v.float() for k, v in weights.items() if k.startswith(prefix)}
    files = sorted((ROOT / "demo/heldout").glob("*.png"))
    found = [("embedded, held-out avatars", load_vae(own, 16), pictures(files, 128))]
    taesd = ASSETS / "taesd" / "taesd_encoder.safetensors"
    if taesd.exists():
        vae = load_vae({f"taesd_encoder.{k}": v.float() for k, v in load_file(taesd).items()}, 4)
        photos = sorted((ASSETS / "photos" / "CBSD68").glob("*.png")) + sorted((ASSETS / "photos/CSet5").glob("*.png"))
        large = [f for f in photos if min(Image.open(f).size) >= 256]
        found.append(("TAESD, photographs", vae, pictures(large, 256)))
    else:
        print(f"skipped: TAESD on photographs, {taesd} is missing (NEWTON_ASSETS)")
    return found


@torch.no_grad()
def disturbance(vae: torch.nn.Module, images: Tensor, hidden: Tensor, fill: str) -> list[float]:
    """One figure per picture."""
    mask = hidden.float().expand(len(images), -1, -1)
    true, filled = (vae.encode(2 * i.movedim(-1, 1) - 1) for i in (images, FILLS[fill](images, mask)))
    weights = known_weights(hidden.float(), *true.shape[-2:])
    border = weights * F.max_pool2d(1 - weights, 3, stride=1, padding=1)
    error = ((filled - true) ** 2 * border).sum((1, 2, 3)) / border.sum() / true.shape[1]
    return (error.sqrt() / true.std((1, 2, 3))).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    rows, lines = (
        [],
        ["| model and pictures | mask | fill | disturbance, mean ± s.d. | better than grey |", "|" + "---|" * 5],
    )
    for name, vae, images in cases():
        for mask, make in tqdm(MASKS.items(), desc=name):
            hidden = torch.from_numpy(make(images.shape[1]))
            figures = {fill: np.array(disturbance(vae, images, hidden, fill)) for fill in ("extend", "grey")}
            for fill, f in figures.items():
                rows.append({"task": "fill", "model": name, "mask": mask, "method": fill, "disturbance": f.tolist()})
                better = f"{(f < figures['grey']).mean():.0%}" if fill != "grey" else ""
                lines.append(f"| {name} ({len(f)}) | {mask} | {fill} | {f.mean():.3f} ± {f.std():.3f} | {better} |")
    out.mkdir(parents=True, exist_ok=True)
    versions = {"torch": torch.__version__}
    (out / "fill.json").write_text(json.dumps({"versions": versions, "command": "dev.py bench fill", "rows": rows}))
    (out / "fill.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
