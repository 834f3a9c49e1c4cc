"""State that guidance functions of other nodes keep between calls, such as the running average of APG's momentum."""

import functools
import types
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor

HOOKS = (
    "sampler_calc_cond_batch_function",
    "sampler_pre_cfg_function",
    "sampler_cfg_function",
    "sampler_post_cfg_function",
)
# Most references followed from a guidance function: to a closure's cell, the object in it, its attributes, a list among
# them, a tensor in that. Further out lies what is not the function's own.
DEPTH = 5
NOT_STATE = (torch.nn.Module, types.ModuleType, type, comfy.model_patcher.ModelPatcher)
NOT_STATE_PACKAGES = ("comfy", "torch")  # models and their patches, which the host changes during a call

Restore = Callable[[], None]


class GuidanceState:
    """What guidance functions remember, put back before every further call at one noise level.

    Every call moves a running average on by one step, and between x and x + delta e that jump would drown J e. Calls
    at one noise level therefore all start from what was remembered when the level began.

    State is what a function can reach and change: variables of its closure, mutable defaults, attributes of itself or
    of an object that it belongs to or refers to, what a `functools.partial` holds, and lists, dictionaries, sets and
    tensors in any of these.
    """

    def __init__(self, model_options: dict[str, Any]):
        functions = [model_options[hook] for hook in HOOKS if model_options.get(hook)]
        self.functions = [f for some in functions for f in (some if isinstance(some, list) else [some])]
        self.sigma: Tensor | None = None

    def before_call(self, sigma: Tensor) -> None:
        if not self.functions:
            return  # nor does the host wait for the device, to compare
        if self.sigma is None or not torch.equal(sigma, self.sigma):
            self.sigma, self.level_start = sigma, snapshot(self.functions)
            return
        for restore in self.level_start:
            restore()


def snapshot(functions: Iterable[Any]) -> list[Restore]:
    """Functions that put back everything that `functions` can reach and change."""
    restores: list[Restore] = []
    seen: set[int] = set()

    def visit(value: Any, depth: int) -> None:
        if id(value) in seen or depth > DEPTH:
            return
        seen.add(id(value))
        restore, reached = keep(value)
        restores.extend(restore)
        for inner in reached:
            visit(inner, depth + 1)

    for function in functions:
        visit(function, 0)
    return restores


def keep(value: Any) -> tuple[list[Restore], list[Any]]:
    """How to put `value` back as it is now, and what it refers to."""
    if isinstance(value, Tensor):
        return keep_tensor(value), []
    if isinstance(value, types.CellType):
        return keep_cell(value)
    if isinstance(value, list | dict | set | deque):
        return keep_container(value)
    if isinstance(value, tuple):
        return [], list(value)
    if isinstance(value, types.MethodType):
        return [], [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return [], [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.FunctionType):
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return [], [*(value.__closure__ or ()), *defaults, value.__dict__]
    if isinstance(value, NOT_STATE) or type(value).__module__.split(".")[0] in NOT_STATE_PACKAGES:
        return [], []
    attributes = getattr(value, "__dict__", None)
    return [], [] if attributes is None else [attributes]


def keep_tensor(t: Tensor) -> list[Restore]:
    if t.requires_grad:
        return []  # a weight
    copy = t.clone()

    def restore() -> None:
        if not torch.equal(t, copy):  # it was changed in place; others may be expanded, which cannot be written to
            t.copy_(copy)

    return [restore]


def keep_cell(cell: types.CellType) -> tuple[list[Restore], list[Any]]:
    try:
        content = cell.cell_contents
    except ValueError:  # not assigned so far
        return [lambda: empty(cell)], []
    return [lambda: setattr(cell, "cell_contents", content)], [content]


def empty(cell: types.CellType) -> None:
    try:
        del cell.cell_contents
    except ValueError:
        return


def keep_container(container: Any) -> tuple[list[Restore], list[Any]]:
    entries = container.copy()

    def restore() -> None:
        container.clear()
        (container.update if isinstance(container, dict | set) else container.extend)(entries)

    return [restore], list(entries.values() if isinstance(entries, dict) else entries)
