"""The expert knobs."""

from dataclasses import replace

from comfy_api.latest import io

from ..sampler import PRESETS, NewtonSettings
from .checks import checked
from .sockets import CATEGORY, Settings, schema

# Widgets that presets do not read.
CUSTOM = ("iterations", "rate_first", "rate_last", "delta", "eta", "carry", "hold")


class NewtonSettingsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        fast = PRESETS["fast"]
        return schema(
            node_id="NewtonSettings",
            search_aliases=["constrained sampling settings", "preset"],
            dead_if={
                **{name: {"preset": list(PRESETS)} for name in CUSTOM},
                **{name: {"preset": list(PRESETS), "hold": [False]} for name in ("resample", "order")},
                "restart_from": {"restarts": [0]},
            },
            display_name="Newton Settings",
            category=CATEGORY,
            description="How strictly and at what cost a constraint is enforced. Without this node the samplers use "
            "the preset 'fast'.",
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, "custom"],
                    default="fast",
                    tooltip=" ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items())
                    + " custom: the widgets below.",
                ),
                io.Int.Input(
                    "iterations",
                    default=fast.iterations,
                    min=1,
                    max=50,
                    tooltip="custom: Newton steps (K) per noise level. More follow the constraint closer.",
                ),
                io.Float.Input(
                    "rate_first",
                    default=fast.rate_first,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="custom: strength of the first correction of a step, in standard deviations of the noisy "
                    "latent; too much looks harsh.",
                ),
                io.Float.Input(
                    "rate_last",
                    default=fast.rate_last,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="custom: strength of the last correction of a step; linear in between.",
                ),
                io.Float.Input(
                    "delta",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    round=False,
                    tooltip="custom: relative size of the change by which the model is probed. Leave it at 0: it then "
                    "follows the model's precision: .005 in fp32 (.05 with TF32), .15 in fp16, .4 in bf16.",
                ),
                io.Float.Input(
                    "eta",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="custom: fresh noise per step. 0 is DDIM (none), 1 is ancestral; high values let the "
                    "picture adapt to the constraint.",
                ),
                io.Boolean.Input(
                    "carry",
                    default=fast.carry,
                    tooltip="custom: saves a model call a step: after the last correction the model is not asked "
                    "again. 2 K calls instead of 1 + 2 K.",
                ),
                io.Int.Input(
                    "max_calls",
                    default=0,
                    min=0,
                    max=1000000,
                    optional=True,
                    tooltip="Every preset: most model calls of a run; 0 is no limit. Every step keeps the call "
                    "that sampling itself needs; the rest goes to corrections, evenly, first to the middle steps. "
                    "Super-resolution, deblurring, colouring and forward-only styles act in the other steps too, "
                    "without a call.",
                ),
                io.Float.Input(
                    "residual_target",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.001,
                    round=False,
                    optional=True,
                    tooltip="Every preset: leave a picture alone at every step where its residual is this small; 0 "
                    "always corrects. Each constraint is compared with it in its own unit: masks by their rms error in "
                    "the latent, whose standard deviation is about 1; pixel constraints by their rms error, white = 1; "
                    "styles by their relative distance. Constraint Report shows what is reached.",
                ),
                io.Boolean.Input(
                    "conditional_only",
                    default=False,
                    optional=True,
                    tooltip="Every preset, with a cfg other than 1: corrections perturb the positive prompt's branch "
                    "alone, one network evaluation instead of two.",
                ),
                io.Boolean.Input(
                    "hold",
                    default=fast.hold,
                    optional=True,
                    tooltip="custom, masks alone: the known part is put back at every step, at no further model call. "
                    "Off: masks take Newton steps, as in the paper.",
                ),
                io.Boolean.Input(
                    "resample",
                    default=fast.resample,
                    optional=True,
                    tooltip="custom, with hold: at the middle steps, what masks leave unknown is drawn anew to fit, "
                    "at one model call each: 4 of 20 steps. For masks alone.",
                ),
                io.Int.Input(
                    "order",
                    default=fast.order,
                    min=1,
                    max=2,
                    optional=True,
                    tooltip="custom, with hold: order of the sampling step between noise levels. 2 keeps contrast and "
                    "detail, at no further model call. For masks alone.",
                ),
                io.Int.Input(
                    "restarts",
                    default=0,
                    min=0,
                    max=20,
                    optional=True,
                    tooltip="Every preset: warm restarts, as in the paper: so many times the finished picture is "
                    "noised again and sampled once more from restart_from on. Each costs as many calls as its steps.",
                ),
                io.Float.Input(
                    "restart_from",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Where a warm restart begins, as a share of the steps: 0 is the first, .5 the middle.",
                ),
            ],
            outputs=[Settings.Output(display_name="SETTINGS", tooltip="For the samplers of this pack.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        preset: str,
        iterations: int,
        rate_first: float,
        rate_last: float,
        delta: float,
        eta: float,
        carry: bool,
        max_calls: int = 0,
        residual_target: float = 0.0,
        conditional_only: bool = False,
        hold: bool = PRESETS["fast"].hold,
        resample: bool = PRESETS["fast"].resample,
        order: int = PRESETS["fast"].order,
        restarts: int = 0,
        restart_from: float = 0.5,
    ) -> io.NodeOutput:
        custom = NewtonSettings(
            iterations, rate_first, rate_last, delta or None, eta, carry, hold=hold, resample=resample, order=order
        )
        chosen = PRESETS.get(preset, custom)
        every = {"max_calls": max_calls, "residual_target": residual_target, "conditional_only": conditional_only}
        return io.NodeOutput(replace(chosen, **every, restarts=restarts, restart_from=restart_from))
