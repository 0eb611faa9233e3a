"""UCF-Sports with gaze: sports broadcasts, as re-released with DHF1K. https://github.com/wenguanwang/DHF1K

```
UCF/
├── training/Diving-Side-002/
│   ├── images/Diving-Side_002_001.png …
│   ├── maps/…                   density, one per frame
│   └── fixation/…               binary
└── testing/Diving-Side-001/…
```

A few frames are `.jpg` while their maps are `.png`; names agree up to the suffix. There is no validation split;
[`salfom_hf.data.hold_out`] makes one.
"""

from typing import ClassVar

import datasets

from .builder import ClipFolderBuilder
from .features import VIDEO_FEATURES


class UCFSports(ClipFolderBuilder):
    """Builder of UCF-Sports; see the module for the folder it reads."""

    TITLE = "UCF-Sports"
    OFFICIAL: ClassVar = {"train": 103, "test": 47}
    FPS = 10.0

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=(
                "UCF-Sports: 103 training and 47 test clips of sports broadcasts of five sizes, 21…143 frames long, "
                "with fixations of observers of whom most had to name the action, re-released with DHF1K."
            ),
            homepage="https://github.com/wenguanwang/DHF1K",
            license="For research; the broadcasts belong to their owners. Get images and terms from the authors.",
            citation=(
                "Mathe, Sminchisescu. Actions in the Eye: Dynamic Gaze Datasets and Learnt Saliency Models for Visual "
                "Recognition. IEEE TPAMI 37(7), 2015. Rodriguez, Ahmed, Shah. Action MACH: a spatio-temporal maximum "
                "average correlation height filter for action recognition. CVPR 2008."
            ),
            features=VIDEO_FEATURES,
        )


load_ucf_sports = UCFSports.load

__all__ = ["UCFSports", "load_ucf_sports"]
