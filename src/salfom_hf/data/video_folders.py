"""The datasets of videos: where their files are. What is in the files is checked by `layout.Clip`.

**DHF1K**, 1000 videos watched freely by 17 people, is as published, `video/001.AVI` … and
`annotation/0001/{maps,fixation}/0001.png` … (densities and binary images, one per frame), or with extracted frames,
`{train,val,test}/0001/{images,maps,fixation}/0001.png` …. Where both are there, the videos are used, which may be
`.mp4` too. Names are matched by their numbers, whatever their leading zeros: 1–600 are for training, 601–700 for
validation, and 701–1000 for testing, without labels. A video whose header counts one or two frames more or fewer than
there are maps is used as far as both go; a larger difference is an error. Where up to two fewer can be decoded than
that, the last one stands in for them.

**Hollywood-2** (shots of feature films), **UCF-Sports** (sports broadcasts), both as re-released with DHF1K, and one's
own, a **gazefolder** as `salfom data make` writes it, have clips in folders: `SPLIT/CLIP/images/*.png`, with
`maps/*.png` (densities) and `fixation/*.png` (binary) for each of the frames next to them, in `fps.txt` frames per
second, where they are others than the dataset's, in `gaze.csv` who looked where (frame from 0, x, y, observer), where
that is known, and in `sigma.txt` the densities' standard deviation, in pixels of a video 640 wide. Names may be of any
kind, such as Diving-Side_002_001.png; those of a frame, its map and its fixations agree up to the suffix. The first
two have the folders `training` and `testing`; [`salfom_hf.data.hold_out`] makes a validation set. A gazefolder has
`train`, `validation` and `test`, of which any may be missing, under these or other usual names.
"""

import math
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from ..errors import check_file
from .builder import PRIVATE, Source, VideoBuilder
from .layout import Clip, list_folder
from .report import Problem

Clips = dict[str, list[Clip]]  # of each split

FPS_FILE, GAZE_FILE, SIGMA_FILE = "fps.txt", "gaze.csv", "sigma.txt"
# First and last number of each split of DHF1K.
_NUMBERS = {"train": (1, 600), "validation": (601, 700), "test": (701, 1000)}
_ACTIONS_IN_THE_EYE = (
    "http://vision.imar.ro/eyetracking/",
    "S. Mathe and C. Sminchisescu, *Actions in the Eye: Dynamic Gaze Datasets and Learnt Saliency Models for Visual "
    "Recognition*, IEEE TPAMI 2015",
)


class DHF1K(VideoBuilder):
    """Builder of DHF1K; see the module for the folders it reads."""

    TITLE = "DHF1K"
    EXPECTED = "video/001.AVI and annotation/0001/{maps,fixation}, or {train,val,test}/0001/{images,maps,fixation}"
    SOURCE = Source(
        "https://github.com/wenguanwang/DHF1K",
        "W. Wang et al., *Revisiting Video Saliency: A Large-scale Benchmark and a New Model*, CVPR 2018",
        PRIVATE,
    )
    OFFICIAL: ClassVar = {split: last - first + 1 for split, (first, last) in _NUMBERS.items()}
    ALIASES: ClassVar = {"val": "validation"}

    @classmethod
    def looks_right(cls, folder: Path) -> bool:
        parts = [folder / name for name in ("video", "train", "val", "test") if (folder / name).is_dir()]
        return any(entry.name.partition(".")[0].isdigit() for part in parts for entry in list_folder(part))

    @classmethod
    def find(cls, root: Path, splits: tuple[str, ...] | None) -> tuple[Clips, list[Problem]]:
        splits = cls.chosen(splits)
        found: Clips = {split: [] for split in splits}
        if (root / "video").is_dir():
            videos, problems = _numbered(root / "video", splits, (".avi", ".mp4"))
            labelled = tuple(split for split in splits if split != "test")
            annotations, more = _numbered(root / "annotation", labelled)
            for number, video in videos.items():
                clip, split = Clip(f"{number:04d}", video=video), split_of(number)
                folder = annotations.get(number, root / "annotation" / clip.id)
                if video and folder:
                    found[split].append(clip if split == "test" else _labelled(clip, folder))
            problems += more
            for number, folder in annotations.items():
                if folder and number not in videos:
                    problems.append(Problem("missing video", folder, f"there is no video/{number:03d}.AVI"))
            return found, problems
        problems = []
        for split in splits:
            clips, more = _numbered(root / ("val" if split == "validation" else split), tuple(_NUMBERS))
            problems += more
            for number, path in clips.items():
                if path is None:
                    continue
                clip = Clip(f"{number:04d}", images=path / "images", fps=30.0)
                found[split].append(clip if split == "test" else _labelled(clip, path))
                if split_of(number) != split:
                    text = f"belongs to {split_of(number)}, so that scores cannot be compared with others'"
                    problems.append(Problem("split", path, text, fatal=False))
        return found, problems


def split_of(number: int) -> str:
    """The official split of a video, by its number; empty for a number that DHF1K lacks."""
    return next((split for split, (first, last) in _NUMBERS.items() if first <= number <= last), "")


def _labelled(clip: Clip, folder: Path) -> Clip:
    return replace(clip, maps=folder / "maps", fixations=folder / "fixation")


def _numbered(
    folder: Path, splits: tuple[str, ...], suffixes: tuple[str, ...] = ()
) -> tuple[dict[int, Path | None], list[Problem]]:
    """
    The videos (`suffixes` given) or else folders in a folder, which need not be there, by the numbers that are their
    names, of these splits, in order; None for those that cannot be used; problems, among them what those have.
    """
    paths: dict[int, list[Path]] = defaultdict(list)
    broken, problems = set(), []
    for entry in list_folder(folder) if folder.is_dir() else ():
        path = folder / entry.name
        name = path.stem if suffixes else entry.name
        if not (name.isascii() and name.isdigit()) or (suffixes and path.suffix.lower() not in suffixes):
            problems.append(Problem("unexpected", path, "is not named as a video is", fatal=False))
        elif not split_of(int(name)):
            problems.append(Problem("unexpected", path, "DHF1K's videos have numbers 1 to 1000", fatal=False))
        elif split_of(int(name)) not in splits:
            continue
        elif entry.is_dir() == bool(suffixes):
            broken.add(int(name))
            kind, text = ("folder for file", "is a folder") if suffixes else ("file for folder", "is a file")
            problems.append(Problem(kind, path, text))
        else:
            paths[int(name)].append(path)
    for number, (first, *others) in paths.items():
        if others:
            broken.add(number)
            problems.append(Problem("duplicate", first, f"{', '.join(path.name for path in others)} too"))
    numbers = sorted(paths.keys() | broken)
    return {number: None if number in broken else paths[number][0] for number in numbers}, problems


class _ClipFolders(VideoBuilder):
    """Base of the builders of clips in folders; see the module. `ALIASES` also names the folders of the splits."""

    EXPECTED = "training/CLIP/{images,maps,fixation} and the same under testing"
    ALIASES: ClassVar = {"training": "train", "testing": "test"}
    FPS: ClassVar[float]  # of clips that do not tell

    @classmethod
    def looks_right(cls, folder: Path) -> bool:
        parts = [folder / name for name in cls.ALIASES if (folder / name).is_dir()]
        return any((part / entry.name / "images").is_dir() for part in parts for entry in list_folder(part))

    @classmethod
    def find(cls, root: Path, splits: tuple[str, ...] | None) -> tuple[Clips, list[Problem]]:
        chosen = cls.chosen(splits)
        found: Clips = {split: [] for split in cls.ALIASES.values() if split in chosen}
        problems, taken = [], {}
        for name, split in cls.ALIASES.items():
            if split not in found or not (root / name).is_dir():
                continue
            if split in taken:
                problems.append(Problem("duplicate", root / name, f"is the same split as {taken[split]}"))
                continue
            taken[split] = name
            for entry in list_folder(root / name):
                path = root / name / entry.name
                gaze = path / GAZE_FILE if os.path.lexists(path / GAZE_FILE) else None
                if not entry.is_dir():
                    problems.append(Problem("file for folder", path, "is a file; it is ignored", fatal=False))
                elif (rate := _above_0(path / FPS_FILE, cls.FPS)) is None:
                    problems.append(Problem("fps", path / FPS_FILE, "is not a number above 0"))
                elif (sigma := _above_0(path / SIGMA_FILE, 0.0)) is None:
                    problems.append(Problem("sigma", path / SIGMA_FILE, "is not a number above 0"))
                else:
                    clip = Clip(entry.name, images=path / "images", gaze=gaze, sigma=sigma, fps=rate)
                    found[split].append(_labelled(clip, path))
        return found, problems


def _above_0(file: Path, default: float) -> float | None:
    """The number in a file that holds nothing else; the default if it does not exist, None if it is none."""
    if not os.path.lexists(file):
        return default
    try:
        check_file(file)
        with open(file, encoding="utf-8") as text:
            number = float(text.read(100))
    except (OSError, ValueError):
        return None
    return number if 0 < number < math.inf else None


class Hollywood2(_ClipFolders):
    """Builder of Hollywood-2; see the module for the folder it reads."""

    TITLE = "Hollywood-2"
    SOURCE = Source(*_ACTIONS_IN_THE_EYE, f"{PRIVATE} The shots are from commercial films.")
    OFFICIAL: ClassVar = {"train": 2699, "test": 3558}
    FPS = 24.0


class UCFSports(_ClipFolders):
    """Builder of UCF-Sports; see the module for the folder it reads."""

    TITLE = "UCF-Sports"
    SOURCE = Source(*_ACTIONS_IN_THE_EYE, f"{PRIVATE} The clips are from sports broadcasts.")
    OFFICIAL: ClassVar = {"train": 103, "test": 47}
    FPS = 10.0


class GazeFolder(_ClipFolders):
    """Builder of a dataset of one's own; see the module for the folder it reads."""

    TITLE = "gazefolder"
    EXPECTED = "train/CLIP/{images,maps,fixation} and, if need be, the same under validation and test"
    SOURCE = Source(
        terms="Videos and recordings of gaze have terms of their own. **Keep this repository private until you have "
        "made sure that the videos' owners and the observers permit redistribution**; then name the licence here and "
        "in `license` above.",
    )
    OFFICIAL: ClassVar = dict.fromkeys(("train", "validation", "test"))
    ALIASES: ClassVar = {
        **{"train": "train", "training": "train", "validation": "validation"},
        **{"val": "validation", "test": "test", "testing": "test"},
    }
    FPS = 25.0


load_dhf1k = DHF1K.load
load_hollywood2 = Hollywood2.load
load_ucf_sports = UCFSports.load
load_gazefolder = GazeFolder.load
