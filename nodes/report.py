"""What a constrained run did, as a picture and as text."""

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..sampler import Report as RunReport
from .checks import checked
from .plot import draw_report
from .sockets import CATEGORY, Report, schema


class ConstraintReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NewtonConstraintReport",
            search_aliases=["residual", "plot", "report"],
            display_name="Constraint Report",
            category=CATEGORY,
            description="How far each step of a constrained run was from its constraint, what it cost, and why it took "
            "no more corrections.",
            inputs=[Report.Input("report", tooltip="The REPORT of Newton KSampler.")],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="Residual over noise level, both on logarithmic axes."),
                io.String.Output(display_name="text", tooltip="The same as a table."),
            ],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(cls, report: RunReport) -> io.NodeOutput:
        drawn = np.asarray(draw_report(report), np.float32) / 255
        picture = torch.from_numpy(drawn).unsqueeze(0)  # HWC -> BHWC
        return io.NodeOutput(picture, report.table(), ui=ui.PreviewImage(picture, cls=cls))
