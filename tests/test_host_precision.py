"""The method in fp32, fp16 and bf16 on the shipped checkpoint: delta follows the dtype, and the picture does not."""

import pytest
import torch
from graphs import give, inpaint_graph, sampled
from host import CHECKPOINT, ROOT

LEVELS = 6


class Watched:
    """A model in one precision, and a constraint, that remember what passed between network and method."""

    def __init__(self, host, dtype, seed=1):
        self.inputs, self.errors = [], []
        self.host, self.dtype, self.seed = host, dtype, seed

    def model(self):
        from comfy.patcher_extension import WrappersMP
        from comfy.sd import load_checkpoint_guess_config

        emulated = self.dtype == torch.float16  # a CPU convolves in half precision a hundred times slower
        weights = torch.float32 if emulated else self.dtype
        model = load_checkpoint_guess_config(
            str(ROOT / "demo" / CHECKPOINT), False, False, model_options={"dtype": weights}
        )[0]
        model.model.manual_cast_dtype = self.dtype if emulated else None  # else a CPU would compute in fp32

        def watch(executor, x, timesteps, context, *args, **kwargs):
            assert x.dtype == context.dtype == self.dtype
            self.inputs.append(x.double())
            return executor(x.to(weights), timesteps, context.to(weights), *args, **kwargs)

        if emulated:
            for layer in model.model.diffusion_model.modules():
                if not list(layer.children()):
                    layer.register_forward_hook(lambda _, __, out: out.to(self.dtype).to(weights))
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
        return model

    def bind(self, space):
        bound, error = self.spec.bind(space), self.errors

        class Spy:
            def error(self, x0, sigma):
                error.append(bound.error(x0, sigma))
                return error[-1]

        return Spy()

    def run(self, delta=None):
        """The result; `delta` in place of the one that follows the dtype."""
        graph = inpaint_graph(self.host)
        self.spec = self.host.run({k: graph[k] for k in ("ckpt", "image", "mask", "constraint")} | {
            "out": {"class_type": "TestCapture", "inputs": {"value": ["constraint", 0]}}})[0]  # fmt: skip
        settings = self.host.module("sampler").NewtonSettings(delta=delta)
        graph |= {
            "model": give(self.host, "MODEL", self.model()),
            "spied": give(self.host, "NEWTON_CONSTRAINT", self),
            "settings": give(self.host, "NEWTON_SETTINGS", settings),
        }
        graph["sample"]["inputs"] |= {
            "model": ["model", 0], "constraint": ["spied", 0], "settings": ["settings", 0], "steps": LEVELS,
            "seed": self.seed,
        }  # fmt: skip
        return sampled(self.host, graph)

    def cosines(self):
        """At each level, of the perturbation that reached the network with the intended one, e."""
        pairs = zip(self.inputs[::2], self.inputs[1::2], self.errors, strict=False)
        return [torch.cosine_similarity((b - a).flatten(), e.double().flatten(), 0).item() for a, b, e in pairs]


@pytest.fixture(scope="module")
def fp32(host):
    watched = Watched(host, torch.float32)
    return watched.run(), watched.cosines()


@pytest.fixture(scope="module")
def spread(host, fp32):
    """rms difference of two pictures that differ in their seed."""
    return (Watched(host, torch.float32, seed=2).run() - fp32[0]).square().mean().sqrt()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gives_the_same_picture(host, fp32, spread, dtype):
    watched = Watched(host, dtype)
    out = watched.run()
    for cosines in (fp32[1], watched.cosines()):
        assert len(cosines) == LEVELS and min(cosines) > 0.98
    off = (out - fp32[0]).square().mean().sqrt()
    print(f"\n{dtype}: cosine {min(watched.cosines()):.4f} (fp32 {min(fp32[1]):.4f}), off {off / spread:.3f} of a seed")
    assert off < 0.1 * spread


def test_the_published_delta_drowns_in_bfloat16(host):
    watched = Watched(host, torch.bfloat16)
    watched.run(delta=0.005)
    print(f"\ncosines at delta .005 in bf16: {watched.cosines()}")
    assert min(watched.cosines()) < 0.9
