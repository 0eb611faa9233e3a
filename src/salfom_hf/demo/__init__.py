"""The demo: a page that shows where people look, on the Hub as a Space and on one's own machine as `salfom demo`."""

from contextlib import suppress

# On the Hub's ZeroGPU machines it has to come before PyTorch, which all below import.
with suppress(ImportError):
    from spaces import GPU  # noqa: F401

from ..errors import needing

with needing("The page", "demo"):
    import gradio  # noqa: F401

from .page import build, launch

__all__ = ["build", "launch"]
