"""Fresh noise that depends on the seed and the sample alone."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def mixed_seed(*parts: int) -> int:
    """A seed of 63 bits in which every part counts; torch's CPU generator sees only the lower 32 bits of one."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def sample_generators(seed: int, samples: Iterable[int], offset: int = 0) -> list[torch.Generator]:
    """One CPU generator per sample, seeded by (seed, offset, number of the sample).

    The same noise on every device, and a batch of two equals two batches of one.

    Args:
        offset: one for each stream of noise of a run.
    """
    return [torch.Generator().manual_seed(mixed_seed(seed, offset, i)) for i in samples]


def noise_like(x: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Standard normal noise of the shape of `x` (B, ...), one generator per sample."""
    noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators])
    return noise.to(x, non_blocking=x.is_cuda)  # else the host would wait for the device here
