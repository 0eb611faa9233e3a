"""Predict saliency for many videos, spread over processes, GPUs and machines.

    accelerate launch -m salfom_hf.predict LIST_OR_FOLDER OUT [--format maps] [--OPTION VALUE …]

An output that is there is done: the same command continues where a run was stopped. The command `salfom predict`, for
a few videos in one process, is `cli/predict.py`. This file is the door to `cli/predict_many.py`.
"""

import sys

from . import importing
from .errors import needing

with importing():
    with needing("Predicting many videos", "train", program=__name__ == "__main__"):
        import accelerate  # noqa: F401

    from .cli.predict_many import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
