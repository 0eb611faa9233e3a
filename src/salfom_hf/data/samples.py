"""One row of a gaze dataset, read lazily: its frames, and each frame's density and fixations."""

import io
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import VideoError, check_file, reason_of
from ..models.losses import gaussian_blur
from ..video.pictures import IMAGE_RATE, load_image
from ..video.seeking import read_frames_at
from .features import FRAME_TOLERANCE, DataError

# Standard deviation, in pixels of an image of that width, with which a still's fixations make its density.
BLUR_SIGMA, BLUR_WIDTH = 24.0, 512
VIDEO_SIGMA, VIDEO_WIDTH = 30 / math.sqrt(8 * math.log(2)), 640
"""Standard deviation, in pixels of a video of that width, of DHF1K's densities: 30 pixels at half of the maximum."""
COLOUR = 24  # How much the channels of a grey map may differ, of 255: JPEG files leave traces.

Observers = Sequence[int] | np.ndarray


class GazeVideo:
    """
    A video with where people looked in it.

    Args:
        row: of a dataset with `VIDEO_FEATURES`; files may be given by path or by content.

    Attributes:
        id: name of the video.
        file_name: of the video file, or the id of a video in frames.
        num_frames: number of frames.
        fps: frames per second.
        size: (height, width) of the frames, in pixels.
        has_labels: whether density and fixations are known.
        frame_names: names without suffix of the frames' files, or those of the maps, or 0001, 0002, ….
    """

    def __init__(self, row: dict):
        self.id: str = row["video_id"]
        self.num_frames: int = row["num_frames"]
        self.fps: float = row["fps"]
        self.size: tuple[int, int] = (row["height"], row["width"])
        self._video: dict | None = row["video"]
        path = self._video and self._video["path"]
        self.file_name: str = Path(path).name if path else self.id
        self._frames, self._maps, self._fixations = (row[name] or [] for name in ("frames", "maps", "fixations"))
        self.has_labels = bool(self._maps) and bool(self._fixations)
        self._row = row

    @cached_property
    def gaze(self) -> np.ndarray:
        """float64 `(fixations, 4)`: frame, x, y, observer; empty where observers are unknown."""
        columns = (self._row.get(name) or [] for name in ("fixation_frame", "fixation_x", "fixation_y", "observer"))
        return np.array([list(column) for column in columns], np.float64).T

    def observers(self, index: int) -> np.ndarray:
        """int64: who looks at a frame; empty where that is unknown."""
        return np.unique(self.gaze[self.gaze[:, 0] == index, 3]).astype(np.int64)

    @property
    def frame_names(self) -> list[str]:
        files = self._frames or self._maps
        if not files or not all(file["path"] for file in files):
            return [f"{number:04d}" for number in range(1, self.num_frames + 1)]
        return [Path(file["path"]).stem for file in files]

    def frames(self, first: int = 0, stop: int | None = None, step: int = 1) -> Iterator[np.ndarray]:
        """
        The frames `first`, `first + step`, … before `stop`, or before the end.

        Where a video file has a frame or two fewer than its header and its maps promise, its last frame stands in.

        Yields:
            uint8 `(height, width, 3)`, RGB.

        Raises:
            VideoError: a file is missing or cannot be read; on `next`.
            ValueError: `first` is negative or `step` not positive.
            IndexError: there is no frame `first`.
        """
        indices = _steps(first, stop, step, self.num_frames)
        self._check(first, self.num_frames)
        if self._video is None:
            return (load_image(*self._source(self._frames, index)) for index in indices)
        return self._decoded(self._video, indices)

    def _decoded(self, video: dict, indices: range) -> Iterator[np.ndarray]:
        path, content = video["path"], video["bytes"]
        try:
            yield from read_frames_at(path if content is None else content, indices, missing_at_end=FRAME_TOLERANCE)
        except VideoError as error:
            if content is None:
                raise
            raise VideoError(f"Cannot read the video {self.id}. {error}") from error

    def density(self, index: int, observers: Observers | None = None) -> np.ndarray:
        """
        The density map of a frame as it is stored: float32 `(height', width')` of the map's own size, values in 0…1,
        or those of a float TIFF as they are. That of some observers alone, if their ids are given: float32
        `(height, width)`, their fixations blurred as DHF1K's are, and divided by the maximum.

        Raises:
            DataError: the video has no labels, or the file is missing, cannot be read or is in colour.
            IndexError: there is no such frame.
        """
        if observers is not None:
            return _blurred(self._counts(index, observers), VIDEO_SIGMA * self.size[1] / VIDEO_WIDTH)
        return read_map(*self._label(self._maps, index))[0]

    def fixations(self, index: int, observers: Observers | None = None) -> np.ndarray:
        """
        The pixels of a frame that were fixated, bool `(height', width')` of the map's own size: those above 0, or, in
        a JPEG file, where compression leaves traces around each, above half of the brightest. Those of some observers
        alone, bool `(height, width)`, if their ids are given.

        Raises:
            DataError: as for [`density`], but for colours; or most of the pixels are fixated.
            IndexError: there is no such frame.
        """
        if observers is not None:
            return self._counts(index, observers) > 0
        source, name = self._label(self._fixations, index)
        grey, is_lossy = read_map(source, name, allow_colour=True)
        fixated = grey > (grey.max() / 2 if is_lossy else 0)
        if 2 * fixated.sum() > fixated.size:
            raise DataError(
                f"Most pixels of the fixation map {name} are above 0, which stands for fixated; replace or invert it."
            )
        return fixated

    def _counts(self, index: int, observers: Observers) -> np.ndarray:
        gaze = self.gaze[self.gaze[:, 0] == index]
        x, y = gaze[np.isin(gaze[:, 3], observers), 1:3].T
        return _pixel_counts(x, y, self.size)

    def _label(self, files: list[dict], index: int) -> tuple[Path | bytes, str]:
        if not self.has_labels:
            raise DataError(f"The video {self.id} has no density maps and fixations; take a split that has them.")
        return self._source(files, index)

    def _source(self, files: list[dict], index: int) -> tuple[Path | bytes, str]:
        self._check(index, len(files))
        return _source(files[index], f"of the video {self.id}", f"of frame {index}")

    def _check(self, index: int, number: int) -> None:
        if not 0 <= index < number:
            raise IndexError(f"The video {self.id} has {number} frames, counted from 0; there is no frame {index}.")


class GazeStill:
    """
    An image with where people looked in it: a video of one frame.

    Args:
        row: of a dataset with `STILL_FEATURES`; the image may be given by path or by content.

    Attributes:
        id, file_name, num_frames, fps, size, has_labels, frame_names: as those of [`GazeVideo`].
        x, y: float32 `(fixations,)`, in pixels; 0 is the outer edge of the first pixel.
        observer: int32 `(fixations,)`, who looked; empty where that is unknown.
    """

    num_frames = 1
    fps = float(IMAGE_RATE)

    def __init__(self, row: dict):
        self.id: str = row["image_id"]
        self.file_name, self.frame_names = self.id, [self.id]
        self.size: tuple[int, int] = (row["height"], row["width"])
        self.x, self.y = (np.asarray(row[name], np.float32) for name in ("fixation_x", "fixation_y"))
        self.observer = np.asarray(row["observer"], np.int32)
        self.has_labels = len(self.x) > 0
        self._image: dict = row["image"]

    def frames(self, first: int = 0, stop: int | None = None, step: int = 1) -> Iterator[np.ndarray]:
        """
        The image, as [`GazeVideo.frames`] would yield the frames of a video of length 1.

        Raises:
            DataError: it is not of the still's size; on `next`.
        """
        indices = _steps(first, stop, step, 1)
        self._check(first)
        return (self._frame() for _ in indices)

    def _frame(self) -> np.ndarray:
        frame = load_image(*_source(self._image, f"of the still {self.id}"))
        if frame.shape[:2] != self.size:
            (height, width), shown = self.size, frame.shape
            raise DataError(
                f"The still {self.id} has fixations on {width}×{height} pixels, but its image has {shown[1]}×"
                f"{shown[0]} (upright, by its EXIF data); correct its size and fixations, or save it upright."
            )
        return frame

    def density(self, index: int = 0, observers: Observers | None = None) -> np.ndarray:
        """
        The fixations, each as often as it was made, blurred with a Gaussian, and divided by the maximum: float32
        `(height, width)`; all 0 if nobody looked anywhere. Those of some observers alone, if their ids are given.
        """
        return _blurred(self._counts(index, observers), BLUR_SIGMA * self.size[1] / BLUR_WIDTH)

    def fixations(self, index: int = 0, observers: Observers | None = None) -> np.ndarray:
        """
        The fixated pixels, bool `(height, width)`; of fixations on or beyond the border, the outermost ones. Those of
        some observers alone, if their ids are given.
        """
        return self._counts(index, observers) > 0

    def observers(self, index: int = 0) -> np.ndarray:
        """int32: who looked at the image; empty where that is unknown."""
        self._check(index)
        return np.unique(self.observer)

    def _check(self, index: int) -> None:
        if index != 0:
            raise IndexError(f"The still {self.id} has one frame, with the index 0; there is no frame {index}.")

    def _counts(self, index: int, observers: Observers | None) -> np.ndarray:
        self._check(index)
        if observers is not None and len(self.observer) != len(self.x):
            raise DataError(f"The still {self.id} does not tell who made its fixations; use all of them.")
        chosen = slice(None) if observers is None else np.isin(self.observer, observers)
        return _pixel_counts(self.x[chosen], self.y[chosen], self.size)


def open_sample(row: dict) -> GazeVideo | GazeStill:
    """What a row of any gaze dataset stands for; no file is opened yet."""
    return GazeStill(row) if "image_id" in row else GazeVideo(row)


def _pixel_counts(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 `(height, width)`: the number of fixations at each pixel; those beyond the border at the outermost."""
    counts = np.zeros(size, np.float32)
    pixels = (np.floor(at).astype(np.int64).clip(0, side - 1) for at, side in zip((y, x), size, strict=True))
    np.add.at(counts, tuple(pixels), 1)
    return counts


def _blurred(counts: np.ndarray, sigma: float) -> np.ndarray:
    density = gaussian_blur(torch.from_numpy(counts), sigma).numpy()
    return density / density.max() if density.any() else density


def _source(file: dict, owner: str, unnamed: str = "") -> tuple[Path | bytes, str]:
    """Path or content of a file of a row, and what to call it."""
    path, content = file["path"], file["bytes"]
    return (Path(path), path) if content is None else (content, f"{path or unnamed} {owner}")


def _steps(first: int, stop: int | None, step: int, number: int) -> range:
    if first < 0 or step < 1:
        raise ValueError(f"Frames are read forwards from 0 or later, not from {first} in steps of {step}.")
    return range(first, number if stop is None else min(stop, number), step)


def read_map(source: Path | bytes, name: str, allow_colour: bool = False) -> tuple[np.ndarray, bool]:
    """
    A density or fixation map from a grey image file of 1, 8 or 16 bits, which may be stored as RGB, or of floats:
    float32 `(height, width)`, in 0…1 or floats as they are; and whether it is a JPEG file. Errors, all of them a
    `DataError`, call it `name`. Colours are taken as grey only if allowed: those of a heat map would make another map.
    """
    try:
        if not isinstance(source, bytes):
            check_file(source)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            is_lossy = image.format in ("JPEG", "MPO")
            if image.mode.startswith("I"):
                return np.asarray(image).astype(np.float32) / 65535, is_lossy
            if image.mode == "F":
                return np.array(image), is_lossy
            if image.mode not in ("1", "L") and not allow_colour:
                spread = np.ptp(np.asarray(image.convert("RGB")).astype(np.int16), axis=2)
                if spread.max() > COLOUR:
                    raise ValueError("it is in colour; write the map itself, in grey")
            return np.asarray(image.convert("L")).astype(np.float32) / 255, is_lossy
    except Exception as error:  # Pillow's readers raise errors of any type for damaged files.
        raise DataError(f"Cannot read the map {name} ({reason_of(error)}); replace it.") from error
