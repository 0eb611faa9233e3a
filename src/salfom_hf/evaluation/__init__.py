"""Scoring of saliency maps on gaze datasets, how steady they are in time, and submissions to the DHF1K server."""

from .methods import (
    BASELINES,
    Center,
    EvaluationError,
    InterObserver,
    Method,
    Model,
    Predictions,
    SpectralResidual,
)
from .report import picture, save_picture, table, write_reports
from .running import REPORTS, check_dataset, evaluate, has_changed, kept_scores
from .scoring import DEFAULT_METRICS, METRICS, Protocol, Scorer, Scores
from .steadiness import steadiness, steadiness_table, write_steadiness
from .submission import check_submission, write_submission

__all__ = [
    "BASELINES",
    "DEFAULT_METRICS",
    "METRICS",
    "REPORTS",
    "Center",
    "EvaluationError",
    "InterObserver",
    "Method",
    "Model",
    "Predictions",
    "Protocol",
    "Scorer",
    "Scores",
    "SpectralResidual",
    "check_dataset",
    "check_submission",
    "evaluate",
    "has_changed",
    "kept_scores",
    "picture",
    "save_picture",
    "steadiness",
    "steadiness_table",
    "table",
    "write_reports",
    "write_steadiness",
    "write_submission",
]
