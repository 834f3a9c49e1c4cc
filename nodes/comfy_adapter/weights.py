"""Functions of the host's networks that autograd can differentiate."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import comfy.model_management
import torch
from torch import Tensor
from torch.func import functional_call


def free_memory(patcher: Any, device: torch.device) -> float:
    """Bytes that a model can have; newer hosts count what they would take back from others."""
    return getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)(device)


class Owner(torch.nn.Module):
    """A function that calls a network, as the forward pass of a module that owns the network."""

    def __init__(self, network: torch.nn.Module, function: Callable[..., Tensor]):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, *args: Any) -> Tensor:
        return self.function(*args)


def with_copied_weights(
    network: torch.nn.Module,
    function: Callable[..., Tensor],
    device: torch.device,
    wanted: Callable[[str], bool] = lambda name: True,
) -> Callable[..., Tensor]:
    """`function`, during whose calls `network` has copies of its weights on `device`.

    The host's own may be inference tensors, which autograd refuses, and may be moved at any time. The result is to be
    called outside inference mode.

    Args:
        wanted: which weights are copied, by name.
    """
    owner = Owner(network, function)
    own = {k: v for k, v in chain(owner.named_parameters(), owner.named_buffers()) if wanted(k)}
    with torch.inference_mode(False):
        copies = {k: v.detach().to(device, copy=True) for k, v in own.items()}
    return lambda *args: functional_call(owner, copies, args)
