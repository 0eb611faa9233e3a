"""Where rows of stills come from: parquet tables and folders, examined and read."""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from ..errors import check_file
from ..video.reading import IMAGE_SUFFIXES
from .features import STILL_FEATURES, DataError
from .layout import Problem, decoded_size, image_stamps, list_folder, stamp


@dataclass(frozen=True)
class Table:
    """A parquet file of stills, or one of its row groups."""

    path: Path
    group: int | None = None

    def state(self) -> Any:
        return stamp(self.path)

    def examine(self) -> tuple[list["Table"], list[Problem]]:
        """Its row groups, if its columns are as they should be."""
        try:
            file = pq.ParquetFile(self.path)
        except (OSError, pa.ArrowException) as error:
            return [], [Problem("unreadable", self.path, f"is not a parquet file ({error})")]
        with file:
            problems = _column_problems(self.path, file.schema_arrow)
            if problems:
                return [], problems
            groups = [Table(self.path, group) for group in range(file.num_row_groups)]
            columns = [name for name in file.schema_arrow.names if name in STILL_FEATURES and name != "image"]
            rows = (row for batch in file.iter_batches(256, columns=columns) for row in batch.to_pylist())
            problems = _fixation_problems(self.path, rows)
        return groups, problems

    def decode(self) -> list[Problem]:
        problems = []
        for row in self.rows():
            try:
                size = decoded_size(_opened(row["image"]))
            except OSError as error:
                problems.append(Problem("unreadable", self.path, f"{row['image_id']} ({error})"))
            else:
                if size != (row["width"], row["height"]):
                    text = f"{row['image_id']} is {size[0]}×{size[1]}, not {row['width']}×{row['height']} pixels"
                    problems.append(Problem("size", self.path, text))
        return problems

    def __len__(self) -> int:
        with pq.ParquetFile(self.path) as file:
            return file.metadata.row_group(self.group).num_rows

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
                name = row.get("image_id") or row["image"]["path"] or f"{self.path.stem}_{self.group}_{index}"
                width, height = row.get("width"), row.get("height")
                if width is None or height is None:
                    with Image.open(_opened(row["image"])) as image:
                        width, height = image.size
                row |= {"image_id": name, "dataset": row.get("dataset") or self.path.parent.name}
                row |= {"width": width, "height": height}
                row |= {name: row.get(name) or [] for name in ("fixation_x", "fixation_y", "observer")}
                row["observer"] = [numbers.get(name, name) for name in row["observer"]]
                yield row


def _observer_numbers(file: pq.ParquetFile) -> dict[str, int]:
    """Numbers for the names of observers, in the order in which the table has them; nothing if they are numbers."""
    if "observer" not in file.schema_arrow.names or not _is_text(file.schema_arrow.field("observer").type.value_type):
        return {}
    names = pc.list_flatten(file.read(columns=["observer"])["observer"]).unique()
    return {name: number for number, name in enumerate(names.to_pylist())}


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _opened(image: dict):
    return image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"])


def _column_problems(path: Path, schema: pa.Schema) -> list[Problem]:
    problems = []
    for name in ("image", "fixation_x", "fixation_y", "observer", "width", "height"):
        if name not in schema.names:
            if name in ("image", "fixation_x", "fixation_y"):
                problems.append(Problem("columns", path, f"has no column {name}"))
            continue
        kind = schema.field(name).type
        if name == "image":
            fits = pa.types.is_struct(kind) and {field.name for field in kind} >= {"bytes", "path"}
            expected = "a struct of bytes and path"
        elif name in ("width", "height"):
            fits, expected = pa.types.is_integer(kind), "a whole number"
        else:
            tests = [pa.types.is_integer, _is_text if name == "observer" else pa.types.is_floating]
            is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
            fits = is_list and any(test(kind.value_type) for test in tests)
            expected = "a list of whole numbers or names" if name == "observer" else "a list of numbers"
        if not fits:
            problems.append(Problem("columns", path, f"column {name} is {kind}, not {expected}"))
    return problems


def _misfit(row: dict) -> str:
    """What a row has that cannot be used: lists of several lengths (observers may be unknown), or no numbers."""
    lengths = {name: len(row.get(f"fixation_{name}") or []) for name in ("x", "y")}
    if row.get("observer"):
        lengths["observers"] = len(row["observer"])
    if len(set(lengths.values())) > 1:
        return ", ".join(f"{number} {name}" for name, number in lengths.items())
    places = [place for name in ("x", "y") for place in row.get(f"fixation_{name}") or []]
    if not all(place is not None and math.isfinite(place) for place in places):
        return "fixations whose x or y is no number"
    return "fixations whose observer is missing" if None in (row.get("observer") or []) else ""


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
    """A folder with `images` and `fixations.csv`; examined, with the stills it holds."""

    path: Path
    stills: tuple[dict, ...] = ()

    def state(self) -> Any:
        return image_stamps(self.path / "images"), stamp(self.path / "fixations.csv")

    def examine(self) -> tuple[list["Folder"], list[Problem]]:
        """Itself in parts of one still each, as far as they can be used."""
        table = self.path / "fixations.csv"
        try:
            fixations = _read_csv(table)
        except DataError as error:
            return [], [Problem("columns", table, str(error))]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            return [], [Problem("unreadable", table, str(error))]
        names = [
            entry.name
            for entry in list_folder(self.path / "images")
            if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES
        ]
        problems = [
            Problem("missing image", self.path / "images" / name, "does not exist, but has fixations")
            for name in sorted(fixations.keys() - set(names))
        ]
        parts, rows = [], []
        for name in names:
            file = self.path / "images" / name
            try:
                check_file(file)
                with Image.open(file) as image:
                    width, height = image.size
            except OSError as error:
                problems.append(Problem("unreadable", file, f"is not an image ({error})"))
                continue
            row = {
                "image": {"path": str(file), "bytes": None},
                "image_id": name,
                "dataset": self.path.name,
                "width": width,
                "height": height,
                **fixations.get(name, {"fixation_x": [], "fixation_y": [], "observer": []}),
            }
            rows.append(row)
            parts.append(Folder(self.path, (row,)))
        return parts, problems + _fixation_problems(table, rows)

    def decode(self) -> list[Problem]:
        problems = []
        for row in self.stills:
            try:
                decoded_size(row["image"]["path"])
            except OSError as error:
                problems.append(Problem("unreadable", Path(row["image"]["path"]), str(error)))
        return problems

    def __len__(self) -> int:
        return len(self.stills)

    def rows(self) -> Iterator[dict]:
        yield from self.stills


def _read_csv(path: Path) -> dict[str, dict[str, list]]:
    """
    Fixations by the name of the image; observers by number, that in the file or one in the order of names there.

    Raises:
        DataError: a column is missing, or a cell does not fit; the message says which.
        OSError, UnicodeDecodeError, csv.Error: it cannot be read.
    """
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
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"line {reader.line_num} has {len(row)} cells, but the header has {len(header)}")
            cells = dict(zip(header, row, strict=True))
            image = fixations[cells["image"]]
            for name, feature in columns.items():
                if name in cells:
                    try:
                        image[feature].append(_cell(name, cells[name]))
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
    return dict(fixations)


def _cell(name: str, text: str) -> float | str:
    """
    What a cell stands for.

    Raises:
        ValueError: it is empty, or should be a number.
    """
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


def is_folder_of_stills(folder: Path) -> bool:
    """Whether it has `images` and `fixations.csv`."""
    return (folder / "images").is_dir() and (folder / "fixations.csv").is_file()


__all__ = ["Folder", "Table", "is_folder_of_stills"]
