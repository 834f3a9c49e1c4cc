"""Several constraints as one, weighted and scheduled."""

import logging
from dataclasses import dataclass
from itertools import combinations

from comfy_api.latest import io

from ..sampler import LatentMask, Term, WeightedSum
from .checks import checked
from .constraint_spec import ConstraintSpec, LatentSpace
from .sockets import CATEGORY, Constraint, schema

log = logging.getLogger("newton_constrained_sampling")
SCHEDULE = "in the model's noise schedule, as ControlNets do; denoise below 1 leaves out its beginning"


@dataclass(frozen=True)
class Part:
    """A constraint with its weight, active from `start` to `end` of the model's noise schedule (0 = most noise)."""

    spec: ConstraintSpec
    weight: float
    start: float
    end: float


@dataclass(frozen=True)
class SumSpec:
    parts: tuple[Part, ...]

    def bind(self, space: LatentSpace) -> WeightedSum:
        terms = tuple(term for p in self.parts for term in self.terms(p, space))
        for a, b in combinations((t.constraint for t in terms), 2):
            if isinstance(a, LatentMask) and isinstance(b, LatentMask):
                clash = (a.weights > 0) & (b.weights > 0) & ((a.y - b.y).abs() > 0.1)
                if clash.any():
                    log.warning(
                        "Combine Constraints: two masks keep different pictures in %d latent cells; the result there "
                        "is a compromise.", int(clash.any(1).sum()),
                    )  # fmt: skip
        return WeightedSum(terms)

    @staticmethod
    def terms(part: Part, space: LatentSpace) -> list[Term]:
        """One, or those of a chained node: their weights times the part's, while both act."""
        start, end = space.percent_to_sigma(part.start), space.percent_to_sigma(part.end)
        bound = part.spec.bind(space)
        inner = bound.terms if isinstance(bound, WeightedSum) else (Term(bound),)
        return [
            Term(t.constraint, part.weight * t.weight, min(start, t.sigma_start), max(end, t.sigma_end)) for t in inner
        ]


class CombineConstraints(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def part(name: str, optional: bool) -> list[io.Input]:
            return [
                Constraint.Input(f"constraint_{name}", optional=optional, tooltip="A constraint to obey."),
                io.Float.Input(
                    f"weight_{name}",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Its share of the step among those that are corrected.",
                ),
                io.Float.Input(
                    f"start_{name}", default=0.0, min=0.0, max=1.0, step=0.01, tooltip=f"Acts from here {SCHEDULE}."
                ),
                io.Float.Input(
                    f"end_{name}", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=f"Acts until here {SCHEDULE}."
                ),
            ]

        return schema(
            node_id="NewtonCombineConstraints",
            search_aliases=["combine", "schedule", "several constraints"],
            dead_if={f"{widget}_b": {"constraint_b": [None]} for widget in ("weight", "start", "end")},
            display_name="Combine Constraints",
            category=CATEGORY,
            description="Several constraints at once, at the calls of the most expensive one. With one input it "
            "schedules that one; chain the node for more than two.",
            inputs=part("a", False) + part("b", True),
            outputs=[Constraint.Output(display_name="CONSTRAINT", tooltip="All of them together.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        constraint_a: ConstraintSpec,
        weight_a: float,
        start_a: float,
        end_a: float,
        weight_b: float,
        start_b: float,
        end_b: float,
        constraint_b: ConstraintSpec | None = None,
    ) -> io.NodeOutput:
        parts = [Part(constraint_a, weight_a, start_a, end_a), Part(constraint_b, weight_b, start_b, end_b)]
        for name, p in zip("ab", parts, strict=True):
            if p.start > p.end:
                raise ValueError(
                    f"start_{name}: {p.start} lies after end_{name} {p.end}, so the constraint would never act. "
                    "Set start before end."
                )
        return io.NodeOutput(SumSpec(tuple(p for p in parts if p.spec is not None)))
