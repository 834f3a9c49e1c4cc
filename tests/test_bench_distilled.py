"""Laws of the distillation: what a student is taught is where the exact flow ends."""

import sys
from pathlib import Path

import pytest
import torch
from host import node

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import counted
import distillation
import flow


def network(variance):
    """The exact velocity for latents N(0, variance)."""

    def velocity(z, t, context):
        s = (t / 1000).view(-1, 1, 1, 1)
        mean = (1 - s) * variance / ((1 - s) ** 2 * variance + s**2) * z.float()
        return (z.float() - mean) / s

    return velocity


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("variance", [0.5, 1.0, 2.0])
def test_trajectories_end_where_the_flow_of_a_gaussian_does(host, variance, seed):
    path = distillation.trajectory(network(variance), flow.Prompts(["red", "blue"]), seed)
    assert len(path["z"]) == len(path["s"]) == 25
    s = path["s"].view(-1, 1, 1, 1, 1)
    # The flow keeps z / deviation.
    ends = path["z"].float() * (variance / ((1 - s) ** 2 * variance + s**2)).sqrt()
    for k in (0, 12, 24):
        torch.testing.assert_close(ends[k], path["x0"], rtol=0.15 * (24 - k) / 24 + 0.02, atol=0.03)


@pytest.mark.parametrize("name", ["ncs_emoji.safetensors", "ncs_avatars.safetensors"])
def test_calls_are_counted_on_every_architecture(host, name):
    """Heun's method calls the model twice a step, once in the last."""
    graph = {"ckpt": node("CheckpointLoaderSimple", ckpt_name=name), "out": node("TestCapture", value=["ckpt", 0])}
    model, seen = counted.counted(host.run(graph)[0])
    import comfy.sample

    start = torch.zeros(2, model.model.latent_format.latent_channels, 16, 16)
    words = [[torch.zeros(1, 8, 768), {"pooled_output": torch.zeros(1, 768)}]]
    comfy.sample.sample(
        model, torch.randn_like(start), 3, 1.0, "heun", "simple", words, words, start, disable_pbar=True
    )
    assert seen == [2] * 5
