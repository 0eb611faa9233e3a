"""Datasets as shards that hold the files themselves: for the Hub, and for streaming to many machines.

A folder of shards has a dataset card and is read by `datasets.load_dataset`. Parquet keeps the rows as they are. A
WebDataset is tar files with, for each row, `KEY.json` (the name of its image or video, and all that is no file),
`KEY.image` or `KEY.video` (that file as it was), and `KEY.frames.zip`, `KEY.maps.zip`, `KEY.fixations.zip` (the files
in order, uncompressed).
"""

import io
import json
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, IterableDataset, List, Value, Video, load_dataset
from datasets.utils.py_utils import convert_file_size_to_int
from tqdm import tqdm

from ..errors import VideoError, advice_for, reason_of, reported
from ..files import atomic_output
from .export_card import dataset_card
from .features import STILL_FEATURES, VIDEO_FEATURES, DataError

MARKER = "salfom_export.json"

# Readers hold one row group at a time: a video, or several stills.
ROW_GROUP_BYTES = 16 << 20
# What 32-bit offsets can address, with room for names.
COLUMN_BYTES = (1 << 31) - (1 << 20)


def is_file(feature) -> bool:
    return isinstance(feature, (Image, Video))


def is_files(feature) -> bool:
    return isinstance(feature, List) and is_file(feature.feature)


def name_of(file: dict) -> str | None:
    return file["path"] and os.path.basename(file["path"])


def content_of(file: dict) -> bytes:
    """What is in a file of a row."""
    if file["bytes"] is not None:
        return file["bytes"]
    with reported(f"Cannot read {file['path']}", "it was there before: restore it and export again"):
        return Path(file["path"]).read_bytes()


def contents(files: list[dict], what: str) -> pa.StructArray:
    """What is in files of a row, and their names; in one buffer, for together they may be hundreds of megabytes."""
    data, ends = bytearray(), [0]
    for file in files:
        data += content_of(file)
        if len(data) > COLUMN_BYTES:
            raise VideoError(f"{what} are more than 2 GB, which no row holds; make its images smaller.")
        ends.append(len(data))
    buffers = [None, pa.py_buffer(np.array(ends, np.int32)), pa.py_buffer(data)]
    data = pa.BinaryArray.from_buffers(pa.binary(), len(files), buffers)
    return pa.StructArray.from_arrays([data, pa.array(map(name_of, files), pa.string())], ["bytes", "path"])


class ParquetShard:
    """A parquet file to which rows are added."""

    suffix = "parquet"

    def __init__(self, path: Path, features: Features):
        # Images and videos are compressed already, and nobody searches in them.
        options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        self.writer = pq.ParquetWriter(path, features.arrow_schema, **options)
        self.rows: list[pa.Table] = []

    @staticmethod
    def stored_features(features: Features) -> Features:
        return features

    @staticmethod
    def packed(row: dict, features: Features, scratch: Path) -> tuple[pa.Table, int]:
        """A row with its files' content, and its size in bytes."""
        columns = []
        for name, feature in features.items():
            if is_files(feature):
                files = contents(row[name], f"The {name} of the video {row['video_id']}")
                columns.append(pa.ListArray.from_arrays([0, len(files)], files))
                continue
            value = row[name]
            if is_file(feature) and value is not None:
                value = {"path": name_of(value), "bytes": content_of(value)}
            columns.append(pa.array([value], features.arrow_schema.field(name).type))
        table = pa.table(columns, schema=features.arrow_schema)
        return table, table.nbytes

    def add(self, row: pa.Table) -> None:
        self.rows.append(row)
        if sum(row.nbytes for row in self.rows) >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            self.writer.write_table(pa.concat_tables(self.rows))
            self.rows = []

    def close(self) -> None:
        self.flush()
        self.writer.close()


class TarShard:
    """A tar file of a WebDataset to which rows are added."""

    suffix = "tar"

    def __init__(self, path: Path, features: Features):
        self.archive = tarfile.TarFile(path, "w")
        self.rows = 0

    @staticmethod
    def stored_features(features: Features) -> Features:
        """What `datasets` makes of the members: a column for each, and two of its own."""
        described, stored = {}, {}
        for name, feature in features.items():
            if is_files(feature):
                stored[f"{name}.zip"] = Value("binary")
                continue
            if is_file(feature):
                stored[name] = feature
            described[name] = Value("string") if is_file(feature) else feature
        return Features({**stored, "json": described, "__key__": Value("string"), "__url__": Value("string")})

    @staticmethod
    def packed(row: dict, features: Features, scratch: Path) -> tuple[Path, int]:
        """The members of a row, written to a folder file by file, and their size in bytes."""
        described = {}
        for name, feature in features.items():
            if is_files(feature):
                with zipfile.ZipFile(scratch / f"{name}.zip", "w") as archive:
                    for file in row[name]:
                        # Without the time of writing: the same data makes the same shards.
                        archive.writestr(zipfile.ZipInfo(name_of(file)), content_of(file))
            elif is_file(feature):
                described[name] = row[name] and name_of(row[name])
                if row[name] is not None:
                    (scratch / name).write_bytes(content_of(row[name]))
            else:
                described[name] = row[name]
        (scratch / "json").write_text(json.dumps(described), encoding="utf-8")
        # Each with a header, and filled up to whole blocks.
        return scratch, sum(2 * tarfile.BLOCKSIZE + file.stat().st_size for file in scratch.iterdir())

    def add(self, row: Path) -> None:
        for file in sorted(row.iterdir()):
            # Named by a number, because readers would cut a video's name at its first point.
            member = tarfile.TarInfo(f"{self.rows:06d}.{file.name}")
            member.size = file.stat().st_size
            with file.open("rb") as content:
                self.archive.addfile(member, content)
        self.rows += 1

    def close(self) -> None:
        self.archive.close()


SHARDS = {"parquet": ParquetShard, "webdataset": TarShard}
FORMATS = tuple(SHARDS)


def write_split(dataset: Dataset, split: str, folder: Path, file_format: str, max_bytes: int, num_shards: int | None):
    """Write the shards of one split, and return them in order."""
    kind, features = SHARDS[file_format], dataset.features
    num_rows = len(dataset)
    if num_shards is not None:
        num_shards = min(num_shards, num_rows)
    paths: list[Path] = []
    size = 0
    with ExitStack() as opened:
        for index, row in enumerate(tqdm(dataset, split, unit="row", disable=None, dynamic_ncols=True)):
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                packed, row_size = kind.packed(row, features, Path(scratch))
                size += row_size
                full = size > max_bytes if num_shards is None else index * num_shards // num_rows == len(paths)
                if full or not paths:
                    opened.close()
                    paths.append(folder / f"{split}-{len(paths):05d}")
                    shard = opened.enter_context(closing(kind(paths[-1], features)))
                    size = row_size
                shard.add(packed)
                del packed  # before the next row is read
    return [path.rename(f"{path}-of-{len(paths):05d}.{kind.suffix}") for path in paths]


def export_dataset(
    splits: dict[str, Dataset],
    folder: str | os.PathLike[str],
    name: str,
    *,
    file_format: str = "parquet",
    max_shard_size: int | str = "500MB",
    num_shards: int | None = None,
    overwrite: bool = False,
) -> None:
    """
    Write a dataset as a folder of shards with a dataset card, complete or not at all.

    One file of the dataset at a time is in memory; with parquet one row, three times over while it is encoded, or
    several small ones of up to 16 MB together.

    Args:
        splits: the rows of each split, as `salfom_hf.data.load` gives them.
        folder: to make.
        name: of the dataset, a key of `salfom_hf.data.DATASETS`: for its licence.
        file_format: `"parquet"` or `"webdataset"`.
        max_shard_size: bytes, or such as `"500MB"`; only a row larger than this makes a larger shard.
        num_shards: write this many shards of each split, of the same number of rows (±1), whatever their size. A
            multiple of the number of machines lets `split_dataset_by_node` give whole shards to each. A split of fewer
            rows has a shard for each.
        overwrite: replace the folder if it is an earlier export.

    Raises:
        ValueError: `max_shard_size` is no size.
        VideoError: a file of the dataset cannot be read, or the folder exists or cannot be written.
    """
    max_bytes = convert_file_size_to_int(max_shard_size)
    kind = SHARDS[file_format]
    with atomic_output(folder, overwrite) as temporary, writing(folder):
        (temporary / "data").mkdir(parents=True)
        shards = {
            split: write_split(dataset, split, temporary / "data", file_format, max_bytes, num_shards)
            for split, dataset in splits.items()
        }
        features = next(iter(splits.values())).features
        card = dataset_card(name, file_format, features, kind.stored_features(features), splits, shards)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        info = {"dataset": name, "format": file_format, "splits": list(splits)}
        (temporary / MARKER).write_text(f"{json.dumps(info)}\n", encoding="utf-8")


@contextmanager
def writing(folder: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = advice_for(error, "choose another place")
        raise VideoError(f"Cannot write {folder} ({reason_of(error)}); {advice}.") from error


def webdataset_row(sample: dict) -> dict:
    """
    A row of the dataset from a row that `datasets` reads from a WebDataset.

    Args:
        sample: with `json`, the bytes of `….zip`, and `image` or `video`, not decoded.
    """
    row = dict(sample["json"])
    for name, value in sample.items():
        column, _, kind = name.partition(".")
        if kind == "zip":
            with zipfile.ZipFile(io.BytesIO(value)) as archive:
                files = archive.infolist()
                row[column] = [{"path": file.filename, "bytes": archive.read(file)} for file in files]
        elif column in ("image", "video") and value is not None:
            row[column] = {"path": row[column], "bytes": value["bytes"]}
    return row


def export_info(folder: str | os.PathLike[str]) -> dict | None:
    """`{"dataset": name, "format": …, "splits": […]}` of a folder that `export_dataset` made; None for any other."""
    marker = Path(folder) / MARKER
    return json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None


def load_export(
    path: str | os.PathLike[str], split: str = "train", *, streaming: bool = False
) -> Dataset | IterableDataset:
    """
    The rows of an exported dataset, with the files' content in place of their paths.

    Streaming reads the shards in place. Otherwise `datasets` keeps a copy of them in its cache, and a second one for
    a WebDataset, which is made for streaming.

    Args:
        path: the folder that `export_dataset` made, or the name of a dataset on the Hub that was uploaded from one.
        split: as exported, or, of a folder, as the dataset's own loader takes it (`"val"`: `"validation"`); without
            streaming also a part such as `"train[:90%]"`.

    Raises:
        DataError: there is no such export or split.
    """
    from . import DATASETS  # Complete only when all of the package is imported.

    info = export_info(path)
    if info is not None:
        split, names = DATASETS[info["dataset"]].official_split(split)
        # Named one by one, for then `datasets` notices in its cache when they have changed.
        source, splits = info["format"], set(info["splits"]) & set(names)
        if not splits:
            raise DataError(f"{path} has no split {split!r}, but {' and '.join(info['splits'])}.")
        shards = {name: [str(file) for file in sorted(Path(path, "data").glob(f"{name}-*"))] for name in splits}
        features = SHARDS[source].stored_features(STILL_FEATURES if info["dataset"] == "stills" else VIDEO_FEATURES)
        options = {"data_files": shards, "features": features}
    elif os.path.isdir(path):
        raise DataError(f"{path} is no exported dataset; name a folder that was made by salfom data export.")
    else:
        source, options = str(path), {}
    try:
        # One row at a time between reading and writing, for rows are large.
        dataset = load_dataset(source, split=split, streaming=streaming, writer_batch_size=1, **options)
    except (FileNotFoundError, ConnectionError) as error:
        if info is not None:
            raise DataError(f"Cannot load the split {split!r} of {path}: {error}") from error
        raise DataError(
            f"There is no folder {path}, and no dataset of that name on the Hub could be reached; check the name."
        ) from error
    except ValueError as error:
        raise DataError(f"Cannot load the split {split!r} of {path}: {error}") from error
    if "json" not in dataset.features:
        return dataset
    features = STILL_FEATURES if "image" in dataset.features else VIDEO_FEATURES
    options = {} if streaming else {"writer_batch_size": 1}
    return dataset.map(webdataset_row, remove_columns=dataset.column_names, features=features, **options)


__all__ = ["FORMATS", "export_dataset", "export_info", "load_export", "webdataset_row"]
