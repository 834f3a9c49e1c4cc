"""The model calls of a run of the host's own."""

from typing import Any

from torch import Tensor


def counted(model: Any) -> tuple[Any, list[int]]:
    """A clone of MODEL, and the batch size of each of its calls, of whatever architecture the network is."""
    from comfy.patcher_extension import WrappersMP

    seen: list[int] = []

    def wrapper(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(len(x))
        return executor(x, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "bench_calls", wrapper)
    return model, seen
