"""The list of nodes."""

from comfy_api.latest import ComfyExtension, io

from .back_project import BackProjectPixels
from .combine import CombineConstraints
from .comfy_adapter import register_checkpoints, serve_pictures
from .composite import CompositeInsideMask
from .constrain_model import ConstrainModel, ConstrainSampler
from .direction_compare import DirectionCompare
from .example_picture import DEMO, PICTURES, ExamplePicture
from .jacobian_probe import JacobianProbe
from .latent_mask import LatentMaskConstraint
from .layers import LayerDecompose
from .newton_sampler import NewtonConstrainedSampler, NewtonSampler
from .pixel_operator import PixelOperatorConstraint
from .pixel_sr import PixelSRConstraint
from .pixel_target import PixelTargetConstraint
from .report import ConstraintReport
from .settings import NewtonSettingsNode
from .style import StyleConstraintNode
from .windows import WindowConditioning
from .words import WordConditioning

NODES = [
    NewtonConstrainedSampler,
    NewtonSampler,
    ConstrainModel,
    ConstrainSampler,
    NewtonSettingsNode,
    LatentMaskConstraint,
    PixelSRConstraint,
    PixelOperatorConstraint,
    PixelTargetConstraint,
    StyleConstraintNode,
    BackProjectPixels,
    CompositeInsideMask,
    LayerDecompose,
    CombineConstraints,
    ConstraintReport,
    JacobianProbe,
    DirectionCompare,
    WordConditioning,
    ExamplePicture,
    WindowConditioning,
]


class NewtonExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        register_checkpoints(str(DEMO))  # here, as not every host calls `on_load`
        if not PICTURES.is_dir():  # the demo was deleted; a route to nowhere would stop the host
            return [n for n in NODES if n is not ExamplePicture]
        serve_pictures(str(PICTURES))
        return NODES
