"""The demo: a page that shows where people look, on the Hub as a Space and on one's own machine as `salfom demo`."""

from contextlib import suppress

# On the Hub's ZeroGPU machines it has to come before PyTorch, which all below import.
with suppress(ImportError):
    from spaces import GPU  # noqa: F401

from ..errors import needs_extra

try:
    import gradio  # noqa: F401
except ImportError as error:
    raise ImportError(needs_extra("The page", "demo")) from error

from .page import build, launch

__all__ = ["build", "launch"]
