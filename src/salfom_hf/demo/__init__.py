"""The demo: a page that shows where people look, on the Hub as a Space and on one's own machine as `salfom demo`."""

from .page import build, launch

__all__ = ["build", "launch"]
