"""Scoring of saliency maps on gaze datasets, and submissions to the DHF1K server."""

from .. import metrics
from .baselines import Center, InterObserver, SpectralResidual
from .methods import EvaluationError, Method, Model
from .predictions import Predictions
from .report import density_text, picture, table, write_reports
from .running import REPORTS, check_dataset, evaluate, kept_scores
from .scoring import DEFAULT_METRICS, METRICS, Protocol, Scorer, Scores
from .submission import check_submission, write_submission

__all__ = ["Center", "EvaluationError", "InterObserver", "Method", "Model", "Predictions", "SpectralResidual"]
__all__ += ["DEFAULT_METRICS", "METRICS", "Protocol", "Scorer", "Scores", "metrics"]
__all__ += ["REPORTS", "check_dataset", "check_submission", "evaluate", "kept_scores", "write_submission"]
__all__ += ["density_text", "picture", "table", "write_reports"]
