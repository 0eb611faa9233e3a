"""What the builders of the gaze datasets share: checking first, a cache that knows when files change, and loading."""

import math
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
from datasets.fingerprint import Hasher

from ..errors import check_file
from .features import DataError
from .layout import (
    Clip,
    Found,
    Problem,
    Report,
    counted,
    decode,
    decode_all,
    examine,
    find_root,
    fingerprint,
    list_folder,
)

FPS_FILE = "fps.txt"


@dataclass
class GazeConfig(datasets.BuilderConfig):
    """
    Options of the builders.

    Attributes:
        splits: the only ones to build; all that are there by default.
        skip_invalid: leave out videos (or images) with problems.
        state: stands for the files as they are, so that tables in the cache are not used once files have changed.
    """

    splits: tuple[str, ...] | None = None
    skip_invalid: bool = False
    state: str | None = None


class GazeBuilder(datasets.GeneratorBasedBuilder):
    """
    Base of the builders. A subclass says how files are found, examined and read.

    Args:
        data_dir: the dataset's folder.
        splits, skip_invalid: see [`GazeConfig`].

    Raises:
        DataError: the folder is not that of the dataset.
    """

    # Raise it when rows change, so that tables in the cache are made anew.
    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = GazeConfig
    # A row of long lists of paths is large: few are held in memory at a time.
    DEFAULT_WRITER_BATCH_SIZE = 16

    TITLE: ClassVar[str]
    EXPECTED: ClassVar[str]  # entries of the folder, in words
    OFFICIAL: ClassVar[dict[str, int | None]] = {}  # splits, with their number of videos as published
    ALIASES: ClassVar[dict[str, str]] = {}  # other names of splits
    UNIT: ClassVar[str] = "videos"

    def __init__(self, *args, data_dir: str | os.PathLike, splits=None, skip_invalid: bool = False, **kwargs):
        root = self.find_root(data_dir)
        splits = splits and tuple(sorted({self.ALIASES.get(split, split) for split in splits}))
        # A damaged file that is written anew may show in nothing but the report.
        problems = self.examine_all(root, splits)[1].problems if skip_invalid else None
        state = Hasher.hash((self.state(root, splits), problems))
        super().__init__(*args, data_dir=str(root), splits=splits, skip_invalid=skip_invalid, state=state, **kwargs)

    @classmethod
    def find_root(cls, data_dir: str | os.PathLike) -> Path:
        return find_root(data_dir, cls.TITLE, cls.looks_right, cls.EXPECTED)

    @staticmethod
    def looks_right(folder: Path) -> bool:
        """Whether a folder is that of the dataset."""
        raise NotImplementedError

    @classmethod
    def find(cls, root: Path, splits: tuple[str, ...] | None) -> tuple[dict[str, list], list[Problem]]:
        """What each split holds, unexamined, and what is wrong with the folders around it; reads little."""
        raise NotImplementedError

    @classmethod
    def state(cls, root: Path, splits: tuple[str, ...] | None) -> Any:
        """What changes when files that the rows are made of are added, removed or written."""
        raise NotImplementedError

    @classmethod
    def examine(cls, item) -> tuple[list, list[Problem]]:
        """The parts of an item that can be used, to be read one by one; its problems."""
        raise NotImplementedError

    @classmethod
    def decode(cls, item) -> list[Problem]:
        """Problems that only reading every file of an examined item shows."""
        raise NotImplementedError

    @classmethod
    def count(cls, items: list) -> tuple[int, int]:
        """Number of rows and of frames in examined items."""
        raise NotImplementedError

    @classmethod
    def left_out(cls, problems: list[Problem]) -> int:
        """How many rows cannot be used for the problems of one item."""
        raise NotImplementedError

    @classmethod
    def examine_all(
        cls, root: Path, splits: tuple[str, ...] | None, deep: bool = False
    ) -> tuple[dict[str, list], Report]:
        """What each split holds that can be used, and the report on all of it."""
        found, problems = cls.find(root, splits)
        left_out = sum(problem.fatal for problem in problems)
        usable, hidden = {}, []
        for split, items in found.items():
            results = [cls.examine(item) for item in items]
            usable[split] = [part for parts, _ in results for part in parts]
            problems += [problem for _, more in results for problem in more]
            left_out += sum(cls.left_out(more) for _, more in results)
            if deep:
                hidden += [problem for more in decode_all(usable[split], cls.decode) for problem in more]
        counts = {split: Found(*cls.count(items), cls.OFFICIAL.get(split)) for split, items in usable.items()}
        num_hidden = sum(problem.fatal for problem in hidden)
        return usable, Report(cls.TITLE, root, problems + hidden, counts, left_out, num_hidden, cls.UNIT)

    @classmethod
    def check(cls, data_dir: str | os.PathLike, split: str | None = None, decode: bool = False) -> Report:
        """
        Whether a folder can be loaded.

        Args:
            data_dir: the dataset's folder.
            split: the only one to check; all by default.
            decode: read every file, with a progress bar, and compare the sizes of frames and maps. Otherwise only
                names and headers are read.

        Raises:
            DataError: the folder is not that of the dataset.
        """
        splits = None if split is None else (cls.ALIASES.get(split, split),)
        return cls.examine_all(cls.find_root(data_dir), splits, decode)[1]

    @classmethod
    def official_split(cls, split: str) -> tuple[str, list[str]]:
        """
        A split, or a part or sum of splits, in the names that the tables have (`"val[:9]"`: `"validation[:9]"`); and
        those names.

        Raises:
            DataError: it is not written as such.
        """
        terms = [re.fullmatch(r"\s*([^\[\]\s]+)\s*(\[.*\])?\s*", term) for term in str(split).split("+")]
        if not all(terms):
            raise DataError(f"{split!r} is no split; give one such as 'train', 'train[:90%]' or 'train+validation'.")
        names = [cls.ALIASES.get(term[1], term[1]) for term in terms]
        return "+".join(name + (term[2] or "") for name, term in zip(names, terms, strict=True)), names

    @classmethod
    def load(
        cls,
        data_dir: str | os.PathLike,
        split: str = "train",
        *,
        streaming: bool = False,
        skip_invalid: bool = False,
        num_proc: int | None = None,
        cache_dir: str | os.PathLike | None = None,
    ) -> datasets.Dataset | datasets.IterableDataset:
        """
        Check a folder, and make a dataset of it; no image or video is decoded.

        The table of paths is kept in the cache of `datasets`, and made anew when files have changed.

        Args:
            data_dir: the dataset's folder.
            split: its name, or a part or sum as in `"train[:90%]"` and `"train+validation"`.
            streaming: return an `IterableDataset`, one shard per row, that writes nothing to the cache.
            skip_invalid: leave out rows with problems, and warn how many they are.
            num_proc: processes that make the table.
            cache_dir: where the table is kept; by default where `datasets` keeps all.

        Raises:
            DataError: the folder is not that of the dataset, something in it is missing or does not fit (the message
                is the whole report), or it has no such split.
        """
        split, names = cls.official_split(split)
        builder = cls(
            data_dir=data_dir, splits=names, skip_invalid=skip_invalid, cache_dir=cache_dir and os.fspath(cache_dir)
        )
        if streaming:
            return builder.as_streaming_dataset(split)
        builder.download_and_prepare(num_proc=num_proc)
        return builder.as_dataset(split)

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        usable, report = self.examine_all(self.find_root(self.config.data_dir), self.config.splits)
        if report.fatal and not self.config.skip_invalid:
            raise DataError(str(report))
        empty = [split for split in self.config.splits or () if not usable[split]]
        if empty or not any(usable.values()):
            where = f"{self.TITLE}'s {' and '.join(empty)} split" if empty else self.TITLE
            raise DataError(f"There are no {self.UNIT} to load for {where} in {report.root}.\n{report}")
        if report.fatal:
            left_out = counted(report.left_out, self.UNIT[:-1])
            warnings.warn(f"Left out of {self.TITLE}: {left_out}.\n{report}", stacklevel=2)
        elif report.problems:
            warnings.warn(str(report), stacklevel=2)
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"items": items})
            for split, items in usable.items()
            if items
        ]


class VideoBuilder(GazeBuilder):
    """Base of the builders whose rows are videos."""

    @classmethod
    def chosen(cls, splits: tuple[str, ...] | None) -> tuple[str, ...]:
        """The splits to look for; all by default."""
        unknown = [split for split in splits or () if split not in cls.OFFICIAL]
        if unknown:
            hint = "" if "validation" in cls.OFFICIAL else "; hold_out(train) makes a validation set"
            raise DataError(f"{cls.TITLE} has no split {unknown[0]!r}, but {' and '.join(cls.OFFICIAL)}{hint}.")
        return splits or tuple(cls.OFFICIAL)

    @classmethod
    def state(cls, root: Path, splits: tuple[str, ...] | None) -> Any:
        found, problems = cls.find(root, splits)
        return problems, {split: [fingerprint(clip) for clip in clips] for split, clips in found.items()}

    @classmethod
    def examine(cls, item: Clip) -> tuple[list[Clip], list[Problem]]:
        return examine(item)

    @classmethod
    def decode(cls, item: Clip) -> list[Problem]:
        return decode(item)

    @classmethod
    def count(cls, items: list[Clip]) -> tuple[int, int]:
        return len(items), sum(clip.num_frames for clip in items)

    @classmethod
    def left_out(cls, problems: list[Problem]) -> int:
        return int(any(problem.fatal for problem in problems))

    def _generate_examples(self, items: list[Clip]):
        for clip in items:
            yield clip.id, clip.row()


def frame_rate(file: Path, default: float) -> float:
    """
    Frames per second from a file that holds nothing else; the default if it does not exist.

    Raises:
        OSError, ValueError: it cannot be read, or is not a number above 0.
    """
    if not os.path.lexists(file):
        return default
    check_file(file)
    rate = float(file.read_text(encoding="utf-8"))
    if not 0 < rate < math.inf:
        raise ValueError(f"{rate} is not a frame rate.")
    return rate


def clips_of(folder: Path, fps: float) -> tuple[list[Clip], list[Problem]]:
    """The folders `CLIP/{images,maps,fixation}` in a folder, in natural order; `fps` where a clip does not tell."""
    clips, problems = [], []
    for entry in list_folder(folder):
        path = folder / entry.name
        if entry.is_dir():
            try:
                rate = frame_rate(path / FPS_FILE, fps)
            except (OSError, ValueError):
                problems.append(Problem("fps", path / FPS_FILE, "is not a number above 0"))
                continue
            clips.append(
                Clip(entry.name, images=path / "images", maps=path / "maps", fixations=path / "fixation", fps=rate)
            )
        else:
            problems.append(Problem("file for folder", path, "is a file; it is ignored", fatal=False))
    return clips, problems


class ClipFolderBuilder(VideoBuilder):
    """
    Base of the builders of `{training,testing}/CLIP/{images,maps,fixation}`, with frames per second in `CLIP/fps.txt`
    if they are others than `FPS`. The names in `ALIASES` are also those of the splits' folders.
    """

    EXPECTED = "training/CLIP/{images,maps,fixation} and the same under testing"
    ALIASES: ClassVar = {"training": "train", "testing": "test"}
    FPS: ClassVar[float]

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
                found[split], more = clips_of(root / name, cls.FPS)
                problems += more
        return found, problems


__all__ = ["FPS_FILE", "ClipFolderBuilder", "GazeBuilder", "GazeConfig", "VideoBuilder"]
