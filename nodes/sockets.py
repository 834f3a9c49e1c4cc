"""What all nodes of the pack share: category, custom socket types, and how they declare themselves."""

from collections.abc import Iterable
from inspect import signature
from typing import Any

from comfy_api.latest import io

CATEGORY = "sampling/newton constrained"

Constraint = io.Custom("NEWTON_CONSTRAINT")
Settings = io.Custom("NEWTON_SETTINGS")
Report = io.Custom("NEWTON_REPORT")
# A Python function from IMAGE to IMAGE: other packs' nodes may give one.
TargetFunction = io.Custom("NEWTON_TARGET")

# Hosts of 2025 do not.
KNOWS_ALIASES = "search_aliases" in signature(io.Schema).parameters
DeadIf = dict[str, list[Any]]


def schema(
    *,
    search_aliases: list[str],
    dead_if: dict[str, DeadIf] | None = None,
    advanced: tuple[str, ...] = (),
    **fields: Any,
) -> io.Schema:
    """A node's schema, with what the first hosts of V3 nodes do not know or need not.

    Args:
        search_aliases: what else people look for.
        dead_if: of a widget the values of other inputs (None: not connected) with any of which it has no effect;
            web/js/live_widgets.js hides it then.
        advanced: widgets that hosts may fold away.
    """
    for i in fields["inputs"]:
        if dead_if and i.id in dead_if:
            i.extra_dict["dead_if"] = dead_if[i.id]
        if i.id in advanced:
            i.extra_dict["advanced"] = True
    return io.Schema(**fields, **({"search_aliases": search_aliases} if KNOWS_ALIASES else {}))


def dead_unless(name: str, options: Iterable[str], *live: str) -> DeadIf:
    """For a widget that has an effect for some options of the widget `name` only."""
    return {name: [o for o in options if o not in live]}


def noise_input(purpose: str, **fields: Any) -> io.Input:
    """sigma_y of a given picture, white = 1; `purpose` ends the tooltip."""
    return io.Float.Input(
        "noise",
        default=0.0,
        min=0.0,
        max=1.0,
        step=0.005,
        tooltip="Standard deviation of the noise in the picture, 1 = white. What is below it is not followed, so that "
        + purpose,
        **fields,
    )


def seed_input(tooltip: str) -> io.Input:
    """As KSampler's."""
    return io.Int.Input(
        "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=tooltip
    )  # fmt: skip


def cfg_input(default: float, tooltip: str) -> io.Input:
    """Guidance scale, as KSampler's."""
    return io.Float.Input("cfg", default=default, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tooltip)
