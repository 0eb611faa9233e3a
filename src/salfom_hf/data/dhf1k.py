"""DHF1K: 1000 videos, watched freely by 17 people. Its files are found here, and checked by `layout.Clip`.

The folder is as published, `video/001.AVI` … and `annotation/0001/{maps,fixation}/0001.png` … (densities and binary
images, one per frame), or with extracted frames, `{train,val,test}/0001/{images,maps,fixation}/0001.png` …. Where both
are there, the videos are used, which may be `.mp4` too. Names are matched by their numbers, whatever their leading
zeros: 1–600 are for training, 601–700 for validation, and 701–1000 for testing, without labels.

A video whose header counts one or two frames more or fewer than there are maps is used as far as both go; a larger
difference is an error. Where up to two fewer can be decoded than that, the last one stands in for them.
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from .builder import PRIVATE, Source, VideoBuilder
from .layout import Clip, list_folder
from .report import Problem

# First and last number of each split.
_NUMBERS = {"train": (1, 600), "validation": (601, 700), "test": (701, 1000)}
_SUFFIXES = {".avi", ".mp4"}
_FPS = 30.0


class DHF1K(VideoBuilder):
    """Builder of DHF1K; see the module for the folders it reads."""

    TITLE = "DHF1K"
    EXPECTED = "video/001.AVI and annotation/0001/{maps,fixation}, or {train,val,test}/0001/{images,maps,fixation}"
    DESCRIPTION = (
        "DHF1K: 1000 videos of 640×360 pixels at 30 frames per second with the fixations of 17 observers. "
        "The labels of videos 701–1000 are withheld by the authors, whose server scores predictions."
    )
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
    def find(cls, root: Path, splits: tuple[str, ...] | None) -> tuple[dict[str, list[Clip]], list[Problem]]:
        splits = cls.chosen(splits)
        return _find_videos(root, splits) if (root / "video").is_dir() else _find_frames(root, splits)


def split_of(number: int) -> str:
    """The official split of a video, by its number; empty for a number that DHF1K lacks."""
    return next((split for split, (first, last) in _NUMBERS.items() if first <= number <= last), "")


def _numbered(
    folder: Path, suffixes: set[str] | None = None, splits: tuple[str, ...] = tuple(_NUMBERS)
) -> tuple[dict[int, Path], set[int], list[Problem]]:
    """
    The videos (`suffixes` given) or else folders in a folder, by the numbers that are their names, of these splits, in
    order; numbers that are there but cannot be used; problems, among them what those have.
    """
    paths: dict[int, list[Path]] = defaultdict(list)
    broken, problems = set(), []
    for entry in list_folder(folder):
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
    return {number: same[0] for number, same in sorted(paths.items()) if number not in broken}, broken, problems


def _find_videos(root: Path, splits: tuple[str, ...]) -> tuple[dict[str, list[Clip]], list[Problem]]:
    found: dict[str, list[Clip]] = {split: [] for split in splits}
    videos, broken_videos, problems = _numbered(root / "video", _SUFFIXES, splits)
    annotations, broken_annotations = {}, set()
    if (root / "annotation").is_dir():
        labelled = tuple(split for split in splits if split != "test")
        annotations, broken_annotations, more = _numbered(root / "annotation", splits=labelled)
        problems += more
    for number, video in videos.items():
        if number in broken_annotations:
            continue
        clip = Clip(f"{number:04d}", video=video)
        if split_of(number) != "test":
            folder = annotations.get(number, root / "annotation" / clip.id)
            clip = replace(clip, maps=folder / "maps", fixations=folder / "fixation")
        found[split_of(number)].append(clip)
    for number, folder in annotations.items():
        if number not in videos.keys() | broken_videos:
            problems.append(Problem("missing video", folder, f"there is no video/{number:03d}.AVI"))
    return found, problems


def _find_frames(root: Path, splits: tuple[str, ...]) -> tuple[dict[str, list[Clip]], list[Problem]]:
    found: dict[str, list[Clip]] = {split: [] for split in splits}
    problems = []
    for split in splits:
        folder = root / ("val" if split == "validation" else split)
        if not folder.is_dir():
            continue
        clips, _, more = _numbered(folder)
        problems += more
        for number, path in clips.items():
            clip = Clip(f"{number:04d}", images=path / "images", fps=_FPS)
            if split != "test":
                clip = replace(clip, maps=path / "maps", fixations=path / "fixation")
            found[split].append(clip)
            if split_of(number) != split:
                text = f"belongs to {split_of(number)}, so that scores cannot be compared with others'"
                problems.append(Problem("split", path, text, fatal=False))
    return found, problems


load_dhf1k = DHF1K.load
