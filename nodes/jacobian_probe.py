"""What the denoiser's Jacobian does with a change of a few latent cells."""

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from .checks import checked
from .comfy_adapter import Inspection, inspect_model
from .inspected import given_latent, marked_cells, parse_levels
from .jacobian_maps import Level, look, sheet, table
from .sockets import CATEGORY, cfg_input, schema, seed_input

DERIVATIVES = ("forward difference", "exact")


class JacobianProbe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NewtonJacobianProbe",
            search_aliases=["jacobian", "inspect model"],
            display_name="Jacobian Probe",
            category=CATEGORY,
            description="Maps of the denoiser's Jacobian J = dx0/dx: where the estimate changes when some cells of the "
            "noisy latent do (J v), and on which cells it depends there (J^T v). An ideal denoiser has both the same.",
            inputs=[
                io.Model.Input("model", tooltip="Any diffusion or flow model for pictures."),
                io.Conditioning.Input("positive", tooltip="What the picture shows."),
                io.Conditioning.Input("negative", tooltip="Has no effect at cfg 1."),
                cfg_input(1.0, "Guidance scale: J is that of the guided estimate. 1 = without guidance."),
                io.String.Input(
                    "noise_levels",
                    default="0.3, 1, 3",
                    tooltip="Noise over signal, separated by commas; for SD and SDXL it is sigma. A row of maps each.",
                ),
                io.Int.Input("x", default=8, min=0, max=4096, tooltip="Probed latent cell, from the left, 0 first."),
                io.Int.Input("y", default=8, min=0, max=4096, tooltip="Probed latent cell, from the top, 0 first."),
                io.Combo.Input(
                    "derivative",
                    options=list(DERIVATIVES),
                    default=DERIVATIVES[0],
                    tooltip="Of J v. forward difference: as the sampler does it, one model call. exact: forward-mode "
                    "differentiation, slower, on a copy of the weights.",
                ),
                io.Int.Input(
                    "probes",
                    default=4,
                    min=0,
                    max=64,
                    tooltip="Random vectors by which the asymmetry of all of J is judged: two passes each per level.",
                ),
                seed_input("Seed of the noise and of the random vectors. The same seed gives the same maps."),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The clean latent to which noise is added. Or connect image and vae.",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="The clean picture, in place of a latent. Needs the vae."
                ),
                io.Vae.Input("vae", optional=True, tooltip="The model's VAE: encodes image, and shows the estimates."),
                io.Mask.Input(
                    "mask", optional=True, tooltip="White = the cells to probe together, in place of the point x, y."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE",
                    tooltip="A row a noise level: estimate, J v, J^T v, symmetric part (J + J^T) v / 2 and skew part "
                    "(J - J^T) v / 2, as norms over the channels.",
                ),
                io.String.Output(display_name="text", tooltip="The figures, and what could not be done and why."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, model: Any, positive: Any, negative: Any, cfg: float, noise_levels: str, x: int, y: int, derivative: str,
        probes: int, seed: int, latent: dict[str, Any] | None = None, image: Tensor | None = None,
        vae: Any | None = None, mask: Tensor | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        ratios = parse_levels(noise_levels, "noise_levels")
        z, notes = given_latent(latent, image, vae)
        weights = marked_cells(mask, x, y, *z.shape[-2:])
        found: list[Level] = []
        estimates: list[Tensor] = []

        def method(inspection: Inspection) -> None:
            inner = inspection.space.process_in(z.to(inspection.space.device))
            for ratio in ratios:
                found.append(look(inspection, inner, ratio, weights, probes, derivative == "exact", seed))
                estimates.append(inspection.space.process_out(found[-1].x0))

        vectors = z.shape[1] + probes
        inspect_model(model, positive, negative, cfg, z.shape, len(ratios) * (2 + 2 * vectors), method)
        found = [level._replace(x0=x0) for level, x0 in zip(found, estimates, strict=True)]
        shown = sheet(found, weights, (lambda x0: vae.decode(x0)[0]) if vae is not None else None)
        return io.NodeOutput(shown, table(found, notes), ui=ui.PreviewImage(shown, cls=cls))
