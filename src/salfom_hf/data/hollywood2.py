"""Hollywood-2 with gaze: shots of feature films, as re-released with DHF1K. https://github.com/wenguanwang/DHF1K

```
Hollywood-2/
├── training/actioncliptrain00001_1/
│   ├── images/*.png
│   ├── maps/*.png               density, one per frame
│   └── fixation/*.png           binary
└── testing/actioncliptest00001_1/…
```

Frames may have names of any kind, but those of a frame, its map and its fixations agree up to the suffix. There is no
validation split; [`salfom_hf.data.hold_out`] makes one.
"""

from pathlib import Path
from typing import ClassVar

import datasets

from .builder import ClipFolderBuilder
from .features import VIDEO_FEATURES
from .layout import Clip, Problem


class Hollywood2(ClipFolderBuilder):
    """Builder of Hollywood-2; see the module for the folder it reads."""

    TITLE = "Hollywood-2"
    OFFICIAL: ClassVar = {"train": 2699, "test": 3558}
    FPS = 24.0

    @classmethod
    def find(cls, root: Path, splits: tuple[str, ...] | None) -> tuple[dict[str, list[Clip]], list[Problem]]:
        found, problems = super().find(root, splits)
        names = [clip.id for clips in found.values() for clip in clips]
        if names and not any(name.startswith("actionclip") for name in names):
            published = sum(cls.OFFICIAL[split] for split in found)
            text = f"{len(names)} of {published} videos, with other names, such as {names[0]}: is this UCF-Sports?"
            problems.append(Problem("origin", root, text, fatal=False))
        return found, problems

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=(
                "Hollywood-2: 2699 training and 3558 test shots of feature films of many sizes, 1…1627 frames long, "
                "with fixations of observers of whom most had to name the action, re-released with DHF1K."
            ),
            homepage="https://github.com/wenguanwang/DHF1K",
            license="For research; the films belong to their owners. Get images and terms from the authors.",
            citation=(
                "Mathe, Sminchisescu. Actions in the Eye: Dynamic Gaze Datasets and Learnt Saliency Models for Visual "
                "Recognition. IEEE TPAMI 37(7), 2015. Marszałek, Laptev, Schmid. Actions in Context. CVPR 2009."
            ),
            features=VIDEO_FEATURES,
        )


load_hollywood2 = Hollywood2.load

__all__ = ["Hollywood2", "load_hollywood2"]
