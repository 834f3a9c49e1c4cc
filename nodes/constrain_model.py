"""The engine for other nodes' samplers: constrain a MODEL or a SAMPLER."""

from typing import Any

from comfy_api.latest import io

from ..sampler import PRESETS, NewtonSettings
from .checks import checked
from .comfy_adapter import REPLACED, SUBSTITUTE, constrain_model, constrain_sampler
from .constraint_spec import ConstraintSpec
from .sockets import CATEGORY, Constraint, Settings, schema

NAMES = (
    f"Works with the samplers that ComfyUI lists. {', '.join(REPLACED)} and those of other packs are replaced by "
    f"{SUBSTITUTE} while a constraint acts, and the log says so."
)


def shared_inputs() -> list[io.Input]:
    return [
        Constraint.Input(
            "constraint",
            optional=True,
            tooltip="What every result must obey. Not connected: the noise mask of each latent that is sampled, so "
            "that detailers and tiled upscalers can sample crops of any size; a latent without one is sampled as "
            "ever.",
        ),
        Settings.Input(
            "settings",
            optional=True,
            tooltip="Expert settings; eta has no effect here, the sampler decides about fresh noise.",
        ),
    ]


class ConstrainModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NewtonConstrainModel",
            search_aliases=["ksampler", "patch model", "inpaint model", "detailer", "constrained sampling"],
            display_name="Constrain Model",
            category=CATEGORY,
            description="Makes every sampler that uses this model obey a constraint: stock KSampler, KSampler "
            f"(Advanced), SamplerCustom, detailers, tiled upscalers. {NAMES}",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model to constrain; it is not changed, a copy is. One that is constrained already "
                    "obeys both; both need the same settings.",
                ),
                *shared_inputs(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="For any sampler node, and any sampler.")],
        )

    @classmethod
    @checked
    def execute(
        cls, model: Any, constraint: ConstraintSpec | None = None, settings: NewtonSettings | None = None
    ) -> io.NodeOutput:
        return io.NodeOutput(constrain_model(model, constraint, settings or PRESETS["fast"]))


class ConstrainSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NewtonConstrainSampler",
            search_aliases=["ksampler select", "custom sampler", "constrained sampling"],
            display_name="Constrain Sampler",
            category=CATEGORY,
            description=f"Makes a SAMPLER of another node obey a constraint, whichever model it samples. {NAMES}",
            inputs=[
                io.Sampler.Input("sampler", tooltip="For example from KSamplerSelect; it is not changed."),
                *shared_inputs(),
            ],
            outputs=[io.Sampler.Output(display_name="SAMPLER", tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
        )

    @classmethod
    @checked
    def execute(
        cls, sampler: Any, constraint: ConstraintSpec | None = None, settings: NewtonSettings | None = None
    ) -> io.NodeOutput:
        return io.NodeOutput(constrain_sampler(sampler, constraint, settings or PRESETS["fast"]))
