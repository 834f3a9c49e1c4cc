"""The MNIST and Fashion diffusion models of the tests' assets: 28 x 28 grey, eps prediction, 607k parameters.

The weights are GPL-3.0 data that is never shipped; they are looked for in NEWTON_ASSETS (default ../shared/assets
beside the repository). The network is written from its state dict's keys: a U-Net of three scales whose blocks are
three of (layer norm, 3 x 3 convolution, SiLU, 3 x 3 convolution, SiLU), each stage fed an MLP of the time embedding.
"""

import itertools
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

ASSETS = Path(os.environ.get("NEWTON_ASSETS", Path(__file__).resolve().parent.parent.parent / "shared" / "assets"))
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ABAR = torch.cumprod(1 - BETAS, 0)
SIGMAS = ((1 - ABAR) / ABAR).sqrt()  # of timestep 0 ... 999


def weights_file(name: str) -> Path:
    return ASSETS / "ddpm_mnist_fashion" / f"ddpm_{name}.pt"


class SmallUNet:
    """eps(x, t) from a state dict; x (B, 1, 28, 28) variance preserving, t (B,) int."""

    def __init__(self, weights: dict[str, Tensor]):
        self.w = {k.removeprefix("network."): v.float() for k, v in weights.items() if k.startswith("network.")}

    def conv(self, x: Tensor, key: str, stride: int = 1, padding: int = 1) -> Tensor:
        return F.conv2d(x, self.w[f"{key}.weight"], self.w[f"{key}.bias"], stride, padding)

    def up(self, x: Tensor, key: str, stride: int = 2, padding: int = 1) -> Tensor:
        return F.conv_transpose2d(x, self.w[f"{key}.weight"], self.w[f"{key}.bias"], stride, padding)

    def time(self, t: Tensor, key: str) -> Tensor:
        h = F.linear(self.w["time_embed.weight"][t], self.w[f"{key}.0.weight"], self.w[f"{key}.0.bias"])
        return F.linear(F.silu(h), self.w[f"{key}.2.weight"], self.w[f"{key}.2.bias"])[..., None, None]

    def stage(self, x: Tensor, key: str) -> Tensor:
        for i in range(3):
            if (key, i) != ("b_out", 2):  # the last block has weights for a norm but does not use it
                norm = self.w[f"{key}.{i}.ln.weight"], self.w[f"{key}.{i}.ln.bias"]
                x = F.layer_norm(x, norm[0].shape, *norm)
            x = F.silu(self.conv(x, f"{key}.{i}.conv1"))
            x = F.silu(self.conv(x, f"{key}.{i}.conv2"))
        return x

    def encode(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = self.stage(x + self.time(t, "te1"), "b1")  # B 10 28 28
        b = self.stage(self.conv(a, "down1", 2) + self.time(t, "te2"), "b2")  # B 20 14 14
        c = self.stage(self.conv(b, "down2", 2) + self.time(t, "te3"), "b3")  # B 40 7 7
        return a, b, c

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        a, b, c = self.encode(x, t)
        h = self.conv(F.silu(self.conv(c, "down3.0", padding=0)), "down3.2", 2)  # B 40 3 3
        h = self.stage(h + self.time(t, "te_mid"), "b_mid")
        h = self.up(F.silu(self.up(h, "up1.0")), "up1.2", stride=1, padding=0)  # B 40 7 7
        h = self.stage(torch.cat((c, h), 1) + self.time(t, "te4"), "b4")
        h = self.stage(torch.cat((b, self.up(h, "up2")), 1) + self.time(t, "te5"), "b5")
        h = self.stage(torch.cat((a, self.up(h, "up3")), 1) + self.time(t, "te_out"), "b_out")
        return self.conv(h, "conv_out")


class SmallDenoiser:
    """x0 of x = x0 + sigma n, clipped to the range of pictures, [-1, 1]."""

    def __init__(self, name: str):
        self.net = SmallUNet(torch.load(weights_file(name), map_location="cpu", weights_only=True))

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        t = (SIGMAS.log() - sigma[0].double().log()).abs().argmin().expand(len(x))
        level = sigma.reshape(-1, 1, 1, 1)
        return (x - level * self.net(x / (1 + level**2).sqrt(), t)).clamp(-1, 1)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """What the network's own encoder sees in clean pictures in [-1, 1]: (B, 1960) at timestep 50."""
        t = torch.full((len(pictures),), 50)
        return self.net.encode(pictures * ABAR[50].sqrt().float(), t)[2].flatten(1)


@torch.no_grad()
def draw_pictures(name: str, count: int, seed: int) -> Tensor:
    """`count` pictures (count, 1, 28, 28) drawn from the model itself over 100 levels, black border required.

    The models now and then draw a grey background, which no training picture has; those draws are thrown away.
    """
    model, sigmas, kept = SmallDenoiser(name), levels(100), []
    for round_ in itertools.count():
        generator = torch.Generator().manual_seed(seed * 1000 + round_)
        x = sigmas[0] * torch.randn(count, 1, 28, 28, generator=generator)
        for here, there in itertools.pairwise(tqdm(sigmas, f"{name}: truths", leave=False)):
            x0 = model(x, x.new_full((count,), here))
            fresh = there * (1 - there**2 / here**2) ** 0.5
            x = x0 + (there / here) ** 2 * (x - x0) + fresh * torch.randn(x.shape, generator=generator)
        border = torch.cat((x[..., 0, :], x[..., -1, :], x[..., 0], x[..., -1]), -1).flatten(1)
        kept.append(x[border.mean(1) < -0.9])
        if sum(map(len, kept)) >= count:
            return torch.cat(kept)[:count]


def levels(count: int) -> list[float]:
    """`count` noise levels evenly spaced in the timestep, the last one followed by 0."""
    steps = torch.linspace(999, 999 / count - 1, count).round().long().clamp(min=1)
    return [*SIGMAS[steps].tolist(), 0.0]
