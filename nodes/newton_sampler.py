"""The two sampling nodes: all in one, and as a SAMPLER."""

from typing import Any

from comfy_api.latest import io

from ..sampler import PRESETS, NewtonSettings
from .checks import checked
from .comfy_adapter import make_sampler, sample_latent, scheduler_names
from .constraint_spec import ConstraintSpec
from .sockets import CATEGORY, Constraint, Report, Settings, cfg_input, schema, seed_input

CONSTRAINT_TIP = (
    "What the result must obey, for example from Inpaint Constraint. The latent's noise mask is the constraint where "
    "nothing is connected, and acts beside one without a mask, such as a style. Without either this samples freely."
)
SETTINGS_TIP = "Expert settings from Newton Settings. Not connected: the preset 'fast'."


class NewtonConstrainedSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NewtonConstrainedSampler",
            search_aliases=["ksampler", "inpaint", "constrained sampling", "sampler"],
            display_name="Newton KSampler",
            category=CATEGORY,
            description="Samples like KSampler, but the result obeys a constraint: known pixels stay, and what is "
            "generated fits them. No training, no backpropagation through the model, any checkpoint.",
            inputs=[
                io.Model.Input("model", tooltip="Any diffusion or flow model."),
                io.Conditioning.Input("positive", tooltip="What to include in the picture."),
                io.Conditioning.Input("negative", tooltip="What to exclude. Has no effect at cfg 1."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="Where to start. Its noise mask, if it has one, becomes the constraint when none is "
                    "connected.",
                ),
                seed_input("As in KSampler: the same seed gives the same picture."),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=10000,
                    tooltip="As in KSampler. With the preset 'fast' a step costs one model call for masks, two at the "
                    "middle steps and for other constraints.",
                ),
                cfg_input(
                    4.0,
                    "Classifier-free guidance scale; 1 switches it off and halves the network evaluations. "
                    "Large values weaken every constraint: take the least that serves, best 1 to 4.",
                ),
                io.Combo.Input(
                    "scheduler", options=scheduler_names(), default="simple", tooltip="Where the noise levels lie."
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 starts from pure noise; less keeps more of the starting latent.",
                ),
                Constraint.Input("constraint", optional=True, tooltip=CONSTRAINT_TIP),
                Settings.Input("settings", optional=True, tooltip=SETTINGS_TIP),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="The sampled latent, ready for VAE Decode."),
                Report.Output(display_name="REPORT", tooltip="What the run did, for Constraint Report."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        scheduler: str,
        denoise: float,
        constraint: ConstraintSpec | None = None,
        settings: NewtonSettings | None = None,
    ) -> io.NodeOutput:
        out, report = sample_latent(
            model, positive, negative, latent_image, constraint, settings or PRESETS["fast"], seed, steps, cfg,
            scheduler, denoise,
        )  # fmt: skip
        return io.NodeOutput(out, report)


class NewtonSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NewtonSampler",
            search_aliases=["ksampler select", "custom sampler", "constrained sampling"],
            display_name="Newton Sampler",
            category=CATEGORY,
            description="The constrained sampler as a SAMPLER for SamplerCustom and SamplerCustomAdvanced.",
            inputs=[
                Constraint.Input("constraint", optional=True, tooltip=CONSTRAINT_TIP),
                Settings.Input("settings", optional=True, tooltip=SETTINGS_TIP),
            ],
            outputs=[
                io.Sampler.Output(
                    display_name="SAMPLER",
                    tooltip="For SamplerCustom(Advanced). Here a noise mask reaches us already scaled by ComfyUI: "
                    "cells at a hard edge are generated, and lines thinner than a cell can be lost. Use Inpaint "
                    "Constraint for those.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, constraint: ConstraintSpec | None = None, settings: NewtonSettings | None = None) -> io.NodeOutput:
        return io.NodeOutput(make_sampler(constraint, settings or PRESETS["fast"]))
