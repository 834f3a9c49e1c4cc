"""One line of a comparison."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A method, as every benchmark lists it.

    Attributes:
        method, preset: as in the rows.
        run: the method, called as its benchmark says; None: nothing runs, or a node of another pack that samples by
            itself.
        levels: its own number of noise levels; 0 = the run's.
        calls_per_level, backward_per_level: its cost, backward passes through the denoiser or, in super-resolution,
            through the decoder.
        strength: where to start: 1 = noise alone, below: the given picture with noise, as the host's `denoise`.
        closed: whether a closing back-projection follows.
        settings: of the engine.
        direction: of the node's widget of that name; "" = no constraint.
        cfg: 0 = the run's.
        trial: runs only where it is named.
    """

    method: str
    preset: str
    run: Callable[..., Any] | None = None
    levels: int = 0
    calls_per_level: float = 0
    backward_per_level: int = 0
    strength: float = 1.0
    closed: bool = True
    settings: Any = None
    direction: str = ""
    cfg: float = 0.0
    trial: bool = False

    def chosen(self, names: list[str] | None) -> bool:
        """Whether it is among the methods, presets or method/presets that were named; None: all but trials."""
        return bool({self.label, self.method, self.preset} & set(names)) if names else not self.trial

    @property
    def label(self) -> str:
        return f"{self.method}/{self.preset}" if self.preset else self.method
