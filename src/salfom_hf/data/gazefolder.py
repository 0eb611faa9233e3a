"""A dataset of one's own: clips with gaze in folders, as `salfom data make` writes them.

```
FOLDER/
├── train/CLIP/                  or training
│   ├── images/000001.jpg …
│   ├── maps/000001.png …        density, one per frame
│   ├── fixation/000001.png …    binary
│   └── fps.txt                  frames per second; 25 without it
├── validation/CLIP/…            or val
└── test/CLIP/…                  or testing
```

Frames may have names of any kind, but those of a frame, its map and its fixations agree up to the suffix. Any split
may be missing.
"""

from typing import ClassVar

import datasets

from .builder import ClipFolderBuilder
from .features import VIDEO_FEATURES


class GazeFolder(ClipFolderBuilder):
    """Builder of a dataset of one's own; see the module for the folder it reads."""

    TITLE = "gazefolder"
    EXPECTED = "train/CLIP/{images,maps,fixation} and, if need be, the same under validation and test"
    OFFICIAL: ClassVar = dict.fromkeys(("train", "validation", "test"))
    ALIASES: ClassVar = {
        "train": "train",
        "training": "train",
        "validation": "validation",
        "val": "validation",
        "test": "test",
        "testing": "test",
    }
    FPS = 25.0

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description="Clips with gaze, in folders.", features=VIDEO_FEATURES)


load_gazefolder = GazeFolder.load

__all__ = ["GazeFolder", "load_gazefolder"]
