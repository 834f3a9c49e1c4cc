"""Laws of the distillation: what a student is taught is where the exact flow ends."""

import sys
from pathlib import Path

import pytest
import torch
from host import node

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import counted
import distillation


def network(variance):
    """The exact prediction of the noise for latents N(0, variance)."""

    def eps(z, t, context):
        a = distillation.alpha_bar()[t.long()].view(-1, 1, 1, 1)
        return (1 - a).sqrt() * z / (a * variance + 1 - a)

    return eps


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("variance", [0.5, 1.0, 2.0])
def test_trajectories_end_where_the_flow_of_a_gaussian_does(variance, seed):
    path = distillation.trajectory(network(variance), torch.zeros(3, 8, 768), seed)
    assert len(path["z"]) == len(path["t"]) == 25
    level = distillation.alpha_bar()[path["t"]].view(-1, 1, 1, 1, 1)
    # The flow keeps z / deviation; the estimate from the last level is z times a further factor.
    ends = path["z"].float() * (variance**2 * level[-1] / (level[-1] * variance + 1 - level[-1])).sqrt()
    ends = ends / (level * variance + 1 - level).sqrt()
    for k in (0, 12, 24):
        torch.testing.assert_close(ends[k], path["x0"], rtol=0.1 * (24 - k) / 24 + 0.01, atol=0.01)


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
