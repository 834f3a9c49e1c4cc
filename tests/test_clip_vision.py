"""Image encoders of the host: small real ones with random weights. What CLIP weights would show is in no test."""

import pytest
import torch
from clip_models import CLIP, CONFIGS, SIGLIP, SIZE, make


@pytest.fixture
def encoder(host, tmp_path):
    """Makes a CLIP_VISION of the host from a configuration."""
    return lambda config: make(config, tmp_path)


def features_of(host, clip_vision, block):
    return host.module("nodes.comfy_adapter").block_features(clip_vision, block)(torch.device("cpu"))


def pictures(height, width, batch=2, low=0.2, high=0.8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return low + (high - low) * torch.rand(batch, 3, height, width, generator=generator, dtype=torch.float64).to(dtype)


def eight_bit(p):
    return (p * 255).round() / 255


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("block", [0, 1, 2])
def test_tokens_are_the_hosts_own_intermediate_output(host, encoder, kind, block):
    """Block numbering, class token, normalisation and size: on a picture that the host need not round."""
    clip_vision = encoder(CONFIGS[kind])
    size = clip_vision.image_size
    given = eight_bit(pictures(size, size))
    from comfy.clip_vision import clip_preprocess

    with torch.inference_mode():
        pixels = clip_preprocess(given.movedim(1, -1), size, clip_vision.image_mean, clip_vision.image_std, True)
        theirs = clip_vision.model(pixel_values=pixels, intermediate_output=block)[1]
        ours = features_of(host, clip_vision, block)(given)
    if kind != "siglip":
        theirs = theirs[:, 1:]
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("shape", [(28, 28), (50, 50), (90, 30), (32, 96), (17, 17)])
def test_preprocessing_is_the_hosts_before_its_rounding(host, shape):
    """Within half an 8-bit level; of the three squares that cover a 3:1 picture the middle one is the host's."""
    from comfy.clip_vision import clip_preprocess

    module = host.module("nodes.comfy_adapter.clip_vision")
    given = pictures(*shape, low=0.0, high=1.0)
    views = module.square_views(given, SIZE).unflatten(0, (2, -1))
    assert views.shape[1] == max(shape) // min(shape)
    theirs = clip_preprocess(given.movedim(1, -1), SIZE, [0, 0, 0], [1, 1, 1], True)
    assert (views[:, views.shape[1] // 2] - theirs).abs().max() <= 0.5001 / 255


def test_the_squares_cover_a_landscape(host):
    module = host.module("nodes.comfy_adapter.clip_vision")
    given = torch.full((1, 3, 28, 70), 0.5, requires_grad=True)
    module.square_views(given, SIZE).sum().backward()
    assert (given.grad > 0).all()


def test_white_can_turn_darker(host):
    module = host.module("nodes.comfy_adapter.clip_vision")
    given = torch.ones(1, 3, 64, 64, requires_grad=True)
    module.square_views(given, SIZE).sum().backward()
    assert (given.grad > 0).all()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("shape", [(28, 28), (40, 56)])
@pytest.mark.parametrize("normalisation", ["none", "unit tokens", "centred"])
def test_the_gradient_is_the_numerical_derivative(host, encoder, kind, shape, normalisation):
    """In double precision, under inference mode, with the weights as the loader leaves them."""
    sampler, clip_vision = host.module("sampler"), encoder(CONFIGS[kind])
    with torch.inference_mode():
        features = features_of(host, clip_vision, 2)
        reference = sampler.reference_gram(features, pictures(33, 33, dtype=torch.float64), normalisation)
        style = sampler.StyleConstraint(features, reference, None, None, normalisation)
        given = pictures(*shape, batch=1, dtype=torch.float64)
        _, down = style.descent(given)
        generator = torch.Generator().manual_seed(5)
        for _ in range(3):
            d = torch.randn(given.shape, generator=generator, dtype=torch.float64)
            numerical = (style.distance(given + 1e-5 * d) - style.distance(given - 1e-5 * d)) / 2e-5
            assert -(down * d).sum().item() == pytest.approx(numerical.item(), rel=1e-5)


def test_without_the_clones_autograd_refuses(host, encoder):
    """The trap: the loader's weights are inference tensors."""
    clip_vision = encoder(CLIP)
    given = pictures(SIZE, SIZE).requires_grad_()
    with pytest.raises(RuntimeError, match=r"inference|Inference"):
        clip_vision.model(pixel_values=given, intermediate_output=1)[1].sum().backward()


def test_without_the_saved_copies_the_gradient_is_refused(host, encoder):
    """The trap: the host's blocks add in place to what a layer norm has saved."""
    clip_vision = encoder(CLIP)
    weights = {k: v.detach().clone() for k, v in clip_vision.model.named_parameters()}
    given = pictures(SIZE, SIZE).requires_grad_()
    tokens = torch.func.functional_call(
        clip_vision.model, weights, (), {"pixel_values": given, "intermediate_output": 1}
    )[1]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        tokens.sum().backward()


def test_blocks_after_the_chosen_one_are_not_run(host, encoder):
    clip_vision = encoder(CLIP)
    features = features_of(host, clip_vision, 1)
    clip_vision.model.vision_model.encoder.layers[2].forward = None
    assert features(pictures(SIZE, SIZE)).shape == (2, 16, 16)


def test_the_hosts_model_may_go_while_ours_runs(host, encoder):
    """The weights are copies: what the host does with its own after the start changes nothing."""
    clip_vision = encoder(CLIP)
    features, given = features_of(host, clip_vision, 1), pictures(SIZE, SIZE)
    before = features(given)
    with torch.inference_mode():
        for p in clip_vision.model.parameters():
            p.zero_()
    assert torch.equal(features(given), before)


@pytest.mark.parametrize("config", [
    CLIP | {"model_type": "dinov3", "num_register_tokens": 4, "layer_norm_eps": 1e-5, "rope_theta": 100.0},
    SIGLIP | {"model_type": "siglip2_vision_model", "image_size": -1, "num_patches": 256},
], ids=["dinov3", "siglip2"])  # fmt: skip
def test_encoders_of_newer_hosts_that_do_not_fit_are_refused_by_name(host, encoder, config):
    import comfy.clip_vision

    if config["model_type"] not in comfy.clip_vision.IMAGE_ENCODERS:
        pytest.skip(f"this host has no {config['model_type']}")
    with pytest.raises(ValueError, match=r"clip_vision: this image encoder .* is not supported"):
        features_of(host, encoder(config), 0)
