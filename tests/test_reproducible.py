"""The same bytes in every process; how far apart results lie that were computed on other numbers of threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PROGRAM = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import conftest
import torch
torch.set_num_threads(int(sys.argv[1]))
from test_laws import run
from newton_pack.sampler import PRESETS
for name, settings in PRESETS.items():
    out = run(settings, batch=64)
    sys.stdout.write(name + " " + out.double().numpy().tobytes().hex() + chr(10))
"""


def results(threads, hash_seed):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(threads)], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def one_thread():
    return results(1, "1")


def test_the_same_bytes_in_another_process(one_thread):
    assert one_thread and results(1, "2") == one_thread


def test_other_numbers_of_threads_differ_by_rounding(one_thread):
    import numpy as np

    other = results(4, "1")
    apart = {
        name: np.abs(np.frombuffer(bytes.fromhex(a)) - np.frombuffer(bytes.fromhex(other[name]))).max()
        for name, a in one_thread.items()
    }
    print(f"\nlargest difference between one thread and four, data of deviation 1: {apart}")
    assert max(apart.values()) < 1e-3
