"""The forward-only direction through the demo's VAE, for every operator of the nodes."""

import pytest
import torch
from graphs import picture
from newton_pack.sampler import LinearMeasurement, PixelConstraint, least_squares
from test_host_pixel_nodes import GIVEN, operator, outputs


def measurement(host, vae, name):
    make, sockets = GIVEN[name]
    given = sockets | {"image": ("IMAGE", make(picture()[0])), "vae": ("VAE", vae)}
    return outputs(host, operator(name), given)[0].measurement


@pytest.mark.parametrize("name", GIVEN)
def test_it_leads_to_what_was_measured(host, vae, name):
    """From the picture's latent with noise, by the best step."""
    m, codec = measurement(host, vae, name), host.module("nodes.comfy_adapter.codec").PixelCodec(vae)
    with torch.inference_mode():
        x0 = codec.encode(picture()[0].movedim(-1, 1))
        x0 = x0 + 0.5 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
        e = PixelConstraint(m, codec.decode, least_squares).update(x0, 1.0).e
        steps = (x0 + t * e / e.abs().max() for t in (0.0, 0.125, 0.25, 0.5, 1.0, 2.0))
        sizes = [m.data_residual(codec.decode(z)).square().mean().item() for z in steps]
    print(f"\n{name}: left of the squared residual {min(sizes) / sizes[0]:.2f}")
    assert min(sizes) < 0.95 * sizes[0]


def test_movements_are_not_compressed(host, vae):
    """Half of a movement is below black, where JPEG keeps nothing."""
    m = measurement(host, vae, "jpeg")
    v = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    assert torch.equal(m.A_adjoint_A(v), v)
    assert (LinearMeasurement(m.operator, m.y).A_adjoint_A(v) >= 0).all()
