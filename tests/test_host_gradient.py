"""The decoder's gradient: its value, and its memory, told before it is taken."""

import re
import sys
from pathlib import Path

import pytest
import torch
from graphs import SIZE, picture
from newton_pack.sampler import Estimate, Identity, LinearMeasurement, PixelConstraint, Resample, least_squares

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import live_memory


@pytest.mark.parametrize("tile", [0, 64])
def test_the_decoders_gradient_is_the_numerical_one(host, vae, tile):
    """-d|y - A Dec(x0)| / dx0 along random directions, in tiles as decoded in tiles."""
    codec = host.module("nodes.comfy_adapter.codec").PixelCodec(vae, tile)
    x0 = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    goal = torch.full((1, 3, SIZE, SIZE), 0.5)
    with torch.inference_mode():
        e = codec.decoder_vjp(Estimate(x0, codec.decode), lambda p: goal - p, Identity())
        raw = codec.differentiable_decoder

        def energy(z):
            return 0.5 * (goal - codec.over_tiles(raw, z, 1, 8)).double().square().sum().item()

        for d in (e, torch.randn(x0.shape, generator=torch.Generator().manual_seed(10))):
            d = d / d.norm()
            slope = (energy(x0 + 0.02 * d) - energy(x0 - 0.02 * d)) / 0.04
            assert -(e * d).sum().item() == pytest.approx(slope, abs=0.01 * e.norm().item())


@pytest.mark.parametrize("tile", [0, 64])
def test_least_squares_leaves_less_than_the_gradient_at_x8(host, vae, tile):
    """By their best step from the picture's latent with noise."""
    codec = host.module("nodes.comfy_adapter.codec").PixelCodec(vae, tile)
    shrink = Resample.by_factor((SIZE // 8, SIZE // 8), 8)
    truth = picture()[0].movedim(-1, 1)
    m = LinearMeasurement(shrink, shrink.A(truth))
    with torch.inference_mode():
        x0 = codec.encode(truth)
        x0 = x0 + 0.5 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
        left = {}
        for name, to_latent in (("least squares", least_squares), ("gradient", codec.decoder_vjp)):
            e = PixelConstraint(m, codec.decode, to_latent).update(x0, 1.0).e
            steps = (x0 + t * e / e.abs().max() for t in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0))
            sizes = [m.data_residual(codec.decode(z)).square().mean().item() for z in steps]
            left[name] = min(sizes) / sizes[0]
    print(f"\nleft of the squared residual: {left}")
    assert left["least squares"] < 0.9 * left["gradient"] < 0.9


def test_too_little_memory_for_the_gradient_is_said_beforehand(host, vae, monkeypatch):
    """8192 pixels on a side at once, and which tile would fit instead."""
    codec = host.module("nodes.comfy_adapter.codec")
    x0 = torch.zeros(1, 4, 1024, 1024)
    with pytest.raises(ValueError, match=r"vae: .*GB are free. Set tile to \d+, which fits") as error:
        codec.PixelCodec(vae).decoder_vjp(Estimate(x0, None), lambda p: p, Identity())
    side = int(re.search(r"tile to (\d+)", str(error.value))[1])
    free = 1.001 * codec.PixelCodec(vae).gradient_memory(x0, side // 8)
    monkeypatch.setattr(codec.comfy.model_management, "get_free_memory", lambda *args: free)
    codec.PixelCodec(vae, side).make_room(x0)
    with pytest.raises(ValueError, match=f"Set tile to {side}, which fits"):
        codec.PixelCodec(vae, side + 128).make_room(x0)
    monkeypatch.setattr(codec.comfy.model_management, "get_free_memory", lambda *args: 0.0)
    with pytest.raises(ValueError, match=r"Set direction to 'forward only', which needs no gradient"):
        codec.PixelCodec(vae, 64).make_room(x0)


@pytest.mark.parametrize(("height", "width", "tile"), [(24, 24, 0), (12, 48, 0), (32, 32, 128)])
def test_the_memory_of_the_gradient_is_known_beforehand(host, vae, monkeypatch, height, width, tile):
    """What is asked for covers the bytes alive at the peak, and is not twice as much."""
    codec, asked = host.module("nodes.comfy_adapter.codec"), []
    management, load = codec.comfy.model_management, codec.comfy.model_management.load_models_gpu

    def listening(models, memory_required=0, **more):
        asked.append(memory_required)
        return load(models, memory_required=memory_required, **more)

    monkeypatch.setattr(management, "load_models_gpu", listening)
    x0 = torch.zeros(2, 4, height, width)
    with live_memory.LiveBytes() as live:
        codec.PixelCodec(vae, tile).decoder_vjp(Estimate(x0, None), lambda p: 1 - p, Identity())
    weights = sum(p.nbytes for p in vae.first_stage_model.parameters())
    assert live.peak - weights < max(asked) < 2 * live.peak
