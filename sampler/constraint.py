"""What a constraint is: it names the movement of x0 that would satisfy it."""

from typing import Protocol

from torch import Tensor


class Constraint(Protocol):
    """Anything that can point from an estimate to where the constraint holds."""

    def error(self, x0: Tensor) -> Tensor:
        """Error direction e in x0 space, of the shape of `x0`; zero where the constraint holds or is silent.

        Only its direction matters to the step, not its length.
        """
        ...
