"""Constrained sampling by inexact Newton steps (Graikos, Jojic, Samaras, arXiv 2410.18804). Torch only."""

from .constraint import Constraint, Term, WeightedSum
from .denoiser import Denoiser, Scales
from .newton import PRESETS, NewtonSettings, newton_steps
from .operators.mask import LatentMask, known_weights
from .operators.resample import FILTERS, Resample
from .pixel import PixelConstraint
from .renoise import mixed_seed
from .report import WHY, Recorder, Report
from .sample import sample_constrained

__all__ = [
    "FILTERS",
    "PRESETS",
    "WHY",
    "Constraint",
    "Denoiser",
    "LatentMask",
    "NewtonSettings",
    "PixelConstraint",
    "Recorder",
    "Report",
    "Resample",
    "Scales",
    "Term",
    "WeightedSum",
    "known_weights",
    "mixed_seed",
    "newton_steps",
    "sample_constrained",
]
