"""Guidance functions with a memory: calls at one noise level all start from the same one, however it is kept."""

from collections import deque
from dataclasses import dataclass
from functools import partial

import pytest
import tiny
import torch
from constraints import ByError
from graphs import give, inpaint_graph, sampled
from host import node


@dataclass(frozen=True)
class Nothing(ByError):
    """A constraint that always holds, so that its steps must change nothing."""

    def error(self, x0, sigma):
        return torch.zeros_like(x0)


def guided(args, before):
    """A third of the guidance before is added."""
    return args["uncond"] + args["cond_scale"] * (args["cond"] - args["uncond"]) + before / 3


def in_a_closure():
    last = 0.0

    def function(args):
        nonlocal last
        last = guided(args, last)
        return args["input"] - last

    return function


def in_a_cell_that_is_assigned_later():
    def function(args):
        nonlocal last
        try:
            before = last
        except NameError:
            before = 0.0
        last = guided(args, before)
        return args["input"] - last

    if False:
        last = None
    return function


def in_a_list():
    last = [0.0]

    def function(args):
        last[0] = guided(args, last[0])
        return args["input"] - last[0]

    return function


def in_a_dictionary():
    last = {}

    def function(args):
        last["value"] = guided(args, last.get("value", 0.0))
        return args["input"] - last["value"]

    return function


def in_a_deque():
    last = deque([0.0], maxlen=3)

    def function(args):
        last.append(guided(args, last[-1]))
        return args["input"] - last[-1]

    return function


def in_place():
    last = torch.zeros(1, 4, 16, 16)

    def function(args):
        last.copy_(guided(args, last))
        return args["input"] - last

    return function


class Momentum:
    """As APG implementations keep it."""

    def __init__(self):
        self.last, self.history = 0.0, []

    def update(self, args):
        self.history.append(guided(args, self.history[-1] if self.history else self.last))
        return args["input"] - self.history[-1]

    def __call__(self, args):
        self.last = guided(args, self.last)
        return args["input"] - self.last


def in_an_object():
    momentum = Momentum()
    return lambda args: momentum(args)


def in_a_list_of_an_object():
    momentum = Momentum()
    return lambda args: momentum.update(args)


def in_a_callable_object():
    return Momentum()


def in_the_object_of_a_method():
    return Momentum().update


def in_a_partial():
    return partial(lambda momentum, args: momentum(args), Momentum())


def in_a_default():
    def function(args, last=[0.0]):  # noqa: B006
        last[0] = guided(args, last[0])
        return args["input"] - last[0]

    return function


def in_an_attribute_of_the_function():
    def function(args):
        function.last = guided(args, getattr(function, "last", 0.0))
        return args["input"] - function.last

    return function


KINDS = [
    in_a_closure, in_a_cell_that_is_assigned_later, in_a_list, in_a_dictionary, in_a_deque, in_place, in_an_object,
    in_a_list_of_an_object, in_a_callable_object, in_the_object_of_a_method, in_a_partial, in_a_default,
    in_an_attribute_of_the_function,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_memory_counts_noise_levels_not_calls(host, kind):
    """A constraint that asks for nothing costs calls and, guided at every level, changes nothing."""
    graph = inpaint_graph(host)
    graph["flags"] = node("WordConditioning", text="flags")
    inputs = graph["sample"]["inputs"]
    inputs |= {"positive": ["flags", 0], "cfg": 3.0, "model": ["guided", 0], "latent_image": ["empty", 0]}
    graph["empty"] = node("EmptyLatentImage", width=128, height=128, batch_size=1)

    def run(**constraint):
        model = tiny.unet()
        model.set_model_sampler_cfg_function(kind())
        inputs.pop("constraint", None)
        graph["guided"], graph["sample"]["inputs"] = give(host, "MODEL", model), inputs | constraint
        return sampled(host, graph)

    free = run()
    graph["nothing"] = give(host, "NEWTON_CONSTRAINT", Nothing())
    graph["settings"] = give(host, "NEWTON_SETTINGS", host.module("sampler").PRESETS["newton"])
    assert torch.equal(run(constraint=["nothing", 0], settings=["settings", 0]), free)


def test_weights_modules_and_the_hosts_own_objects_are_left_alone(host):
    """They are no memory of guidance, and the host changes them during a call."""
    import comfy.model_patcher

    class Other(comfy.model_patcher.ModelPatcher):
        """Of another pack."""

    model, layer, weight = tiny.unet(), torch.nn.Linear(2, 2), torch.zeros(2, requires_grad=True)
    other = Other(model.model, torch.device("cpu"), torch.device("cpu"))
    restores = host.module("nodes.comfy_adapter.guidance_state").snapshot([lambda args: (model, layer, weight, other)])
    model.new, layer.new, other.backup["w"] = 1, 2, 3
    with torch.no_grad():
        weight += 1
    for restore in restores:
        restore()
    assert model.new == 1 and layer.new == 2 and weight[0] == 1 and other.backup == {"w": 3}


def test_expanded_tensors_can_be_remembered(host):
    """They cannot be written to, and nothing changes them."""
    mask = torch.ones(1).expand(3)
    for restore in host.module("nodes.comfy_adapter.guidance_state").snapshot([lambda args: mask]):
        restore()
