"""Train or fine-tune SalFoM.

    accelerate launch -m salfom_hf.train PRESET_OR_YAML --data-dir FOLDER [--SETTING VALUE …]

Presets and settings: `python -m salfom_hf.train --help`. A run leaves in its `output_dir`: `model/`, the best model so
far, for `from_pretrained`; `checkpoints/`, to go on from with `--resume`; `config.yaml`, `data.json`, `log.jsonl`,
`trackers/` and `pictures/`. This file is the program's door; what it does is in `cli/train.py` and `training/`.
"""

import sys

from . import importing
from .errors import needing

with importing():
    with needing("Training", "train", program=__name__ == "__main__"):
        import accelerate  # noqa: F401
        import datasets  # noqa: F401

    from .cli.train import main
    from .training.config import TrainingConfig
    from .training.run import train

__all__ = ["TrainingConfig", "main", "train"]

if __name__ == "__main__":
    sys.exit(main())
