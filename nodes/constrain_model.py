"""The engine for other samplers' nodes: constrain a MODEL."""

from typing import Any

from comfy_api.latest import io

from ..sampler import PRESETS, NewtonSettings
from .comfy_adapter import SINGLE_STEP, constrain_model
from .constraint_spec import ConstraintSpec
from .sockets import CATEGORY, Constraint, Settings


class ConstrainModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="NewtonConstrainModel",
            display_name="Constrain Model",
            category=CATEGORY,
            description="Makes every sampler that uses this model obey a constraint: stock KSampler, KSampler "
            f"(Advanced), SamplerCustom, detailers. Sampler names that work: {', '.join(SINGLE_STEP)}. A noise mask "
            "on the latent is then ignored.",
            inputs=[
                io.Model.Input("model", tooltip="The model to constrain; it is not changed, a copy is."),
                Constraint.Input("constraint", tooltip="What every result must obey."),
                Settings.Input(
                    "settings",
                    optional=True,
                    tooltip="Expert settings; eta has no effect here, the sampler decides about fresh noise.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="For any sampler node. Best with euler_ancestral.")],
        )

    @classmethod
    def execute(cls, model: Any, constraint: ConstraintSpec, settings: NewtonSettings | None = None) -> io.NodeOutput:
        return io.NodeOutput(constrain_model(model, constraint, settings or PRESETS["fast"]))
