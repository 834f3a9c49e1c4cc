"""The commonest mistakes: the whole text that the editor's dialog shows. The remedy comes first."""

import pytest
import torch
from graphs import SIZE, give, inpaint_graph, newton_steps, picture
from host import CountNode, GraphError, node


def white(*shape):
    return torch.ones(*shape)


def no_mask_painted(host, graph):
    graph["mask"] = give(host, "MASK", torch.zeros(1, 64, 64))  # as Load Image gives it


def odd_size(host, graph):
    graph["image"] = give(host, "IMAGE", picture()[0][:, :100, :126])


def empty_latent_in_place_of_the_constraints(host, graph):
    graph["latent"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    graph["sample"]["inputs"]["latent_image"] = ["latent", 0]


def latent_of_another_model(host, graph):
    graph["latent"] = give(host, "LATENT", {"samples": white(1, 16, 16, 16)})
    graph["sample"]["inputs"]["latent_image"] = ["latent", 0]


def image_as_mask(host, graph):
    graph["mask"] = give(host, "MASK", white(1, SIZE, SIZE, 3))


def too_few_calls(host, graph):
    newton_steps(graph, "sample", max_calls=1)


def width_that_the_vae_cannot_have(host, graph):
    graph["large"] = node(
        "PixelSRConstraint", image=["image", 0], vae=["ckpt", 2], factor=4, filter="area", noise=0.0, width=500,
    )  # fmt: skip
    graph["out"]["inputs"]["value"] = ["large", 0]


def wrong_constraint_to_back_project(host, graph):
    graph["project"] = node("NewtonBackProjectPixels", image=["image", 0], constraint=["constraint", 0])
    graph["out"]["inputs"]["value"] = ["project", 0]


def composite_of_two_sizes(host, graph):
    graph["small"] = give(host, "IMAGE", picture()[0][:, :64, :64])
    graph["composite"] = node(
        "NewtonCompositeInsideMask", image=["small", 0], original=["image", 0], mask=["mask", 0], feather=4,
        match_colour=False,
    )  # fmt: skip
    graph["out"]["inputs"]["value"] = ["composite", 0]


def operator(host, graph, **widgets):
    given = {"radius": 2.0, "length": 15.0, "angle": 0.0, "quality": 20, "matrix": "1 0 0", "noise": 0.0} | widgets
    graph["operator"] = node("PixelOperatorConstraint", image=["image", 0], vae=["ckpt", 2], **given)
    graph["out"]["inputs"]["value"] = ["operator", 0]


def kernel_without_a_kernel(host, graph):
    operator(host, graph, operator="kernel")


def matrix_of_words(host, graph):
    operator(host, graph, operator="channel mix", matrix="red green")


def start_after_the_end(host, graph):
    times = {f"{k}_{n}": v for n in "ab" for k, v in (("weight", 1.0), ("start", 0.0), ("end", 1.0))}
    given = times | {"start_a": 0.8, "end_a": 0.2}
    graph["combined"] = node("NewtonCombineConstraints", constraint_a=["constraint", 0], **given)
    graph["out"]["inputs"]["value"] = ["combined", 0]


MISTAKES = {
    no_mask_painted: (
        "Paint the region to regenerate (white, 1), for example with the mask editor; a picture without "
        "transparency gives an empty mask.\n"
        "mask: it is empty, so there is nothing to generate."
    ),
    odd_size: (
        "Scale or crop it first, or choose another size, for example 120x96.\n"
        "image: the picture's size 126x100 is not a multiple of 8, the VAE's ratio."
    ),
    empty_latent_in_place_of_the_constraints: (
        "Use the VAE that belongs to the model, and for latent_image the LATENT output of the same constraint"
        " node. Detailers and tiles want Constrain Model without a constraint.\n"
        "constraint: its latent is 4 channels of 16x16, but the one being sampled is 4 channels of 8x8."
    ),
    latent_of_another_model: (
        "Encode it with the VAE that belongs to this model.\n"
        "latent_image: it has 16 channels, but the model works on 4."
    ),
    image_as_mask: (
        "Use Convert Image to Mask.\n"
        "mask: its shape (1, 128, 128, 3) is not that of a MASK (batch, height, width) but of a picture."
    ),
    too_few_calls: (
        "Allow at least 4 in Newton Settings, or sample in fewer steps.\n"
        "max_calls: 1 model calls do not suffice for 4 noise levels, which take 4 even without corrections."
    ),
    width_that_the_vae_cannot_have: (
        "Scale or crop it first, or choose another size, for example 496x496.\n"
        "width, height: the picture's size 500x500 is not a multiple of 8, the VAE's ratio."
    ),
    wrong_constraint_to_back_project: (
        "Connect that of Super-Resolution Constraint, for example; for masks use Composite Inside Mask.\n"
        "constraint: it is no pixel constraint."
    ),
    composite_of_two_sizes: (
        "Connect the picture that was encoded, after any scaling or padding.\n"
        "image: its size is 64x64, but the original's is 128x128."
    ),
    kernel_without_a_kernel: (
        "Connect a picture of the blurred point.\nkernel: nothing is connected, but the operator 'kernel' needs it."
    ),
    matrix_of_words: (
        "Write for example '0.5 0.5 0; 0 0 1', one row for every mixture of red, green and blue that is kept.\n"
        "matrix: 'red green' is not rows of three numbers."
    ),
    start_after_the_end: (
        "Set start before end.\nstart_a: 0.8 lies after end_a 0.2, so the constraint would never act."
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_the_dialog_says(host, mistake):
    graph = inpaint_graph(host)
    mistake(host, graph)
    with pytest.raises(GraphError) as error:
        host.run(graph)
    assert str(error.value).strip() == f"execution_error: {MISTAKES[mistake]}"
    assert not CountNode.batches  # before any model call
