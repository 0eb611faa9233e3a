"""What the builders of the gaze datasets share: checking first, a cache that knows when files change, and loading."""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import datasets
from datasets.fingerprint import Hasher
from tqdm import tqdm

from ..inference.threads import in_background
from .features import VIDEO_FEATURES, DataError, id_column
from .layout import list_folder
from .report import Found, Problem, Report, amount, any_fatal


class Source(NamedTuple):
    """Where a dataset is from, and under which terms; for its card, in markdown."""

    address: str = ""
    paper: str = ""
    terms: str = ""


PRIVATE = (
    "Its authors release it for research and give no permission to pass it on: **it may not be redistributed. Keep "
    "this repository private.**"
)


# Some rows of a dataset, with the methods of `layout.Clip`: a clip, or a table, folder or part of one. What it gives
# when it is examined is what can be used, to be read one by one.
Item = Any


class GazeBuilder(datasets.GeneratorBasedBuilder):
    """
    Base of the builders. A subclass says what it is, in class attributes, and where files are, in `looks_right` and
    `find`.
    """

    # Raise it when rows change, so that tables in the cache are made again.
    VERSION = datasets.Version("1.3.0")
    # A row of long lists of paths is large: few are held in memory at a time.
    DEFAULT_WRITER_BATCH_SIZE = 16

    TITLE: ClassVar[str]
    EXPECTED: ClassVar[str]  # entries of the folder, in words
    SOURCE: ClassVar[Source] = Source()
    FEATURES: ClassVar[datasets.Features]
    OFFICIAL: ClassVar[dict[str, int | None]] = {}  # splits, with their number of videos as published
    ALIASES: ClassVar[dict[str, str]] = {}  # other names of splits
    UNIT: ClassVar[str] = "videos"

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike,
        splits: Iterable[str] | None = None,
        skip_invalid: bool = False,
        cache_dir: str | None = None,
    ):
        self.root = self.find_root(data_dir)
        self.splits = None if splits is None else tuple(sorted({self.ALIASES.get(name, name) for name in splits}))
        self.skip_invalid = skip_invalid
        found, problems = self.find(self.root, self.splits)
        states = {split: [item.state() for item in items] for split, items in found.items()}
        # A damaged file that is written again may show in nothing but the report.
        report = self.examine_all(self.root, self.splits)[1].problems if skip_invalid else None
        # Stands for the files as they are, so that tables in the cache are not used once files have changed.
        state = Hasher.hash((self.splits, problems, states, report))
        super().__init__(cache_dir, dataset_name=type(self).__name__, data_dir=str(self.root), hash=state)

    @classmethod
    def looks_right(cls, folder: Path) -> bool:
        """Whether a folder is that of the dataset."""
        raise NotImplementedError

    @classmethod
    def find(cls, root: Path, splits: tuple[str, ...] | None) -> tuple[Mapping[str, Sequence[Item]], list[Problem]]:
        """What each split holds, unexamined, and what is wrong with the folders around it; reads little."""
        raise NotImplementedError

    @classmethod
    def find_root(cls, data_dir: str | os.PathLike) -> Path:
        """The dataset's folder, as an absolute path; if it is another's, a `DataError` says where it may be."""
        root = Path(os.path.abspath(os.path.expanduser(data_dir)))
        if root.exists() and cls.looks_right(root):
            return root
        inner = [Path(entry.path) for entry in list_folder(root)] if root.is_dir() else []
        nearby = (folder for folder in (*inner, *list(root.parents)[:3]) if folder.is_dir())
        hint = next((f"; did you mean {folder}?" for folder in nearby if cls.looks_right(folder)), ".")
        if not root.exists():
            raise DataError(f"There is no folder {root}{hint}")
        if not root.is_dir():
            raise DataError(f"{root} is a file, but {cls.TITLE} is a folder with {cls.EXPECTED}{hint}")
        raise DataError(f"{root} does not look like {cls.TITLE}, which has {cls.EXPECTED}{hint}")

    @classmethod
    def examine_all(
        cls, root: Path, splits: tuple[str, ...] | None, deep: bool = False
    ) -> tuple[dict[str, list[Item]], Report]:
        """What each split holds that can be used, and the report on all of it."""
        found, problems = cls.find(root, splits)
        left_out = sum(problem.fatal for problem in problems)
        usable, counts, hidden = {}, {}, []
        for split, items in found.items():
            usable[split] = []
            for parts, more in (item.examine() for item in items):
                usable[split] += parts
                problems += more
                # All problems of a clip are of one row.
                left_out += any_fatal(more) if cls.UNIT == "videos" else sum(problem.fatal for problem in more)
            if deep:
                hidden += decode_all(usable[split])
            rows, frames = (sum(getattr(item, n) for item in usable[split]) for n in ("num_rows", "num_frames"))
            counts[split] = Found(rows, frames, cls.OFFICIAL.get(split))
        num_hidden = sum(problem.fatal for problem in hidden)
        return usable, Report(cls.TITLE, root, problems + hidden, counts, left_out, num_hidden, cls.UNIT)

    @classmethod
    def check(cls, data_dir: str | os.PathLike, split: str | None = None, decode: bool = False) -> Report:
        """
        Whether a folder, or one split in it, can be loaded.

        Args:
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
        """
        terms = [re.fullmatch(r"\s*([^\[\]\s]+)\s*(\[.*\])?\s*", part) for part in str(split).split("+")]
        if not all(terms):
            raise DataError(f"{split!r} is no split; give one such as 'train', 'train[:90%]' or 'train+validation'.")
        parts = [(cls.ALIASES.get(term[1], term[1]), term[2] or "") for term in terms if term]
        return "+".join(name + part for name, part in parts), [name for name, _ in parts]

    @classmethod
    def load(
        cls,
        data_dir: str | os.PathLike,
        split: str = "train",
        *,
        streaming: bool = False,
        skip_invalid: bool = False,
        cache_dir: str | os.PathLike | None = None,
    ) -> datasets.Dataset | datasets.IterableDataset:
        """
        Check a folder, and make a dataset of it; no image or video is decoded.

        The table of paths is kept in the cache of `datasets`, and made again when files have changed.

        Args:
            data_dir: the dataset's folder.
            split: its name, or a part or sum as in `"train[:90%]"` and `"train+validation"`.
            streaming: return an `IterableDataset`, one shard per row, that writes nothing to the cache.
            skip_invalid: leave out rows with problems, and warn how many they are.
            cache_dir: where the table is kept; by default where `datasets` keeps all.

        Raises:
            DataError: the folder is not that of the dataset, something in it is missing or does not fit (the message
                is the whole report), or it has no such split.
        """
        split, names = cls.official_split(split)
        cache = os.fspath(cache_dir) if cache_dir else None
        builder = cls(data_dir=data_dir, splits=names, skip_invalid=skip_invalid, cache_dir=cache)
        if streaming:
            return builder.as_streaming_dataset(split)
        builder.download_and_prepare()
        return builder.as_dataset(split)

    def _info(self) -> datasets.DatasetInfo:
        address, paper, terms = self.SOURCE
        return datasets.DatasetInfo(homepage=address, citation=paper, license=terms, features=self.FEATURES)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        usable, report = self.examine_all(self.root, self.splits)
        if report.fatal and not self.skip_invalid:
            raise DataError(str(report))
        empty = [split for split in self.splits or () if not usable[split]]
        if empty or not any(usable.values()):
            where = f"{self.TITLE}'s {' and '.join(empty)} split" if empty else self.TITLE
            others = [split for split, items in self.find(self.root, None)[0].items() if items]
            there = f", which has {' and '.join(others)}" if others else ""
            raise DataError(f"There are no {self.UNIT} to load for {where} in {report.root}{there}.\n{report}")
        if report.problems:
            left_out = f"Left out of {self.TITLE}: {amount(report.left_out, self.UNIT[:-1])}.\n"
            warnings.warn(f"{left_out if report.fatal else ''}{report}", stacklevel=2)
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"items": items})
            for split, items in usable.items()
            if items
        ]

    def _generate_examples(self, items: list[Item]) -> Iterator[tuple[str, dict]]:
        name = id_column(self.info.features)
        yield from ((row[name], row) for item in items for row in item.rows())


class VideoBuilder(GazeBuilder):
    """Base of the builders whose rows are videos, and whose `find` gives [`layout.Clip`]s."""

    FEATURES = VIDEO_FEATURES

    @classmethod
    def chosen(cls, splits: tuple[str, ...] | None) -> tuple[str, ...]:
        """The splits to look for; all by default."""
        unknown = [split for split in splits or () if split not in cls.OFFICIAL]
        if unknown:
            hint = "" if "validation" in cls.OFFICIAL else "; hold_out(train) makes a validation set"
            raise DataError(f"{cls.TITLE} has no split {unknown[0]!r}, but {' and '.join(cls.OFFICIAL)}{hint}.")
        return splits or tuple(cls.OFFICIAL)


def decode_all(items: list[Item]) -> list[Problem]:
    """What reading every file of the items shows, in their order; by threads, with a progress bar."""
    cores = os.cpu_count() or 1
    # Closed, so that an interrupted check does not go on with what is left, which may take an hour.
    with closing(in_background(lambda item: item.decode(), items, 2 * cores, cores)) as results:
        progress = tqdm(results, total=len(items), desc="Reading every file", unit="video", disable=None)
        return [problem for problems in progress for problem in problems]
