"""
Scoring of saliency maps on gaze datasets, and submissions to the DHF1K server.

Names are imported when they are first used (PEP 562): `salfom_hf.metrics` needs none of what reads datasets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .baselines import Center, InterObserver, SpectralResidual  # noqa: F401
    from .methods import EvaluationError, Method, Model  # noqa: F401
    from .predictions import Predictions  # noqa: F401
    from .report import density_text, picture, table, write_reports  # noqa: F401
    from .running import REPORTS, check_dataset, evaluate, kept_scores  # noqa: F401
    from .scoring import DEFAULT_METRICS, METRICS, Protocol, Scorer, Scores  # noqa: F401
    from .submission import check_submission, write_submission  # noqa: F401

# Module → names that it defines.
_NAMES = {
    "baselines": ("Center", "InterObserver", "SpectralResidual"),
    "methods": ("EvaluationError", "Method", "Model"),
    "predictions": ("Predictions",),
    "report": ("density_text", "picture", "table", "write_reports"),
    "running": ("REPORTS", "check_dataset", "evaluate", "kept_scores"),
    "scoring": ("DEFAULT_METRICS", "METRICS", "Protocol", "Scorer", "Scores"),
    "submission": ("check_submission", "write_submission"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
