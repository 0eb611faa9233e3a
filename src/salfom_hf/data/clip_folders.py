"""Datasets of clips in folders: Hollywood-2, UCF-Sports, and one's own.

A clip is `SPLIT/CLIP/images/*.png`, with `maps/*.png` (densities) and `fixation/*.png` (binary) for each of the frames
next to them, in `fps.txt` frames per second, where they are others than the dataset's, and in `gaze.csv` who looked
where (frame from 0, x, y, observer), where that is known. Names may be of any kind,
such as Diving-Side_002_001.png; those of a frame, its map and its fixations agree up to the suffix.

Hollywood-2 (shots of feature films) and UCF-Sports (sports broadcasts) are as re-released with DHF1K,
https://github.com/wenguanwang/DHF1K, in the folders `training` and `testing`; [`salfom_hf.data.hold_out`] makes a
validation set. A `gazefolder`, as `salfom data make` writes it, has `train`, `validation` and `test`, of which any may
be missing, under these or other usual names.
"""

import math
import os
from pathlib import Path
from typing import ClassVar

from ..errors import check_file
from .builder import PRIVATE, Source, VideoBuilder
from .layout import Clip, list_folder
from .report import Problem

FPS_FILE, GAZE_FILE = "fps.txt", "gaze.csv"
ACTIONS_IN_THE_EYE = (
    "S. Mathe and C. Sminchisescu, *Actions in the Eye: Dynamic Gaze Datasets and Learnt Saliency Models for Visual "
    "Recognition*, IEEE TPAMI 2015"
)


class ClipFolderBuilder(VideoBuilder):
    """Base of the builders of clips in folders; see the module. `ALIASES` also names the folders of the splits."""

    EXPECTED = "training/CLIP/{images,maps,fixation} and the same under testing"
    ALIASES: ClassVar = {"training": "train", "testing": "test"}
    FPS: ClassVar[float]  # of clips that do not tell

    @classmethod
    def looks_right(cls, folder: Path) -> bool:
        parts = [folder / name for name in cls.ALIASES if (folder / name).is_dir()]
        return any((part / entry.name / "images").is_dir() for part in parts for entry in list_folder(part))

    @classmethod
    def find(cls, root: Path, splits: tuple[str, ...] | None) -> tuple[dict[str, list[Clip]], list[Problem]]:
        found, problems, taken = {}, [], {}
        for name, split in cls.ALIASES.items():
            if split not in cls.chosen(splits):
                continue
            found.setdefault(split, [])
            if split in taken and (root / name).is_dir():
                problems.append(Problem("duplicate", root / name, f"is the same split as {taken[split]}"))
            elif (root / name).is_dir():
                taken[split] = name
                found[split], more = clips_in(root / name, cls.FPS)
                problems += more
        return found, problems


class Hollywood2(ClipFolderBuilder):
    """Builder of Hollywood-2; see the module for the folder it reads."""

    TITLE = "Hollywood-2"
    DESCRIPTION = (
        "Hollywood-2: 2699 training and 3558 test shots of feature films of many sizes, 1…1627 frames long, with "
        "fixations of observers of whom most had to name the action, re-released with DHF1K."
    )
    SOURCE = Source(
        "http://vision.imar.ro/eyetracking/", ACTIONS_IN_THE_EYE, f"{PRIVATE} The shots are from commercial films."
    )
    OFFICIAL: ClassVar = {"train": 2699, "test": 3558}
    FPS = 24.0


class UCFSports(ClipFolderBuilder):
    """Builder of UCF-Sports; see the module for the folder it reads."""

    TITLE = "UCF-Sports"
    DESCRIPTION = (
        "UCF-Sports: 103 training and 47 test clips of sports broadcasts of five sizes, 21…143 frames long, with "
        "fixations of observers of whom most had to name the action, re-released with DHF1K."
    )
    SOURCE = Source(
        "http://vision.imar.ro/eyetracking/", ACTIONS_IN_THE_EYE, f"{PRIVATE} The clips are from sports broadcasts."
    )
    OFFICIAL: ClassVar = {"train": 103, "test": 47}
    FPS = 10.0


class GazeFolder(ClipFolderBuilder):
    """Builder of a dataset of one's own; see the module for the folder it reads."""

    TITLE = "gazefolder"
    EXPECTED = "train/CLIP/{images,maps,fixation} and, if need be, the same under validation and test"
    DESCRIPTION = "Clips with gaze, in folders."
    SOURCE = Source(
        "",
        "",
        "Videos and recordings of gaze have terms of their own. **Keep this repository private until you have made "
        "sure that the videos' owners and the observers permit redistribution**; then name the licence here and in "
        "`license` above.",
    )
    OFFICIAL: ClassVar = dict.fromkeys(("train", "validation", "test"))
    ALIASES: ClassVar = {
        **{"train": "train", "training": "train", "validation": "validation"},
        **{"val": "validation", "test": "test", "testing": "test"},
    }
    FPS = 25.0


def clips_in(folder: Path, fps: float) -> tuple[list[Clip], list[Problem]]:
    """The folders `CLIP/{images,maps,fixation}` in a folder, in natural order; `fps` where a clip does not tell."""
    clips, problems = [], []
    for entry in list_folder(folder):
        path = folder / entry.name
        if not entry.is_dir():
            problems.append(Problem("file for folder", path, "is a file; it is ignored", fatal=False))
            continue
        try:
            rate = frame_rate(path / FPS_FILE, fps)
        except (OSError, ValueError):
            problems.append(Problem("fps", path / FPS_FILE, "is not a number above 0"))
            continue
        parts = {"images": path / "images", "maps": path / "maps", "fixations": path / "fixation"}
        gaze = path / GAZE_FILE if os.path.lexists(path / GAZE_FILE) else None
        clips.append(Clip(entry.name, **parts, gaze=gaze, fps=rate))
    return clips, problems


def frame_rate(file: Path, default: float) -> float:
    """Frames per second from a file that holds nothing else; the default if it does not exist."""
    if not os.path.lexists(file):
        return default
    check_file(file)
    with open(file, encoding="utf-8") as text:
        rate = float(text.read(100))
    if not 0 < rate < math.inf:
        raise ValueError(f"{rate} is not a frame rate.")
    return rate


load_hollywood2 = Hollywood2.load
load_ucf_sports = UCFSports.load
load_gazefolder = GazeFolder.load
