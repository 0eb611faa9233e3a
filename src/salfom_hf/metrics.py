"""The field's metrics as functions on tensors; see [`salfom_hf.evaluation.metrics`]."""

from .evaluation.metrics import *  # noqa: F403
