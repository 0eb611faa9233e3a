"""Image gaze sets: pictures with lists of fixations, as parquet tables or folders.

A table, `SPLIT.parquet` (or `SPLIT-00000-of-00004.parquet` …), has the columns `image` (`{"bytes", "path"}`),
`fixation_x`, `fixation_y` (lists) and, if known, `image_id`, `dataset`, `width`, `height` and `observer` (a list).
A folder, `SPLIT`, has `images` and `fixations.csv` with the columns `image` (file name), `x`, `y` and, if known,
`observer`. A split is there once, with all parts of a table. One table or folder may be given by itself: it is the
split that is asked for, "train" unless named.

Fixations are in pixels of the image as stored, from the outer corner of its first pixel; observers are whole numbers
or names, which are numbered in the order in which a file has them. Images without fixations are kept.
"""

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from ..errors import check_file
from ..video.pictures import IMAGE_SUFFIXES
from .builder import GazeBuilder, Source
from .features import STILL_FEATURES, DataError
from .layout import decoded_size, image_stamps, list_folder, stamp
from .report import Problem

_SHARD = re.compile(r"-[0-9]+-of-([0-9]+)$")


class Stills(GazeBuilder):
    """Builder of image gaze sets; see the module for the files and folders it reads."""

    TITLE = "Stills"
    EXPECTED = "train.parquet, or train/images and train/fixations.csv"
    DESCRIPTION = "Images with the fixations of several observers. Terms are those of the sets they come from."
    SOURCE = Source(
        "",
        "",
        "Every set of images has its own licence. **Keep this repository private until you have made sure that it "
        "permits redistribution**; then name it here and in `license` above.",
    )
    FEATURES = STILL_FEATURES
    UNIT = "images"

    @classmethod
    def looks_right(cls, folder: Path) -> bool:
        if folder.is_file():
            return folder.suffix == ".parquet"
        return is_folder_of_stills(folder) or any(
            entry.name.endswith(".parquet") or is_folder_of_stills(folder / entry.name)
            for entry in list_folder(folder)
        )

    @classmethod
    def find(
        cls, root: Path, splits: tuple[str, ...] | None
    ) -> tuple[dict[str, list["Table | Folder"]], list[Problem]]:
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
        if unknown := [split for split in splits or () if split not in sources]:
            raise DataError(f"{root} has no split {unknown[0]!r}, but {' and '.join(sources)}.")
        found, problems = {}, []
        for split in splits or sources:
            (number, found[split]), *more = sources[split].items()
            if more:
                text = f"has the images of the split {split}, and so has {more[0][1][0].path.name}"
                problems.append(Problem("duplicate", found[split][0].path, text))
            if len(found[split]) < number:
                text = f"is one of {number} parts of the split {split}, of which {len(found[split])} are there"
                problems.append(Problem("missing part", found[split][0].path, text))
        return found, problems


def is_folder_of_stills(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "fixations.csv").is_file()


@dataclass(frozen=True)
class Table:
    """A parquet file of stills, or, examined, one of its row groups."""

    path: Path
    group: int | None = None
    num_rows: int = 0

    def state(self) -> Any:
        return stamp(self.path)

    def examine(self) -> tuple[list["Table"], list[Problem]]:
        try:
            file = pq.ParquetFile(self.path)
        except (OSError, pa.ArrowException) as error:
            return [], [Problem("unreadable", self.path, f"is not a parquet file ({error})")]
        with file:
            problems = _column_problems(self.path, file.schema_arrow)
            if problems:
                return [], problems
            columns = [name for name in file.schema_arrow.names if name in STILL_FEATURES and name != "image"]
            rows = (row for batch in file.iter_batches(256, columns=columns) for row in batch.to_pylist())
            problems = _fixation_problems(self.path, rows)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            return [Table(self.path, group, size) for group, size in enumerate(sizes)], problems

    def decode(self) -> list[Problem]:
        problems = []
        for row in self.rows():
            try:
                width, height = decoded_size(_opened(row["image"]))
            except OSError as error:
                problems.append(Problem("unreadable", self.path, f"{row['image_id']} ({error})"))
            else:
                if (width, height) != (row["width"], row["height"]):
                    text = f"{row['image_id']} is {width}×{height}, not {row['width']}×{row['height']} pixels"
                    problems.append(Problem("size", self.path, text))
        return problems

    def count(self) -> tuple[int, int]:
        return self.num_rows, 0

    def rows(self) -> Iterator[dict]:
        """Its rows, less those whose fixations do not fit."""
        with pq.ParquetFile(self.path) as file:
            kept = [name for name in file.schema_arrow.names if name in STILL_FEATURES]
            kinds = pa.schema([STILL_FEATURES.arrow_schema.field(name) for name in kept])
            numbers = _observer_numbers(file)
            if numbers:
                kinds = kinds.set(kept.index("observer"), pa.field("observer", pa.list_(pa.string())))
            batches = file.iter_batches(16, row_groups=[self.group], columns=kept)
            tables = (pa.Table.from_batches([batch]).select(kept).cast(kinds) for batch in batches)
            for index, row in enumerate(row for table in tables for row in table.to_pylist()):
                if _misfit(row):
                    continue
                width, height = row.get("width"), row.get("height")
                if width is None or height is None:
                    with Image.open(_opened(row["image"])) as image:
                        width, height = image.size
                yield {
                    "image": row["image"],
                    "image_id": row.get("image_id")
                    or row["image"]["path"]
                    or f"{self.path.stem}_{self.group}_{index}",
                    "dataset": row.get("dataset") or self.path.parent.name,
                    "width": width,
                    "height": height,
                    "fixation_x": row["fixation_x"] or [],
                    "fixation_y": row["fixation_y"] or [],
                    "observer": [numbers.get(name, name) for name in row.get("observer") or []],
                }


def _observer_numbers(file: pq.ParquetFile) -> dict[str, int]:
    """Numbers for the names of observers, in the order in which the table has them; nothing if they are numbers."""
    if "observer" not in file.schema_arrow.names or not _is_text(file.schema_arrow.field("observer").type.value_type):
        return {}
    names = pc.list_flatten(file.read(columns=["observer"])["observer"]).unique()
    return {name: number for number, name in enumerate(names.to_pylist())}


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _opened(image: dict) -> str | io.BytesIO:
    return image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"])


def _column_problems(path: Path, schema: pa.Schema) -> list[Problem]:
    def is_file(kind: pa.DataType) -> bool:
        return pa.types.is_struct(kind) and {field.name for field in kind} >= {"bytes", "path"}

    def is_list_of(kind: pa.DataType, *tests: Callable[[pa.DataType], bool]) -> bool:
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        return is_list and any(test(kind.value_type) for test in tests)

    is_whole = pa.types.is_integer
    numbers = (lambda kind: is_list_of(kind, is_whole, pa.types.is_floating), "a list of numbers")
    columns = {
        "image": (is_file, "a struct of bytes and path"),
        "fixation_x": numbers,
        "fixation_y": numbers,
        "observer": (lambda kind: is_list_of(kind, is_whole, _is_text), "a list of whole numbers or names"),
        "width": (is_whole, "a whole number"),
        "height": (is_whole, "a whole number"),
    }
    problems = []
    for name, (fits, expected) in columns.items():
        if name not in schema.names:
            if name in ("image", "fixation_x", "fixation_y"):
                problems.append(Problem("columns", path, f"has no column {name}"))
        elif not fits(kind := schema.field(name).type):
            problems.append(Problem("columns", path, f"column {name} is {kind}, not {expected}"))
    return problems


def _misfit(row: dict) -> str:
    """What a row has that cannot be used: lists of several lengths (observers may be unknown), or no numbers."""
    x, y, observer = (row.get(name) or [] for name in ("fixation_x", "fixation_y", "observer"))
    lengths = {"x": len(x), "y": len(y)} | ({"observers": len(observer)} if observer else {})
    if len(set(lengths.values())) > 1:
        return ", ".join(f"{number} {name}" for name, number in lengths.items())
    if not all(place is not None and math.isfinite(place) for place in x + y):
        return "fixations whose x or y is no number"
    return "fixations whose observer is missing" if None in observer else ""


def _fixation_problems(where: Path, rows: Iterable[dict]) -> list[Problem]:
    """Images whose fixations do not fit; with fixations outside; without any."""
    problems, outside, none = [], [], []
    for index, row in enumerate(rows):
        name, width, height = row.get("image_id") or f"row {index}", row.get("width"), row.get("height")
        if misfit := _misfit(row):
            problems.append(Problem("fixations", where, f"{name} has {misfit}"))
        elif not row["fixation_x"]:
            none.append(name)
        elif width and height:
            x, y = row["fixation_x"], row["fixation_y"]
            if min(x) < 0 or max(x) > width or min(y) < 0 or max(y) > height:
                outside.append(name)
    for names, text in ((outside, "have fixations outside the image"), (none, "have no fixations")):
        if names:
            problems.append(Problem("fixations", where, f"{len(names)} {text}, such as {names[0]}", fatal=False))
    return problems


@dataclass(frozen=True)
class Folder:
    """A folder with `images` and `fixations.csv`, or, examined, one still of it."""

    path: Path
    still: dict = field(default_factory=dict)

    def state(self) -> Any:
        return image_stamps(self.path / "images"), stamp(self.path / "fixations.csv")

    def examine(self) -> tuple[list["Folder"], list[Problem]]:
        table, images = self.path / "fixations.csv", self.path / "images"
        try:
            fixations = _read_csv(table)
        except DataError as error:
            return [], [Problem("columns", table, str(error))]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            return [], [Problem("unreadable", table, str(error))]
        names = [entry.name for entry in list_folder(images) if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES]
        problems = [
            Problem("missing image", images / name, "does not exist, but has fixations")
            for name in sorted(fixations.keys() - set(names))
        ]
        stills = []
        for name in names:
            file = images / name
            try:
                check_file(file)
                with Image.open(file) as image:
                    width, height = image.size
            except OSError as error:
                problems.append(Problem("unreadable", file, f"is not an image ({error})"))
                continue
            still = {"image": {"path": str(file), "bytes": None}, "image_id": name, "dataset": self.path.name}
            stills.append({**still, "width": width, "height": height, **fixations[name]})
        return [Folder(self.path, still) for still in stills], problems + _fixation_problems(table, stills)

    def decode(self) -> list[Problem]:
        path = self.still["image"]["path"]
        try:
            decoded_size(path)
        except OSError as error:
            return [Problem("unreadable", Path(path), str(error))]
        return []

    def count(self) -> tuple[int, int]:
        return 1, 0

    def rows(self) -> Iterator[dict]:
        yield self.still


def _read_csv(path: Path) -> defaultdict[str, dict[str, list]]:
    """Fixations by the name of the image; observers by number, that in the file or one in the order of names there."""
    columns = {"x": "fixation_x", "y": "fixation_y", "observer": "observer"}
    fixations = defaultdict(lambda: {feature: [] for feature in columns.values()})
    observers = {}  # as an ordered set: names, or numbers as text
    check_file(path)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True)
        header = next(reader, [])
        for name in ("image", "x", "y"):
            if name not in header:
                raise DataError(f"has no column {name}, but {', '.join(header)}")
        for row in filter(None, reader):
            if len(row) != len(header):
                raise DataError(f"line {reader.line_num} has {len(row)} cells, but the header has {len(header)}")
            cells = dict(zip(header, row, strict=True))
            for name in (name for name in columns if name in cells):
                try:
                    fixations[cells["image"]][columns[name]].append(_cell(name, cells[name]))
                except ValueError as error:
                    raise DataError(f"line {reader.line_num}, column {name}: {error}") from error
            if "observer" in cells:
                observers[cells["observer"]] = None
    try:
        numbers = {name: int(np.int32(int(name))) for name in observers}
    except (ValueError, OverflowError):
        numbers = {name: number for number, name in enumerate(observers)}
    for image in fixations.values():
        image["observer"] = [numbers[name] for name in image["observer"]]
    return fixations


def _cell(name: str, text: str) -> float | str:
    if not text:
        raise ValueError("the cell is empty")
    if name == "observer":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a number")
    return float(np.float32(value))


load_stills = Stills.load
