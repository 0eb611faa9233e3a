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
    A video with where people looked in it; a still is one of one frame.

    Args:
        row: of a dataset with `VIDEO_FEATURES`; files may be given by path or by content.

    Attributes:
        id: name of the video or still.
        file_name: of the video file, or the id of a video in frames or a still.
        num_frames: number of frames.
        fps: frames per second.
        size: (height, width) of the frames, in pixels.
        has_labels: whether density and fixations are known.
    """

    _kind = "video"

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
        self._sigma = (row.get("sigma") or VIDEO_SIGMA) * self.size[1] / VIDEO_WIDTH
        self._row = row

    @cached_property
    def gaze(self) -> np.ndarray:
        """float64 `(fixations, 4)`: frame, x, y, observer; empty where a video's observers are unknown."""
        columns = (self._row.get(name) or [] for name in ("fixation_frame", "fixation_x", "fixation_y", "observer"))
        return np.array([list(column) for column in columns], np.float64).T

    def observers(self, index: int = 0) -> np.ndarray:
        """int64: who looks at a frame; empty where that is unknown."""
        return np.unique(self.gaze[self.gaze[:, 0] == index, 3]).astype(np.int64)

    @property
    def frame_names(self) -> list[str]:
        """Names without suffix of the frames' files, or those of the maps, or 0001, 0002, …; of a still, its id."""
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
            DataError: the image of a still is not of its size; on `next`.
            ValueError: `first` is negative or `step` not positive.
            IndexError: there is no frame `first`.
        """
        if first < 0 or step < 1:
            raise ValueError(f"Frames are read forwards from 0 or later, not from {first} in steps of {step}.")
        self._check(first)
        return self._read(range(first, self.num_frames if stop is None else min(stop, self.num_frames), step))

    def _read(self, indices: range) -> Iterator[np.ndarray]:
        if self._video is None:
            yield from (load_image(*self._source(self._frames, index)) for index in indices)
            return
        path, content = self._video["path"], self._video["bytes"]
        try:
            yield from read_frames_at(path if content is None else content, indices, missing_at_end=FRAME_TOLERANCE)
        except VideoError as error:
            if content is None:
                raise
            raise VideoError(f"Cannot read the video {self.id}. {error}") from error

    def density(self, index: int = 0, observers: Observers | None = None) -> np.ndarray:
        """
        Where people look in a frame, float32. Of a video, the map as it is stored: `(height', width')` of its own
        size, values in 0…1, or those of a float TIFF as they are. Of a still, or of some observers alone, if their ids
        are given: `(height, width)`, the fixations, each as often as it was made, blurred with a Gaussian, in a video
        that of its row's `sigma` or else DHF1K's, and divided by the maximum; all 0 if nobody looks anywhere.

        Raises:
            DataError: labels or observers are unknown, or the file is missing, cannot be read or is in colour.
            IndexError: there is no such frame.
        """
        if observers is None and self._kind == "video":
            return read_map(*self._label(self._maps, index))[0]
        density = gaussian_blur(torch.from_numpy(self._counts(index, observers)), self._sigma).numpy()
        return density / density.max() if density.any() else density

    def fixations(self, index: int = 0, observers: Observers | None = None) -> np.ndarray:
        """
        The pixels of a frame that were fixated, bool. Of a video, `(height', width')` of the map's own size: those
        above 0, or, in a JPEG file, where compression leaves traces around each, above half of the brightest. Of a
        still, or of some observers alone, if their ids are given: `(height, width)`; of fixations on or beyond the
        border, the outermost pixels.

        Raises:
            DataError: as for [`density`], but for colours; or most of the pixels are fixated.
            IndexError: there is no such frame.
        """
        if observers is not None or self._kind == "still":
            return self._counts(index, observers) > 0
        source, name = self._label(self._fixations, index)
        grey, is_lossy = read_map(source, name, allow_colour=True)
        fixated = grey > (grey.max() / 2 if is_lossy else 0)
        if 2 * fixated.sum() > fixated.size:
            raise DataError(
                f"Most pixels of the fixation map {name} are above 0, which stands for fixated; replace or invert it."
            )
        return fixated

    def _counts(self, index: int, observers: Observers | None) -> np.ndarray:
        """float32 `(height, width)`: number of fixations at each pixel; those beyond the border at the outermost."""
        gaze = self.gaze[self.gaze[:, 0] == index]
        if observers is not None:
            gaze = gaze[np.isin(gaze[:, 3], observers)]
        counts = np.zeros(self.size, np.float32)
        places = zip(gaze[:, 2:0:-1].T, self.size, strict=True)
        np.add.at(counts, tuple(np.floor(at).astype(np.int64).clip(0, side - 1) for at, side in places), 1)
        return counts

    def _label(self, files: list[dict], index: int) -> tuple[Path | bytes, str]:
        if not self.has_labels:
            raise DataError(f"The video {self.id} has no density maps and fixations; take a split that has them.")
        return self._source(files, index)

    def _source(self, files: list[dict], index: int) -> tuple[Path | bytes, str]:
        """Path or content of a frame's file, and what to call it."""
        self._check(index)
        path, content = files[index]["path"], files[index]["bytes"]
        called = f"{path or f'of frame {index}'} of the {self._kind} {self.id}"
        return (Path(path), path) if content is None else (content, called)

    def _check(self, index: int) -> None:
        if not 0 <= index < self.num_frames:
            frames = f"{self.num_frames} frames, counted from 0"
            if self._kind == "still":
                frames = "one frame, with the index 0"
            raise IndexError(f"The {self._kind} {self.id} has {frames}; there is no frame {index}.")


class GazeStill(GazeVideo):
    """
    An image with where people looked in it: a video of one frame.

    Args:
        row: of a dataset with `STILL_FEATURES`; the image may be given by path or by content.

    Attributes:
        x, y: float32 `(fixations,)`, in pixels; 0 is the outer edge of the first pixel.
        observer: int32 `(fixations,)`, who looked; empty where that is unknown.
    """

    _kind = "still"

    def __init__(self, row: dict):
        video = {"video_id": row["image_id"], "video": None, "frames": [row["image"]], "num_frames": 1}
        super().__init__(row | video | {"fps": float(IMAGE_RATE), "maps": None, "fixations": None})
        self.x, self.y = (np.asarray(row[name], np.float32) for name in ("fixation_x", "fixation_y"))
        self.observer = np.asarray(row["observer"], np.int32)
        self.has_labels = len(self.x) > 0
        self._sigma = BLUR_SIGMA * self.size[1] / BLUR_WIDTH

    @cached_property
    def gaze(self) -> np.ndarray:
        known = len(self.observer) == len(self.x)
        return np.stack([0 * self.x, self.x, self.y, self.observer if known else 0 * self.x - 1], 1, dtype=np.float64)

    def observers(self, index: int = 0) -> np.ndarray:
        self._check(index)
        return np.unique(self.observer).astype(np.int64)

    @property
    def frame_names(self) -> list[str]:
        return [self.id]

    def _read(self, indices: range) -> Iterator[np.ndarray]:
        for frame in super()._read(indices):
            if frame.shape[:2] != self.size:
                (height, width), shown = self.size, frame.shape
                raise DataError(
                    f"The still {self.id} has fixations on {width}×{height} pixels, but its image has {shown[1]}×"
                    f"{shown[0]} (upright, by its EXIF data); correct its size and fixations, or save it upright."
                )
            yield frame

    def _counts(self, index: int, observers: Observers | None) -> np.ndarray:
        self._check(index)
        if observers is not None and len(self.observer) != len(self.x):
            raise DataError(f"The still {self.id} does not tell who made its fixations; use all of them.")
        return super()._counts(index, observers)


def open_sample(row: dict) -> GazeVideo | GazeStill:
    """What a row of any gaze dataset stands for; no file is opened yet."""
    return GazeStill(row) if "image_id" in row else GazeVideo(row)


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
