"""Image gaze sets: pictures with lists of fixations, as parquet tables or folders.

A table, `SPLIT.parquet` (or `SPLIT-00000-of-00004.parquet` …), has the columns `image` (`{"bytes", "path"}`, of which
a path is used where there are no bytes, and leads from the table's folder to a file in it), `fixation_x`, `fixation_y`
(lists) and, if known, `image_id`, `dataset`, `width`, `height` and `observer` (a list).
A folder, `SPLIT`, has `images` and `fixations.csv` with the columns `image` (file name), `x`, `y` and, if known,
`observer`. A split is there once, with all parts of a table. One table or folder may be given by itself: it is the
split that is asked for, "train" unless named.

Fixations are in pixels of the image as stored, from the outer corner of its first pixel; observers are whole numbers
or names, which are numbered in the order in which a file has them. Images without fixations are kept.
"""

import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import described
from ..video.pictures import IMAGE_SUFFIXES
from .builder import GazeBuilder, Source
from .features import STILL_FEATURES, DataError
from .layout import MAX_SIDE, examined_image, list_folder, stamp
from .report import Problem, amount
from .tables import fixation_faults, in_lines, read_columns, shown

_SHARD = re.compile(r"-[0-9]+-of-([0-9]+)$")
MAX_VALUES = 10_000_000  # of a column in a row group

# What the columns of a table are to Arrow, and in words; a column of nothing but nulls is of the type null.
_WHOLE, _TEXT, _LIST = "u?int[0-9]+", "(large_)?string|null", r"(large_)?list<\w+: ({})( not null)?>"
_NUMBERS = _LIST.format(f"{_WHOLE}|halffloat|float|double|null"), "a list of numbers"
_NEEDED = {
    "image": (rf"struct<(bytes: (large_)?(binary|null)|path: ({_TEXT})|, ){{3}}>", "a struct of bytes and path"),
    "fixation_x": _NUMBERS,
    "fixation_y": _NUMBERS,
}
_KINDS = _NEEDED | {
    "observer": (_LIST.format(f"{_WHOLE}|{_TEXT}"), "a list of whole numbers or names"),
    "width": (_WHOLE, "a whole number"),
    "height": (_WHOLE, "a whole number"),
    "image_id": (_TEXT, "a text"),
    "dataset": (_TEXT, "a text"),
}


class Stills(GazeBuilder):
    """Builder of image gaze sets; see the module for the files and folders it reads."""

    TITLE = "Stills"
    EXPECTED = "train.parquet, or train/images and train/fixations.csv"
    SOURCE = Source(
        terms="Every set of images has its own licence. **Keep this repository private until you have made sure that "
        "it permits redistribution**; then name it here and in `license` above.",
    )
    FEATURES = STILL_FEATURES
    UNIT = "images"

    @classmethod
    def looks_right(cls, folder: Path) -> bool:
        if folder.is_file():
            return folder.suffix == ".parquet"
        paths = [folder / entry.name for entry in list_folder(folder)]
        return any(path.suffix == ".parquet" for path in paths) or any(map(_is_folder, (folder, *paths)))

    @classmethod
    def find(
        cls, root: Path, splits: tuple[str, ...] | None
    ) -> tuple[dict[str, list["Table | Folder"]], list[Problem]]:
        if root.is_file() or _is_folder(root):
            return {split: [Table((root,)) if root.is_file() else Folder(root)] for split in splits or ("train",)}, []
        # By split and by number of shards: 0 for a folder, 1 for a table by itself.
        sources: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
        for path in (root / entry.name for entry in list_folder(root)):
            if path.suffix == ".parquet":
                shard = _SHARD.search(path.stem)
                sources[_SHARD.sub("", path.stem)][int(shard[1]) if shard else 1].append(path)
            elif _is_folder(path):
                sources[path.name][0].append(path)
        if unknown := [split for split in splits or () if split not in sources]:
            raise DataError(f"{root} has no split {unknown[0]!r}, but {' and '.join(sources)}.")
        found, problems = {}, []
        for split in splits or sources:
            (number, paths), *more = sources[split].items()
            found[split] = [Table(tuple(paths)) if number else Folder(paths[0])]
            if more:
                text = f"has the images of the split {split}, and so has {more[0][1][0].name}"
                problems.append(Problem("duplicate", paths[0], text))
            if len(paths) < number:
                text = f"is one of {number} parts of the split {split}, of which {len(paths)} are there"
                problems.append(Problem("missing part", paths[0], text))
        return found, problems


def _is_folder(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "fixations.csv").is_file()


@dataclass(frozen=True)
class Table:
    """The parquet files of a split, or, examined, a row group of one of them."""

    paths: tuple[Path, ...]
    group: int = 0
    num_rows: int = 0  # that can be used
    left_out: frozenset[int] = frozenset()  # the numbers of those that cannot
    num_frames: ClassVar = 0

    def state(self) -> Any:
        return [stamp(path) for path in self.paths]

    def examine(self) -> tuple[list["Table"], list[Problem]]:
        """The row groups, less the rows that do not fit; every row is read, of its image the header."""
        groups: list[Table] = []
        problems: list[Problem] = []
        seen: dict[str, Path] = {}
        for path in self.paths:
            none = []
            try:
                with pq.ParquetFile(path) as file:
                    unfit = list(_column_problems(path, file.schema_arrow))
                    if not (unfit or file.metadata.num_rows):
                        unfit = [Problem("columns", path, "has no rows")]
                    problems += unfit
                    for group in range(0 if unfit else file.num_row_groups):
                        left_out, number = set(), -1
                        for number, still, problem in _stills(path, file, group):
                            name = still["image_id"]
                            if not problem and name in seen:
                                text = f"{shown(name)} is in {seen[name].name} already"
                                problem = Problem("duplicate", path, text)
                            seen.setdefault(name, path)
                            if problem:
                                left_out.add(number)
                                problems.append(problem)
                            elif not still["fixation_x"]:
                                none.append(name)
                        groups.append(Table((path,), group, number + 1 - len(left_out), frozenset(left_out)))
            except (OSError, pa.ArrowException, UnicodeDecodeError, OverflowError) as error:
                problems.append(Problem("unreadable", path, f"is not a whole parquet file ({described(error)})"))
            problems += _without_fixations(path, none)
        return groups, problems

    def decode(self) -> list[Problem]:
        return _undecodable(self.paths[0], self.paths[0].parent, self.rows())

    def rows(self) -> Iterator[dict]:
        (path,) = self.paths
        with pq.ParquetFile(path) as file:
            numbers = {}
            if "observer" in file.schema_arrow.names and "string" in str(file.schema_arrow.field("observer").type):
                names = pc.list_flatten(file.read(columns=["observer"])["observer"]).unique()
                numbers = {name: number for number, name in enumerate(names.to_pylist())}
            for number, still, _ in _stills(path, file, self.group):
                if number not in self.left_out:
                    yield {**still, "observer": [numbers.get(name, name) for name in still["observer"]]}


@dataclass(frozen=True)
class Folder:
    """A folder with `images` and `fixations.csv`, or, examined, one still of it."""

    path: Path
    still: dict = field(default_factory=dict)
    num_rows: ClassVar = 1
    num_frames: ClassVar = 0

    def state(self) -> Any:
        return stamp(self.path / "images"), stamp(self.path / "fixations.csv")

    def examine(self) -> tuple[list["Folder"], list[Problem]]:
        table, images = self.path / "fixations.csv", self.path / "images"
        try:
            numbers, texts, lines, faults = read_columns(table, ("x", "y"), ("image",), ("observer",))
        except DataError as error:
            return [], [Problem("unreadable", table, str(error))]
        problems = [Problem("columns", table, fault) for fault in faults]
        if not lines:
            return [], problems
        rows_of = defaultdict(list)
        for number, name in enumerate(texts["image"]):
            rows_of[name].append(number)
        observers = texts.get("observer", [])
        numbered = _numbered(observers)
        names = [entry.name for entry in list_folder(images) if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES]
        for name in sorted(rows_of.keys() - set(names)):
            where = in_lines([lines[n] for n in rows_of[name]])
            text = f"{shown(name)} does not exist there, but has fixations: {where}"
            problems.append(Problem("missing image", images, text))
        stills = []
        for name in names:
            rows = rows_of[name]
            row = {f"fixation_{axis}": column[rows].tolist() for axis, column in numbers.items()}
            row |= {"observer": [numbered.get(observers[n]) for n in rows]} if observers else {}
            row |= {"image": {"bytes": None, "path": name}, "dataset": self.path.name}
            still, problem = _still(images, table, row, name, [lines[n] for n in rows])
            if problem:
                problems.append(problem)
            else:
                stills.append(still)
        keys = zip(texts["image"], *numbers.values(), observers or lines, strict=True)
        if twice := sum(count - 1 for count in Counter(keys).values()):
            problems.append(Problem("duplicate", table, f"{amount(twice, 'row')} repeated", fatal=False))
        none = [still["image_id"] for still in stills if not still["fixation_x"]]
        return [Folder(self.path, still) for still in stills], problems + _without_fixations(table, none)

    def decode(self) -> list[Problem]:
        return _undecodable(self.path / "images", self.path / "images", self.rows())

    def rows(self) -> Iterator[dict]:
        yield self.still


def _stills(path: Path, file: pq.ParquetFile, group: int) -> Iterator[tuple[int, dict, Problem | None]]:
    """The rows of a row group, numbered, each as `_still` gives it; a few are in memory."""
    about = file.metadata.row_group(group)
    most = max(about.column(number).num_values for number in range(about.num_columns))
    if most > MAX_VALUES:  # Repetitions take no room in a file.
        raise OSError(f"it has {most} values in a row group; write smaller ones")
    kept = [name for name in file.schema_arrow.names if name in STILL_FEATURES]
    batches = file.iter_batches(16, row_groups=[group], columns=kept)
    for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
        yield number, *_still(path.parent, path, row, f"{path.stem}_{group}_{number}")


def _still(
    folder: Path, where: Path, row: dict, unnamed: str, lines: Sequence[int] = ()
) -> tuple[dict, Problem | None]:
    """
    A row, its image in a folder, as `STILL_FEATURES` has it but for names of observers; why it cannot be used, if so.
    The fixations may be on lines of the table.
    """
    image = row["image"] or {"bytes": None, "path": None}
    x, y, observer = (row.get(column) or [] for column in ("fixation_x", "fixation_y", "observer"))
    # What is written about an image is called as it is.
    path = PureWindowsPath(image["path"] or "")
    name = row.get("image_id") or (path.name if _leads_out(path) else image["path"]) or unnamed
    told = row.get("width"), row.get("height")
    kind, faults = "fixations", []
    if len(name) > 255 or not name.isprintable() or _leads_out(PureWindowsPath(name)):
        kind, faults = "columns", ["an image_id that can be no name of a file"]
    try:
        file = _file_of(folder, image)
        width, height = examined_image(file).size
        if isinstance(file, Path):
            image = {"path": str(file), "bytes": None}
        if None not in told and told != (width, height):
            kind, faults = "size", [*faults, f"an image of {width}×{height}, not {told[0]}×{told[1]} pixels"]
    except (OSError, ValueError) as error:  # The latter if a path is none at all.
        kind, faults = "unreadable", [*faults, f"an image that cannot be read ({described(error)})"]
        width, height = (side or MAX_SIDE for side in told)
    lengths = {"x": len(x), "y": len(y)} | ({"observers": len(observer)} if observer else {})
    if len(set(lengths.values())) > 1:
        faults.append(", ".join(f"{number} {axis}" for axis, number in lengths.items()))
    else:
        faults += fixation_faults(np.array(x, np.float64), np.array(y, np.float64), (width, height), lines)
    if None in observer:
        faults.append("fixations whose observer is missing")
    elif any(isinstance(who, int) and not -(2**31) <= who < 2**31 for who in observer):
        faults.append("observers that are no numbers of 32 bits")
    if faults:
        return {"image_id": name}, Problem(kind, where, f"{shown(name)} has {'; '.join(faults)}")
    still = {"image": image, "image_id": name, "dataset": row.get("dataset") or folder.name, "observer": observer}
    places = {"fixation_x": np.array(x, np.float32).tolist(), "fixation_y": np.array(y, np.float32).tolist()}
    return {**still, "width": width, "height": height, **places}, None


def _leads_out(path: PureWindowsPath) -> bool:
    """Whether a path, of any system, can lead out of a folder."""
    return bool(path.anchor) or ".." in path.parts


def _file_of(folder: Path, image: dict) -> Path | io.BytesIO:
    """The content of an image, or its file in a folder; an `OSError` if there is none, or elsewhere."""
    if image["bytes"] is not None:
        return io.BytesIO(image["bytes"])
    if not image["path"]:
        raise OSError("it has neither bytes nor a path")
    path = folder / image["path"]
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise OSError(f"the path {shown(image['path'])} leads out of the folder; copy the image into it")
    return path


def _undecodable(where: Path, folder: Path, stills: Iterable[dict]) -> list[Problem]:
    """Those of the stills, of a table or folder, of whose images more than the header is damaged."""
    problems = []
    for still in stills:
        try:
            examined_image(_file_of(folder, still["image"]), decode=True)
        except OSError as error:
            problems.append(Problem("unreadable", where, f"{shown(still['image_id'])} ({described(error)})"))
    return problems


def _column_problems(path: Path, schema: pa.Schema) -> Iterator[Problem]:
    for name, (kind, expected) in _KINDS.items():
        if schema.names.count(name) > 1:
            yield Problem("columns", path, f"has two columns {name}")
        elif name not in schema.names:
            if name in _NEEDED:
                yield Problem("columns", path, f"has no column {name}")
        elif not re.fullmatch(kind, found := str(schema.field(name).type)):
            yield Problem("columns", path, f"column {name} is {found[:200]}, not {expected}")


def _without_fixations(where: Path, names: list[str]) -> list[Problem]:
    text = f"{len(names)} have no fixations, such as {shown(names[0])}" if names else ""
    return [Problem("fixations", where, text, fatal=False)] if names else []


def _numbered(observers: list[str]) -> dict[str, int]:
    """The number of each observer: that in the file, or one in the order of names there."""
    names = [name for name in dict.fromkeys(observers) if name]
    try:
        return {name: int(np.int32(int(name))) for name in names}
    except (ValueError, OverflowError):
        return {name: number for number, name in enumerate(names)}


load_stills = Stills.load
