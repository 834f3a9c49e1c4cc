"""The same bytes in every process; how far apart results lie that were computed on other numbers of threads."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from graphs import give, inpaint_graph, sampled
from host import node
from newton_pack.sampler import PRESETS
from test_host_pixels import low_resolution

TESTS = Path(__file__).parent
PROGRAM = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import conftest
from test_laws import run
from newton_pack.sampler import PRESETS
for name, settings in PRESETS.items():
    out = run(settings, batch=64)
    sys.stdout.write(name + " " + out.double().numpy().tobytes().hex() + chr(10))
"""


def results(hash_seed):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
    ).stdout  # fmt: skip


def test_the_same_bytes_in_another_process():
    first = results("1")
    assert len(first.splitlines()) == len(PRESETS) and results("2") == first


def test_other_numbers_of_threads_differ_by_rounding(host):
    """Of the shipped network and VAE: in inpainting and in super-resolution, in units of a latent of deviation 1."""
    graph, threads, apart = inpaint_graph(host), torch.get_num_threads(), {}
    graph["low"] = give(host, "IMAGE", low_resolution())
    graph["means"] = node("PixelSRConstraint", image=["low", 0], vae=["ckpt", 2], factor=4, filter="area", noise=0.0)
    try:
        for constraint in ("constraint", "means"):
            graph["sample"]["inputs"]["constraint"] = [constraint, 0]
            out = []
            for count in (1, 4):
                torch.set_num_threads(count)
                host.executor.reset()
                out.append(sampled(host, graph))
            apart[constraint] = ((out[0] - out[1]).abs().max() / out[0].std()).item()
    finally:
        torch.set_num_threads(threads)
    print(f"\nlargest difference between one thread and four: {apart}")
    assert max(apart.values()) < 0.01
