"""The field's metrics as functions on tensors; see [`salfom_hf.evaluation.metrics`]."""

from .evaluation.metrics import auc_judd, auc_shuffled, cc, information_gain, kldiv, nss, sim

__all__ = ["auc_judd", "auc_shuffled", "cc", "information_gain", "kldiv", "nss", "sim"]
