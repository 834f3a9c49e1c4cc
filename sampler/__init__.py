"""Constrained sampling by inexact Newton steps (Graikos, Jojic, Samaras, arXiv 2410.18804). Torch only."""

from .constraint import Constraint, Term, WeightedSum
from .denoiser import Denoiser, Level, Scales, levels_of
from .layers import LayerSettings, infer_mask, paint_layers
from .least_squares import LeastSquares
from .newton import newton_steps
from .noise import mixed_seed
from .operators.blur import Blur, gaussian_kernel, motion_kernel
from .operators.colour import ChannelMix, grey
from .operators.mask import LatentMask, frame_weights, interpolated_weights, known_weights
from .operators.pixel_mask import PixelMask
from .operators.resample import FILTERS, Resample
from .pixel import Along, EncoderDifference, Measured, Measurement, PixelConstraint, Target, back_project, perturbed
from .plan import Plan
from .recompose import decisive, exact_layers, recompose
from .report import WHY, Recorder, Report
from .sample import sample_constrained
from .settings import PRESETS, NewtonSettings
from .style import NORMALISATIONS, Features, StyleConstraint, reference_gram, style_distance
from .tiles import tiled

__all__ = [
    "FILTERS",
    "NORMALISATIONS",
    "PRESETS",
    "WHY",
    "Along",
    "Blur",
    "ChannelMix",
    "Constraint",
    "Denoiser",
    "EncoderDifference",
    "Features",
    "LatentMask",
    "LayerSettings",
    "LeastSquares",
    "Level",
    "Measured",
    "Measurement",
    "NewtonSettings",
    "PixelConstraint",
    "PixelMask",
    "Plan",
    "Recorder",
    "Report",
    "Resample",
    "Scales",
    "StyleConstraint",
    "Target",
    "Term",
    "WeightedSum",
    "back_project",
    "decisive",
    "exact_layers",
    "frame_weights",
    "gaussian_kernel",
    "grey",
    "infer_mask",
    "interpolated_weights",
    "known_weights",
    "levels_of",
    "mixed_seed",
    "motion_kernel",
    "newton_steps",
    "paint_layers",
    "perturbed",
    "recompose",
    "reference_gram",
    "sample_constrained",
    "style_distance",
    "tiled",
]
