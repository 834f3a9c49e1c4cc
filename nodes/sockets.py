"""The custom socket types of the pack."""

from comfy_api.latest import io

CATEGORY = "sampling/newton constrained"

Constraint = io.Custom("NEWTON_CONSTRAINT")
Settings = io.Custom("NEWTON_SETTINGS")
Report = io.Custom("NEWTON_REPORT")
# A Python function from IMAGE to IMAGE: other packs' nodes may give one.
TargetFunction = io.Custom("NEWTON_TARGET")
