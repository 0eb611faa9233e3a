"""What a run reads, in short: a run that goes on must find the data and the weights that it began with."""

import hashlib
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from ..models.names import holds_model, local
from .config import TrainingConfig
from .data import rows_of

# Of the files of a video, at most so many are read, and of each at most twice so many bytes.
SAMPLED, END = 16, 64 * 1024


def fingerprints(config: TrainingConfig) -> dict[str, str]:
    """By source of data, and by name of a model on this machine, text that changes when what is there changes."""
    sources, start = dict.fromkeys(config.train + config.validated), config.model or config.encoder
    found = {source: rows_fingerprint(rows_of(source, config)) for source in sources}
    for folder in filter(holds_model, local(start)):
        found[start] = model_fingerprint(folder)
    return found


def rows_fingerprint(rows: datasets.Dataset) -> str:
    """Of rows and the files that they name, wherever those are."""
    digest = hashlib.sha256()
    for table in rows.with_format("arrow").iter(1):
        for values in map(pa.ChunkedArray.combine_chunks, table.columns):
            while pa.types.is_list(values.type):
                values = values.flatten()
            content = files_fingerprint(values) if pa.types.is_struct(values.type) else values.to_pylist()
            digest.update(repr(content).encode())
    return digest.hexdigest()[:16]


def files_fingerprint(values: pa.StructArray) -> tuple[list[str], list[int | None], str]:
    """
    The names of files, their sizes in bytes, and a hash of what some of them hold, of large ones at the two ends;
    `{"path": …, "bytes": …}` may hold the file itself.
    """
    paths, within = pc.struct_field(values, "path").to_pylist(), pc.struct_field(values, "bytes")
    sizes, digest = pc.binary_length(within).to_pylist(), hashlib.sha256()
    every = max(1, -(-len(paths) // SAMPLED))
    for index, path in enumerate(paths):
        on_disk = sizes[index] is None and path is not None and os.path.isfile(path)
        if on_disk:
            sizes[index] = os.path.getsize(path)
        if index % every == 0 and sizes[index] is not None:
            with open(path, "rb") if on_disk else pa.BufferReader(within[index].as_buffer()) as file:
                digest.update(file.read(END))
                file.seek(max(file.tell(), sizes[index] - END))
                digest.update(file.read(END))
    return [os.path.basename(path or "") for path in paths], sizes, digest.hexdigest()


def model_fingerprint(folder: Path) -> str:
    """Of the weights and settings in a folder."""
    digest = hashlib.sha256()
    for pattern in ("*config.json", "*.safetensors", "*.bin"):
        for file in sorted(folder.glob(pattern)):
            digest.update(file.name.encode())
            with file.open("rb") as content:
                while piece := content.read(1 << 20):
                    digest.update(piece)
    return digest.hexdigest()[:16]
