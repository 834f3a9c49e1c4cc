"""The list of nodes."""

from comfy_api.latest import ComfyExtension, io

from .combine import CombineConstraints
from .constrain_model import ConstrainModel
from .latent_mask import LatentMaskConstraint
from .newton_sampler import NewtonConstrainedSampler, NewtonSampler
from .pixel_sr import BackProjectPixels, PixelSRConstraint
from .report import ConstraintReport
from .settings import NewtonSettingsNode
from .words import WordConditioning

NODES = [
    NewtonConstrainedSampler,
    NewtonSampler,
    ConstrainModel,
    NewtonSettingsNode,
    LatentMaskConstraint,
    PixelSRConstraint,
    BackProjectPixels,
    CombineConstraints,
    ConstraintReport,
    WordConditioning,
]


class NewtonExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
