"""Steps along J e, J^T e and the exact Newton direction from the same noisy latent."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..sampler import PRESETS, NewtonSettings, known_weights
from ..sampler.directions import along_exact, along_je, along_jte, follow
from ..sampler.jacobian import known_rows
from ..sampler.noise import noise_like, sample_generators
from .checks import checked
from .comfy_adapter import Inspection, NoGradient, inspect_model
from .fill import extend_fill
from .heat_map import Cell, draw_sheet, picture_of, scaled
from .inspected import encoded, noise_level
from .latent_mask import fit_mask
from .sockets import CATEGORY, Settings, cfg_input, schema, seed_input

EXACT_VALUES = 64  # known values of the latent, most: each takes a backward pass in every step


class Task(NamedTuple):
    """What the steps are to reach, in the VAE's coordinates.

    Attributes:
        y: latent of the picture, (1, C, h, w).
        start: latent to which noise is added.
        weights: (1, 1, h, w), 1 = known.
    """

    y: Tensor
    start: Tensor
    weights: Tensor

    def known_values(self) -> int:
        return int((self.weights > 0).sum()) * self.y.shape[1]


class Walk(NamedTuple):
    """One direction: the estimates before the first step and after each, their residuals and distances."""

    name: str
    estimates: list[Tensor]
    residuals: list[float]
    distances: list[float]

    def caption(self, i: int) -> str:
        return f"residual {self.residuals[i]:.3f}\ndistance {self.distances[i]:.3f}"


def rms(t: Tensor, where: Tensor) -> float:
    """Over the elements with a weight, which itself counts; where (1, 1, h, w)."""
    count = (where > 0).sum() * t.shape[1]
    return ((where * t).square().sum() / count.clamp(min=1)).sqrt().item()


def compare(
    inspection: Inspection, task: Task, ratio: float, settings: NewtonSettings, seed: int
) -> tuple[list[Walk], list[str]]:
    """All directions that the model and the memory allow, and what is to be said of the others."""
    space, sigma = inspection.space, inspection.sigma_at("noise", ratio)
    y, start = (space.process_in(t.to(space.device)) for t in (task.y, task.start))
    weights, scales = task.weights.to(y), inspection.scales(sigma)
    x = scales.alpha * start + scales.s * noise_like(y, sample_generators(seed, [0]))
    x0_at, walks = inspection.at(sigma), []

    def walk(name: str, direction: Callable[..., Tensor], longest: float = torch.inf) -> None:
        found = follow(direction, x0_at, x, lambda x0: weights * (y - x0), settings.rates(), scales.nu, longest)
        residuals = [rms(y - x0, weights) for x0 in found]
        distances = [rms(y - x0, 1 - weights) for x0 in found]
        walks.append(Walk(name, [space.process_out(x0).cpu() for x0 in found], residuals, distances))

    def transposed(x: Tensor) -> Callable[[Tensor], Tensor]:
        return inspection.transposed(x, sigma)[1]

    walk("J e", along_je(x0_at, inspection.delta(settings) * scales.nu))
    try:
        walk("J^T e", along_jte(transposed))
        if task.known_values() <= EXACT_VALUES:
            every = weights.expand_as(y)
            walk("exact", along_exact(lambda x: known_rows(transposed(x), every), every), longest=1.0)
            return walks, []
        return walks, [
            f"No exact direction: the mask leaves {task.known_values()} values of the latent known, and each takes a "
            f"backward pass in every step; up to {EXACT_VALUES} are done. Leave fewer pixels black in mask."
        ]
    except NoGradient as e:
        return walks, [f"No J^T e and no exact direction: {e}."]


def calls(task: Task, steps: int) -> int:
    """Model calls and backward passes of all directions."""
    values = task.known_values()
    exact = 1 + (2 + values) * steps if values <= EXACT_VALUES else 0
    return 1 + 2 * steps + 1 + 3 * steps + exact


def sheet(walks: list[Walk], given: list[tuple[str, Tensor]], decode: Callable[[Tensor], Tensor], title: str) -> Tensor:
    """A row of what was given, and one a direction."""
    rows = [("given", [Cell(scaled(picture_of(picture)), name) for name, picture in given])]
    for walk in walks:
        cells = [Cell(scaled(picture_of(decode(x0))), walk.caption(i)) for i, x0 in enumerate(walk.estimates)]
        rows.append((walk.name, cells))
    return draw_sheet(title, [], rows, "Estimates x0 before the first step and after each; rms in units of the latent.")


def table(walks: list[Walk], notes: list[str]) -> str:
    """Residual and distance to the truth before the first step and after each."""
    lines = ["direction | measure | before, step 1, 2, ..."]
    for walk in walks:
        for name, values in (("residual (known)", walk.residuals), ("distance (unknown)", walk.distances)):
            lines.append(f"{walk.name} | {name} | " + ", ".join(f"{v:.3f}" for v in values))
    return "\n".join([*lines, *notes])


class DirectionCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="NewtonDirectionCompare",
            search_aliases=["jacobian", "newton direction", "inspect model"],
            display_name="Direction Compare",
            category=CATEGORY,
            description="One error, three ways to correct it, from the same noisy latent: along J e (this pack), along "
            "J^T e (the gradient, by backpropagation) and along the exact Newton direction.",
            inputs=[
                io.Model.Input("model", tooltip="Any diffusion or flow model for pictures."),
                io.Conditioning.Input("positive", tooltip="What the picture shows."),
                io.Conditioning.Input("negative", tooltip="Has no effect at cfg 1."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Image.Input("image", tooltip="The true picture. Its known part gives the error e = M (y - x0)."),
                io.Mask.Input(
                    "mask",
                    tooltip="White = unknown, black = known. The exact direction needs few known cells: up to 16 of a "
                    "4-channel latent.",
                ),
                cfg_input(1.0, "Guidance scale of the estimates. 1 = without guidance."),
                io.Float.Input(
                    "noise",
                    default=1.0,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    round=0.001,
                    tooltip="Noise over signal at which the steps are taken; for SD and SDXL this is sigma.",
                ),
                seed_input("Seed of the noise. The same seed gives the same steps."),
                io.Image.Input(
                    "start",
                    optional=True,
                    tooltip="The picture to which noise is added, of the size of image. Not connected: image, its "
                    "unknown part filled from the known pixels.",
                ),
                Settings.Input(
                    "settings",
                    optional=True,
                    tooltip="From Newton Settings: number and length of the steps, and delta. Not connected: five "
                    "steps of .5 to .1, as published.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE",
                    tooltip="The estimate before the first step and after each; a row a direction.",
                ),
                io.String.Output(
                    display_name="text",
                    tooltip="Residual of the known part and distance to the truth in the unknown one, step by step.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, model: Any, positive: Any, negative: Any, vae: Any, image: Tensor, mask: Tensor, cfg: float, noise: float,
        seed: int, start: Tensor | None = None, settings: NewtonSettings | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        settings, ratio = settings or PRESETS["paper"], noise_level(noise, "noise")
        y = encoded(vae, image)
        image, mask = image[:1, ..., :3].float(), fit_mask(mask, image)[:1]
        if start is None:
            start = extend_fill(image, mask)
        elif start.shape[1:3] != image.shape[1:3]:
            raise ValueError(
                f"start: its size {start.shape[2]}x{start.shape[1]} is not that of image, {image.shape[2]}x"
                f"{image.shape[1]}. Scale it first."
            )
        task = Task(y, encoded(vae, start, "start"), known_weights(mask, *y.shape[-2:]))
        if not task.weights.any():
            raise ValueError(
                "mask: it leaves no latent cell known, so there is no error to correct. Paint less: a region of at "
                "least 16 pixels must stay black."
            )
        found: list[Any] = []
        inspect_model(
            model, positive, negative, cfg, y.shape, calls(task, settings.iterations),
            lambda inspection: found.extend(compare(inspection, task, ratio, settings, seed)),
        )  # fmt: skip
        walks, notes = found
        known = image * (0.25 + 0.75 * (1 - mask.unsqueeze(-1)))
        given = [("truth", image[0]), ("start of x, without noise", start[0]), ("known part", known[0])]
        title = f"Steps at noise {ratio:g} x signal"
        shown = sheet(walks, given, lambda x0: vae.decode(x0)[0], title)
        return io.NodeOutput(shown, table(walks, notes), ui=ui.PreviewImage(shown, cls=cls))
