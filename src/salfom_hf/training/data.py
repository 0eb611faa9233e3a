"""The clips that a run trains on and those it validates on."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from torch.utils.data import ConcatDataset, Sampler
from transformers.image_utils import SizeDict

from ..data import DATASETS, Augmentation, ClipDataset, DataError, MixtureDataset, hold_out, load
from ..data.motion import MotionDataset
from ..models.video_processing_salfom import SalFoMVideoProcessor
from .config import MOTION, ConfigError, TrainingConfig, demand, suggestion

TrainingClips = ClipDataset | MotionDataset | MixtureDataset
KNOWN = (*DATASETS, MOTION)


class EpochSampler(Sampler[int]):
    """
    Indices in an order that the seed and the epoch alone decide; without a seed, in that of the dataset. As many are
    given as `multiple` divides; in each epoch others are left out.
    """

    def __init__(self, length: int, multiple: int, seed: int | None):
        self.length, self.seed, self.epoch = length, seed, 0
        self.count = length // multiple * multiple

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.length)
        if self.seed is not None:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return iter(order[: self.count].tolist())


def folder_of(dataset: str, config: TrainingConfig) -> Path:
    """Where the data of a dataset is; motion is made of stills."""
    folders: dict[str, str] = {}
    for entry in config.data_dir:
        name, equals, place = entry.partition("=")
        folders |= {name: place} if equals and name in KNOWN else {"": entry}
    if dataset == MOTION and MOTION not in folders:
        dataset = "stills"
    demand(dataset in folders or "" in folders, f"Say where {dataset} is: --data-dir {dataset}=FOLDER.")
    return Path(folders.get(dataset, folders.get("", "")))


def rows_of(source: str, config: TrainingConfig) -> datasets.Dataset:
    """The rows of DATASET:SPLIT; of motion, those of the stills."""
    dataset, _, split = source.partition(":")
    known = f"There is no dataset '{dataset}'{suggestion(dataset, KNOWN)} Known: {', '.join(KNOWN)}."
    demand(dataset in KNOWN, known)
    try:
        return load("stills" if dataset == MOTION else dataset, folder_of(dataset, config), split)
    except (DataError, ConfigError):
        raise
    except ValueError as error:  # Of datasets, about a part of a split.
        raise ConfigError(f"'{source}' cannot be loaded: {' '.join(str(error).split())}") from error


def divide(config: TrainingConfig) -> tuple[list[datasets.Dataset], list[datasets.Dataset]]:
    """
    The rows of each source to train on, and of each to validate on. Of a source that is both, a share is held out,
    always the same for one seed. Motion is made of no image that is validated on.
    """
    rows = {source: rows_of(source, config) for source in dict.fromkeys(config.train + config.validated)}
    held = {source: rows[source] for source in config.validated}
    for source in held.keys() & set(config.train):
        try:
            rows[source], held[source] = hold_out(rows[source], config.hold_out, config.seed)
        except ValueError as error:
            raise ConfigError(f"{error} Or name a validation split: --validation DATASET:SPLIT.") from error
    images = {image for part in held.values() if "image_id" in part.column_names for image in part["image_id"]}
    for source, part in rows.items():
        if source.startswith(f"{MOTION}:"):
            rows[source] = part.select([i for i, image in enumerate(part["image_id"]) if image not in images])
    return [rows[source] for source in config.train], list(held.values())


def build_clips(config: TrainingConfig, processor: SalFoMVideoProcessor) -> tuple[TrainingClips, ConcatDataset]:
    """
    The training clips, drawn again every epoch, and the validation clips, always the same. In an epoch of a mixture,
    its first dataset is gone through once.
    """
    training, validation = divide(config)
    of_training, frames, seed = copy.copy(processor), processor.num_frames, config.seed
    if config.train_size:
        height, width = config.train_size
        of_training.size, of_training.still_size = SizeDict(height=height, width=width), None
    if config.train_still_size:
        of_training.still_size = dict(zip(("height", "width"), config.train_still_size, strict=True))
    shared: dict[str, Any] = {"num_frames": frames, "seed": seed}
    number, augmentation = config.clips_per_video, Augmentation(**config.augmentation)
    try:
        clips = [
            MotionDataset(rows, of_training, **shared)
            if source.startswith(f"{MOTION}:")
            else ClipDataset(rows, of_training, **shared, clips_per_video=number, augmentation=augmentation)
            for source, rows in zip(config.train, training, strict=True)
        ]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    training_clips: TrainingClips = clips[0]
    if len(clips) > 1:
        weights = config.weights or [len(part) for part in clips]
        length = round(len(clips[0]) * sum(weights) / weights[0])
        training_clips = MixtureDataset(clips, weights, length, seed)
    held = [
        ClipDataset(rows, processor, num_frames=frames, sampling="regular", spacing=config.validation_spacing)
        for rows in validation
    ]
    return training_clips, ConcatDataset(held)
