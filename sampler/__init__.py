"""Constrained sampling by inexact Newton steps (Graikos, Jojic, Samaras, arXiv 2410.18804). Torch only."""

from .constraint import Constraint, Term, Update, WeightedSum, as_sum
from .denoiser import Denoiser, Level, Scales, levels_of
from .layers import LayerSettings, infer_mask, sample_layers
from .least_squares import least_squares
from .newton import newton_steps
from .noise import mixed_seed
from .operators.blur import Blur, gaussian_kernel, motion_kernel
from .operators.colour import ChannelMix, grey
from .operators.mask import LatentMask, frame_weights, interpolated_weights, known_weights, masked_rms
from .operators.pixel_mask import PixelMask
from .operators.resample import FILTERS, Resample
from .pixel import (
    Backprojection,
    EncoderDifference,
    Estimate,
    FixedPoint,
    Identity,
    LinearMeasurement,
    Measurement,
    PixelConstraint,
    back_project,
)
from .plan import Plan
from .recompose import exact_layers, guided_filter, harden_mask, recompose
from .report import WHY, LevelReport, Recorder, Report
from .sample import Run, Step, sample_constrained
from .settings import PRESETS, NewtonSettings
from .style import NORMALISATIONS, Features, StyleConstraint, reference_gram, style_distance
from .tiles import tiled
