"""Constrained sampling by inexact Newton steps (Graikos, Jojic, Samaras, arXiv 2410.18804). Torch only."""

from .constraint import Constraint
from .denoiser import Denoiser, Scales
from .newton import PRESETS, NewtonSettings
from .operators.mask import LatentMask, known_weights
from .sample import sample_constrained

__all__ = [
    "PRESETS",
    "Constraint",
    "Denoiser",
    "LatentMask",
    "NewtonSettings",
    "Scales",
    "known_weights",
    "sample_constrained",
]
