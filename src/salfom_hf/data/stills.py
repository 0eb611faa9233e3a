"""Image gaze sets: pictures with lists of fixations, as parquet tables or folders.

Tables,

```
stills/
├── train.parquet                (or train-00000-of-00004.parquet …)
└── dev.parquet
```

with columns `image` (`{"bytes", "path"}`), `fixation_x`, `fixation_y` (lists) and, if known, `image_id`, `dataset`,
`width`, `height` and `observer` (a list); or folders,

```
stills/
├── train/
│   ├── images/*.jpg
│   └── fixations.csv            columns image (file name), x, y and, if known, observer
└── dev/…
```

Splits are named after tables or folders, and are there once, with all parts of a table. One table, or one folder with
`images` and `fixations.csv`, may be given by itself: it is the split that is asked for, "train" unless named.
Fixations are in pixels of the image as stored, from the outer corner of its first pixel; observers are whole numbers
or names, which are numbered in the order in which a file has them. Images without fixations are kept.
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import datasets

from .builder import GazeBuilder
from .features import STILL_FEATURES, DataError
from .layout import Problem, list_folder
from .still_sources import Folder, Table, is_folder_of_stills

_SHARD = re.compile(r"-[0-9]+-of-([0-9]+)$")


class Stills(GazeBuilder):
    """Builder of image gaze sets; see the module for the files and folders it reads."""

    TITLE = "Stills"
    EXPECTED = "train.parquet, or train/images and train/fixations.csv"
    UNIT = "images"

    @staticmethod
    def looks_right(folder: Path) -> bool:
        if folder.is_file():
            return folder.suffix == ".parquet"
        if is_folder_of_stills(folder):
            return True
        return any(
            entry.name.endswith(".parquet") or is_folder_of_stills(folder / entry.name)
            for entry in list_folder(folder)
        )

    @classmethod
    def find(cls, root: Path, splits: tuple[str, ...] | None) -> tuple[dict[str, list], list[Problem]]:
        if root.is_file() or is_folder_of_stills(root):
            return {split: [Table(root) if root.is_file() else Folder(root)] for split in splits or ("train",)}, []
        # By split and by number of shards: 0 for a folder, 1 for a table by itself.
        sources = defaultdict(lambda: defaultdict(list))
        for entry in list_folder(root):
            path = root / entry.name
            if path.suffix == ".parquet":
                shard = _SHARD.search(path.stem)
                sources[_SHARD.sub("", path.stem)][int(shard[1]) if shard else 1].append(Table(path))
            elif is_folder_of_stills(path):
                sources[path.name][0].append(Folder(path))
        found, problems = {}, []
        for split, (first, *more) in ((split, list(kinds.items())) for split, kinds in sources.items()):
            number, found[split] = first
            if splits and split not in splits:
                continue
            if more:
                text = f"has the images of the split {split}, and so has {more[0][1][0].path.name}"
                problems.append(Problem("duplicate", found[split][0].path, text))
            if len(found[split]) < number:
                text = f"is one of {number} parts of the split {split}, of which {len(found[split])} are there"
                problems.append(Problem("missing part", found[split][0].path, text))
        unknown = [split for split in splits or () if split not in found]
        if unknown:
            raise DataError(f"{root} has no split {unknown[0]!r}, but {' and '.join(found)}.")
        return {split: found[split] for split in splits or found}, problems

    @classmethod
    def state(cls, root: Path, splits: tuple[str, ...] | None) -> Any:
        return {split: [source.state() for source in sources] for split, sources in cls.find(root, splits)[0].items()}

    @classmethod
    def examine(cls, item: Table | Folder) -> tuple[list, list[Problem]]:
        return item.examine()

    @classmethod
    def decode(cls, item: Table | Folder) -> list[Problem]:
        return item.decode()

    @classmethod
    def count(cls, items: list) -> tuple[int, int]:
        return sum(map(len, items)), 0

    @classmethod
    def left_out(cls, problems: list[Problem]) -> int:
        return sum(problem.fatal for problem in problems)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Images with the fixations of several observers. Terms are those of the sets they come from.",
            features=STILL_FEATURES,
        )

    def _generate_examples(self, items: list):
        for item in items:
            for row in item.rows():
                yield row["image_id"], row


load_stills = Stills.load

__all__ = ["Stills", "load_stills"]
