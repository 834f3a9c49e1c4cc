"""What all nodes of the pack share: category, custom socket types, and how they declare themselves."""

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


def schema(*, search_aliases: list[str], **fields: Any) -> io.Schema:
    """A node's schema; with what else people look for where the host knows search aliases."""
    return io.Schema(**fields, **({"search_aliases": search_aliases} if KNOWS_ALIASES else {}))
