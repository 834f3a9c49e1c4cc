"""Under --gpu-only pictures stay on the GPU while loaded masks and images do not: nothing may mix the two."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda")


class OnGpu(torch.Tensor):
    """Numbers in the CPU's memory that say they are on a GPU."""

    @property
    def device(self):
        return GPU


class TwoDevices(TorchFunctionMode):
    """Refuses what torch refuses: operations on tensors (not scalars) of two devices."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        there = any(isinstance(t, OnGpu) for t in tensors)
        with torch._C.DisableTorchFunctionSubclass():
            if name in ("to", "cpu"):
                return self.move(args[0], name, args[1:], kwargs)
            if name == "__get__":
                return function(*args, **kwargs)
            indexing = name in ("__getitem__", "__setitem__")  # by CPU tensors is allowed
            if there and not indexing and any(not isinstance(t, OnGpu) and t.ndim for t in tensors):
                raise RuntimeError(f"{name}: Expected all tensors to be on the same device")
            there |= torch.device(kwargs.pop("device", None) or "cpu").type == "cuda"
            out = function(*args, **kwargs)
        return tree_map(lambda t: t.as_subclass(OnGpu) if there and isinstance(t, torch.Tensor) else t, out)

    def move(self, t, name, args, kwargs):
        to = [*args, *kwargs.values()]
        like = next((a for a in to if isinstance(a, torch.Tensor)), t)
        dtype = next((a for a in to if isinstance(a, torch.dtype)), like.dtype)
        device = next((torch.device(a) for a in to if isinstance(a, torch.device | str)), None)
        gpu = name != "cpu" and (isinstance(like, OnGpu) if device is None else device.type == "cuda")
        return t.to(dtype).as_subclass(OnGpu if gpu else torch.Tensor)


class Vae:
    """Pictures of a cell's mean colour, on the GPU whatever it is given."""

    latent_channels, latent_dim = 3, 2

    def spacial_compression_encode(self):
        return 8

    def encode(self, pixels):
        return torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8).to(GPU)

    def decode(self, latent):
        return torch.nn.functional.interpolate(latent, scale_factor=8).movedim(1, -1)


@pytest.mark.parametrize("there", ["image", "mask"])
def test_a_pixel_mask_on_another_device(host, there):
    image, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32)
    mask[..., 16:] = 1
    with TwoDevices():
        image, mask = (t.to(GPU) if there == name else t for name, t in (("image", image), ("mask", mask)))
        _, filled = host.module("nodes.pixel_operator").masked(image, mask)
        assert filled.device.type == image.device.type


@pytest.mark.parametrize("fill", ["extend", "grey", "none"])
@pytest.mark.parametrize("there", ["image", "mask"])
def test_a_mask_constraint_of_tensors_on_two_devices(host, fill, there):
    image, mask = torch.rand(1, 32, 32, 3), torch.zeros(1, 32, 32)
    mask[..., 16:] = 1
    with TwoDevices():
        image, mask = (t.to(GPU) if there == name else t for name, t in (("image", image), ("mask", mask)))
        node = host.module("nodes.latent_mask").LatentMaskConstraint
        try:
            unchecked = node.execute.__func__.__wrapped__  # the checks of inputs try the VAE
            unchecked(node, image, mask, Vae(), fill, 1, True)
        except AttributeError as error:  # the preview, which needs a running prompt
            assert "hidden" in str(error)
