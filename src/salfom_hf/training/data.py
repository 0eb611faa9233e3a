"""The clips that a run trains on and those it validates on."""

import copy
import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import ConcatDataset, Dataset, Sampler
from transformers.image_utils import SizeDict

from ..data import DATASETS, Augmentation, ClipDataset, DataError, MixtureDataset, hold_out, load
from ..data.motion import MotionDataset
from ..models.names import holds_model, local
from ..models.video_processing_salfom import SalFoMVideoProcessor
from .config import MOTION, ConfigError, TrainingConfig, suggestion

# Of the files of a video, at most so many are read, and of each at most twice so many bytes.
SAMPLED, END = 16, 64 * 1024


class EpochSampler(Sampler[int]):
    """
    Indices in an order that the seed and the epoch alone decide.

    Args:
        length: of the dataset.
        multiple: as many indices are given as this divides; in each epoch others are left out.
        seed: of the order; `None` keeps that of the dataset.
    """

    def __init__(self, length: int, multiple: int, seed: int | None):
        self.length, self.seed, self.epoch = length, seed, 0
        self.count = length // multiple * multiple

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        if self.seed is None:
            return iter(range(self.count))
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return iter(order[: self.count].tolist())


def folder_of(dataset: str, config: TrainingConfig) -> Path:
    """Where the data of a dataset is; motion is made of stills."""
    folders = {}
    for entry in config.data_dir:
        name, equals, folder = entry.partition("=")
        folders |= {name: folder} if equals and name in (*DATASETS, MOTION) else {"": entry}
    if dataset == MOTION and MOTION not in folders:
        dataset = "stills"
    if dataset not in folders and "" not in folders:
        raise ConfigError(f"Say where {dataset} is: --data-dir {dataset}=FOLDER.")
    return Path(folders.get(dataset, folders.get("")))


def rows_of(source: str, config: TrainingConfig):
    """The rows of DATASET:SPLIT; of motion, those of the stills."""
    dataset, _, split = source.partition(":")
    known = (*DATASETS, MOTION)
    if dataset not in known:
        raise ConfigError(f"There is no dataset '{dataset}'{suggestion(dataset, known)} Known: {', '.join(known)}.")
    folder = folder_of(dataset, config)
    try:
        return load("stills" if dataset == MOTION else dataset, folder, split)
    except DataError:
        raise
    except ValueError as error:  # Of datasets, about a part of a split.
        raise ConfigError(f"'{source}' cannot be loaded: {' '.join(str(error).split())}") from error


def states(config: TrainingConfig) -> dict[str, str]:
    """
    By source of data, and by name of a model on this machine, text that changes when what a run reads there changes.

    Raises:
        ConfigError: a source is unknown.
        DataError: the data cannot be read.
    """
    sources = dict.fromkeys(config.train + config.validated)
    models = dict.fromkeys(filter(None, (config.model, config.encoder, *config.teachers)))
    return {
        **{source: state_of(rows_of(source, config)) for source in sources},
        **{name: state_of_model(folder) for name in models for folder in local(name) if holds_model(folder)},
    }


def state_of(rows) -> str:
    """
    Text that changes when rows change, or files that they name; not when files are moved or copied elsewhere. Of files
    count names and sizes, and what they hold: of a video's many frames or maps some, of large files the two ends.
    """
    digest = hashlib.sha256()
    for table in rows.with_format("arrow").iter(16):
        for row in range(len(table)):
            for column in table.columns:
                values = next(chunk for chunk in column.slice(row, 1).chunks if len(chunk))
                while pa.types.is_list(values.type):
                    values = values.flatten()
                content = files_in(values) if pa.types.is_struct(values.type) else values.to_pylist()
                digest.update(repr(content).encode())
    return digest.hexdigest()[:16]


def files_in(values: pa.StructArray) -> tuple[list[str], list[int | None], str]:
    """
    The names of files, their sizes in bytes, and a hash of what some of them hold; `{"path": …, "bytes": …}` may hold
    the file itself.
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


def state_of_model(folder: Path) -> str:
    """Text that changes with the weights and settings in a folder."""
    digest = hashlib.sha256()
    for pattern in ("*config.json", "*.safetensors", "*.bin"):
        for file in sorted(folder.glob(pattern)):
            digest.update(file.name.encode())
            with file.open("rb") as content:
                while piece := content.read(1 << 20):
                    digest.update(piece)
    return digest.hexdigest()[:16]


def divide(config: TrainingConfig) -> tuple[list, list]:
    """
    The rows of each source to train on, and of each to validate on.

    Of a source that is both, a share is held out, always the same for one seed. Motion is made of no image that is
    validated on.

    Raises:
        ConfigError: a source is unknown, or too small.
        DataError: the data cannot be read.
    """
    rows = {source: rows_of(source, config) for source in dict.fromkeys(config.train + config.validated)}
    held = {source: rows[source] for source in config.validated}
    for source in held.keys() & set(config.train):
        try:
            rows[source], held[source] = hold_out(rows[source], config.hold_out, config.seed)
        except ValueError as error:
            raise ConfigError(f"{error} Or name a validation split: --validation DATASET:SPLIT.") from error
    images = {image for part in held.values() if "image_id" in part.column_names for image in part["image_id"]}
    for source in rows:
        if source.startswith(f"{MOTION}:"):
            rows[source] = rows[source].select(
                [index for index, image in enumerate(rows[source]["image_id"]) if image not in images]
            )
    return [rows[source] for source in config.train], list(held.values())


def build_clips(
    config: TrainingConfig, processor: SalFoMVideoProcessor
) -> tuple[ClipDataset | MotionDataset | MixtureDataset, Dataset]:
    """
    The training clips, drawn anew every epoch, and the validation clips, always the same; in the shapes that the
    processor gives them, training clips perhaps at a size of their own. An epoch of a mixture is as long as its first
    dataset is gone through once.

    Raises:
        ConfigError: a setting does not fit the data.
        DataError: the data cannot be read.
    """
    training, validation = divide(config)
    try:
        augmentation = Augmentation(**config.augmentation)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"augmentation: {error}") from error
    training_processor = copy.copy(processor)
    if config.train_size:
        training_processor.size = SizeDict(height=config.train_size[0], width=config.train_size[1])
        training_processor.still_size = None
    if config.train_still_size:
        training_processor.still_size = dict(zip(("height", "width"), config.train_still_size, strict=True))
    shared = {"num_frames": processor.num_frames}
    drawn = {"clips_per_video": config.clips_per_video, "augmentation": augmentation, "seed": config.seed}
    try:
        clips = [
            MotionDataset(rows, training_processor, seed=config.seed, **shared)
            if source.startswith(f"{MOTION}:")
            else ClipDataset(rows, training_processor, **drawn, **shared)
            for source, rows in zip(config.train, training, strict=True)
        ]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if len(clips) == 1:
        training_clips = clips[0]
    else:
        weights = config.weights or [len(part) for part in clips]
        length = round(len(clips[0]) * sum(weights) / weights[0])
        training_clips = MixtureDataset(clips, weights, length, config.seed)
    regular = {"sampling": "regular", "spacing": config.validation_spacing}
    return training_clips, ConcatDataset([ClipDataset(rows, processor, **regular, **shared) for rows in validation])


__all__ = ["EpochSampler", "build_clips", "folder_of", "states"]
