"""The clips that a run trains on and those it validates on."""

from pathlib import Path

import numpy as np
from torch.utils.data import ConcatDataset, Dataset, Sampler

from ..data import DATASETS, Augmentation, ClipDataset, DataError, MixtureDataset, hold_out, load
from ..video_processing_salfom import SalFoMVideoProcessor
from .config import ConfigError, TrainingConfig, suggestion


class EpochSampler(Sampler[int]):
    """
    Indices in an order that the seed and the epoch alone decide.

    Args:
        length: of the dataset.
        multiple: as many indices are given as this divides; in each epoch others are left out.
        seed: of the order.
    """

    def __init__(self, length: int, multiple: int, seed: int):
        self.length, self.seed, self.epoch = length, seed, 0
        self.count = length // multiple * multiple

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return iter(order[: self.count].tolist())


def folder_of(dataset: str, config: TrainingConfig) -> Path:
    """Where the data of a dataset is."""
    folders = {}
    for entry in config.data_dir:
        name, equals, folder = entry.partition("=")
        folders |= {name: folder} if equals and name in DATASETS else {"": entry}
    if dataset not in folders and "" not in folders:
        raise ConfigError(f"Say where {dataset} is: --data-dir {dataset}=FOLDER.")
    return Path(folders.get(dataset, folders.get("")))


def rows_of(source: str, config: TrainingConfig):
    """The rows of DATASET:SPLIT."""
    dataset, _, split = source.partition(":")
    if dataset not in DATASETS:
        raise ConfigError(
            f"There is no dataset '{dataset}'{suggestion(dataset, DATASETS)} Known: {', '.join(DATASETS)}."
        )
    folder = folder_of(dataset, config)
    try:
        return load(dataset, folder, split)
    except DataError:
        raise
    except ValueError as error:  # Of datasets, about a part of a split.
        raise ConfigError(f"'{source}' cannot be loaded: {' '.join(str(error).split())}") from error


def fit_to(processor: SalFoMVideoProcessor, tables: list) -> tuple[int, int]:
    """
    The (height, width) of all clips, since only clips of one size make a batch.

    A processor that follows the shape of each video goes on so when all of them have one shape. Else it is set to its
    own size for every video, so that the trained model is given what it was trained on.
    """
    shapes = {shape for rows in tables for shape in zip(rows["height"], rows["width"], strict=True)}
    targets = {processor.target_size(*shape) for shape in shapes}
    if len(targets) > 1:
        processor.keep_aspect_ratio = False
        return processor.size.height, processor.size.width
    return targets.pop()


def build_clips(
    config: TrainingConfig, processor: SalFoMVideoProcessor
) -> tuple[ClipDataset | MixtureDataset, Dataset]:
    """
    The training clips, drawn anew every epoch, and the validation clips, always the same.

    The processor is fitted to the videos' shapes. Without validation splits, a share of each training set is held out,
    always the same for one seed.

    Raises:
        ConfigError: a setting does not fit the data.
        DataError: the data cannot be read.
    """
    training = [rows_of(source, config) for source in config.train]
    if config.validation:
        validation = [rows_of(source, config) for source in config.validation]
    else:
        try:
            parts = [hold_out(rows, config.hold_out, config.seed) for rows in training]
        except ValueError as error:
            raise ConfigError(f"{error} Or name a validation split: --validation DATASET:SPLIT.") from error
        training, validation = [part[0] for part in parts], [part[1] for part in parts]
    try:
        augmentation = Augmentation(**config.augmentation)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"augmentation: {error}") from error
    shared = {"num_frames": processor.num_frames, "size": fit_to(processor, training + validation)}
    clips = [
        ClipDataset(
            rows,
            processor,
            clips_per_video=config.clips_per_video,
            augmentation=augmentation,
            seed=config.seed,
            **shared,
        )
        for rows in training
    ]
    if len(clips) == 1:
        training_clips = clips[0]
    else:
        training_clips = MixtureDataset(clips, config.weights or [len(part) for part in clips], seed=config.seed)
    regular = {"sampling": "regular", "spacing": config.validation_spacing}
    return training_clips, ConcatDataset([ClipDataset(rows, processor, **regular, **shared) for rows in validation])


__all__ = ["EpochSampler", "build_clips"]
