"""Maps that other models have written, read from a folder."""

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from datasets import Dataset

from ..data.features import DataError
from ..data.layout import FRAME_TOLERANCE
from ..data.samples import GazeStill, open_sample, read_map
from ..errors import check_file, reason_of
from ..video.pictures import IMAGE_SUFFIXES, natural_key
from ..video.reading import VIDEO_SUFFIXES
from .methods import EvaluationError, Method, Sample

MAP_SUFFIXES = (".png", ".jpg", ".jpeg", ".npy")
READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Predictions(Method):
    """
    Maps that another model has written: `FOLDER/VIDEO/FRAME.png` (or .jpg, .npy), `FOLDER/VIDEO.npz` with the array
    `maps` `(frames, height, width)`, or for stills `FOLDER/IMAGE.png`; or as `salfom predict` writes them,
    `FOLDER/VIDEO_maps/0001.png` and so on, or `FOLDER/VIDEO_npz.npz`.

    Args:
        folder: of the maps, which may have any size; pictures are grey of 8 or 16 bits.
        partial: frames without a map are left out, and counted, instead of being an error.

    Raises:
        EvaluationError: there is no such folder. On [`check`] and [`maps`]: maps are missing, may be those of other
            frames, are in colour or cannot be read.
    """

    # With `partial` or without: maps that are there are the same.
    description = "maps read from this folder"

    def __init__(self, folder: str | Path, partial: bool = False):
        self.folder, self.name, self.partial = Path(folder), str(folder), partial
        if not self.folder.is_dir():
            raise EvaluationError(f"There is no folder {folder} with predictions; check the path.")
        digest = hashlib.sha256(self.description.encode())
        for file in sorted(self.folder.rglob("*")):
            name, stat = file.relative_to(self.folder), file.stat()
            if not any(part.startswith(".") for part in name.parts):  # Such as .DS_Store, which comes by itself.
                digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        self.fingerprint = digest.hexdigest()[:16]

    def check(self, dataset: Dataset) -> None:
        missing, expected, owners = [], 0, {}
        for sample in map(open_sample, dataset):
            archives, frames = places(sample)
            found = [name for name in dict.fromkeys([*archives, *frames[0]]) if (self.folder / name).is_file()]
            if len(found) > 1:
                raise EvaluationError(
                    f"{self.folder} holds maps of {sample.id} twice, {found[0]} and {found[1]}; remove the wrong ones."
                )
            for name in found:
                if name in owners:
                    raise EvaluationError(
                        f"{self.folder / name} is the map of both {owners[name]} and {sample.id}; name each map by "
                        f"the whole name of its image, such as {sample.id}.png."
                    )
                owners[name] = sample.id
                if not isinstance(sample, GazeStill) and name not in archives:
                    check_numbers(self.folder / name, sample)
            there = self._with_maps(sample)
            expected += sample.num_frames
            missing += [self.folder / names[0] for index, names in enumerate(frames) if index not in there]
        if missing and not (self.partial and len(missing) < expected):
            others = "add them" if self.partial else "add them, or score those there are with --partial"
            raise EvaluationError(
                f"{len(missing)} of {expected} predictions are missing, the first of them {missing[0]} "
                f"(.png, .jpg and .npy are read, and an .npz with `maps` per video); {others}."
            )

    def available(self, sample: Sample, indices: Sequence[int]) -> Sequence[int]:
        there = self._with_maps(sample) if self.partial else set(indices)
        return [index for index in indices if index in there]

    def _with_maps(self, sample: Sample) -> set[int]:
        """The frames of which there are maps."""
        archives, frames = places(sample)
        if archive := self._existing(archives):
            with opened_archive(archive, sample, self.partial) as (_, shape, _):
                return set(range(shape[0]))
        return {index for index, names in enumerate(frames) if self._existing(names)}

    def _existing(self, names: list[str]) -> Path | None:
        """The first of some places where there is a file."""
        return next((self.folder / name for name in names if (self.folder / name).is_file()), None)

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        archives, frames = places(sample)
        if archive := self._existing(archives):
            read = ((archive, saliency) for saliency in read_archive(archive, sample, indices, self.partial))
        else:
            files = (self._existing(frames[index]) or self.folder / frames[index][0] for index in indices)
            read = ((file, read_prediction(file)) for file in files)
        for file, saliency in read:
            if saliency.ndim != 2 or 0 in saliency.shape:
                raise EvaluationError(f"{file} must hold one map (height, width), not the shape {saliency.shape}.")
            if not np.isfinite(saliency).all():
                raise EvaluationError(
                    f"{file} holds NaN or infinity, or numbers that float32 lacks; fix what writes it."
                )
            if saliency.shape == sample.size[::-1] != sample.size:
                raise EvaluationError(
                    f"The maps in {file} have the frame's width as their height; transpose them to (height, width)."
                )
            yield saliency


def places(sample: Sample) -> tuple[list[str], list[list[str]]]:
    """Where maps may be in a folder: in archives of the whole sample; frame by frame. The usual place is first."""
    names = list(dict.fromkeys(name for own in (sample.id, sample.file_name) for name in spellings(own)))
    frames = []
    for number, frame in enumerate(sample.frame_names, 1):
        stems = names
        if not isinstance(sample, GazeStill):
            stems = [f"{name}/{stem}" for name in names for stem in spellings(frame)]
        files = [f"{stem}{suffix}" for stem in stems for suffix in MAP_SUFFIXES]
        frames.append(files + [f"{name}_maps/{number:04d}.png" for name in names])
    return [f"{name}{end}" for name in names for end in (".npz", "_npz.npz")], frames


def spellings(name: str) -> list[str]:
    """How others may have written a name: without its suffix, or a number with 3 digits (DHF1K has 4) or as it is."""
    names = [name]
    if Path(name).suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        names.append(Path(name).stem)
    return [*names, f"{int(name):03d}", f"{int(name)}"] if name.isdecimal() else names


def check_numbers(first: Path, sample: Sample) -> None:
    """
    Refuse maps whose numbers may not be those of the frames: next to the map of the first frame are some of frames
    that the video lacks, before that one or more than the one or two at the end that `salfom predict` may write.
    """
    own, names = natural_key(first.stem) == natural_key(sample.frame_names[0]), sample.frame_names
    frames = set(map(natural_key, names if own else map(str, range(1, sample.num_frames + 1))))
    start = min(frames)
    keys = {natural_key(file.stem): file.name for file in first.parent.iterdir() if file.suffix in MAP_SUFFIXES}
    # Files of other names, such as pictures of the same maps, are no maps of frames.
    others = sorted(key for key in keys.keys() - frames if key[::2] == start[::2])
    if others and (others[0] < start or len(others) > FRAME_TOLERANCE):
        raise EvaluationError(
            f"{first.parent} has {len(others)} maps that are of no frame of {sample.id}, such as {keys[others[0]]}; "
            f"its {sample.num_frames} frames begin with {names[0]}: name each map as its frame."
        )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file, any error where NumPy meets a damaged header, into one that names it."""
    try:
        check_file(path)
        yield
    except (DataError, EvaluationError) as error:
        raise EvaluationError(str(error)) from error
    except Exception as error:
        raise EvaluationError(f"Cannot read the prediction {path} ({reason_of(error)}); write it again.") from error


def real(values: np.ndarray) -> np.ndarray:
    """As float32; a ValueError for what is no real number."""
    if values.dtype.kind not in "biuf":
        raise ValueError(f"it holds {values.dtype} instead of real numbers")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def read_prediction(path: Path) -> np.ndarray:
    """One map from a grey picture or .npy, float32 `(height, width)`."""
    with readable(path):
        if path.suffix.lower() == ".npy":
            return real(np.load(path, allow_pickle=False))
        return read_map(path, str(path))[0]


@contextmanager
def opened_archive(path: Path, sample: Sample, partial: bool) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
    """The maps of a sample in an .npz, which may be larger than memory: their bytes, shape and dtype."""
    with readable(path), zipfile.ZipFile(path) as archive, archive.open("maps.npy") as entry:
        shape, fortran, dtype = READ_HEADER[np.lib.format.read_magic(entry)](entry)
        if len(shape) != 3 or 0 in shape or fortran or dtype.hasobject:
            raise EvaluationError(f"`maps` in {path} has the shape {shape}; write one map (height, width) per frame.")
        # Of a video whose last frames have no gaze, `salfom predict` writes maps all the same.
        too_few = shape[0] < sample.num_frames and not partial
        if too_few or shape[0] > sample.num_frames + FRAME_TOLERANCE:
            others = ", or score those there are with --partial" if too_few else ""
            raise EvaluationError(
                f"`maps` in {path} has the shape {shape}, the video has {sample.num_frames} frames; write one map "
                f"(height, width) per frame{others}."
            )
        yield entry, shape, dtype


def read_archive(path: Path, sample: Sample, indices: Sequence[int], partial: bool) -> Iterator[np.ndarray]:
    """Some maps of an .npz, read one by one: float32 `(height, width)`."""
    with opened_archive(path, sample, partial) as (entry, shape, dtype):
        size, wanted = shape[1] * shape[2] * dtype.itemsize, set(indices)
        for index in range(max(indices) + 1):
            data = entry.read(size)
            if len(data) < size:
                raise EOFError("it breaks off")
            if index in wanted:
                yield real(np.frombuffer(data, dtype).reshape(shape[1:]))
