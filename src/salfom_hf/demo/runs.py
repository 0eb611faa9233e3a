"""What the demo computes, within bounds that let strangers use it: from an uploaded file to pictures and tables."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

try:  # On the Hub's ZeroGPU machines.
    from spaces import GPU
except ImportError:

    def GPU(duration: int) -> Callable:  # noqa: N802
        return lambda function: function


import av
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ..errors import VideoError, listed, reported
from ..inference.predictor import SaliencyFrame, SaliencyPredictor
from ..inference.results import smaller_map, write_npz
from ..inference.table import Attention, attention, write_table
from ..models.video_processing_salfom import resize_map
from ..video.drawing import heatmap, overlay
from ..video.pictures import IMAGE_SUFFIXES, is_picture
from ..video.reading import FILE_PROTOCOL, VideoInfo, probe, read_frames
from ..video.writing import VideoWriter

MAX_BYTES = 100 * 2**20
MAX_PIXELS = 50_000_000  # per frame
MAX_SECONDS = 30
MAX_FRAMES = 1000
MAX_TIME = 300  # seconds of computing and drawing
GPU_TIME = 60  # seconds to ask ZeroGPU for: visitors have few, and longer requests wait longer
VIEW_SIDE = 960  # pixels of the longer side of what is shown
MAP_SIDE = 384  # the same of the maps, which have no finer detail
KEPT = 3600  # seconds that uploads and results stay
KEPT_RUNS = 4

# What FFmpeg reads from one file alone: playlists and the like name other files, which may be other people's.
CONTAINERS = "asf,avi,flv,gif,matroska,mov,mpeg,mpegts,mxf,ogg,yuv4mpegpipe"
# What Pillow reads by itself; for some other kinds it starts other programs.
PICTURES = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")

# Frames done, frames in all if known, what is being done.
Progress = Callable[[int, int | None, str], None]


class Maps(NamedTuple):
    """What is predicted of a part of a source."""

    info: VideoInfo
    saliency: np.ndarray  # float16 (frames, height, width), 0…1, at most `MAP_SIDE` wide and high
    timestamps: list[Fraction]  # seconds on the source's clock
    numbers: list[Attention]

    @property
    def seconds(self) -> list[float]:
        return [float(timestamp) for timestamp in self.timestamps]


class BoundsError(Exception):
    """An upload, or what is asked of it, is beyond the bounds; the message names the bound."""


class ModelError(Exception):
    """A model cannot be loaded."""


def within(height: int, width: int, side: int) -> tuple[int, int]:
    """The largest size of the same shape that does not exceed `side` or the size itself; even, as players want it."""
    scale = min(1.0, side / max(height, width))
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)


class Bounds:
    """
    What one run may take, from now on: `MAX_TIME`, and so many pixels in each frame. Call it with the width and height
    of what is about to be decoded or converted.

    Args:
        path: of the upload.
        max_pixels: `MAX_PIXELS` by default.

    Raises:
        BoundsError: when called beyond the bounds.
    """

    def __init__(self, path: str | Path, max_pixels: int | None = None) -> None:
        self.name = Path(path).name
        self.max_pixels = max_pixels or MAX_PIXELS
        # ZeroGPU's other process has the same clock.
        self.end = time.monotonic() + MAX_TIME

    def __call__(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise self.too_large(f"{width}×{height}")
        self.check_time()

    def too_large(self, pixels: str) -> BoundsError:
        return BoundsError(f"{self.name} has {pixels} pixels; upload at most {self.max_pixels // 10**6} megapixels.")

    def check_time(self) -> None:
        if time.monotonic() > self.end:
            raise BoundsError(
                f"It takes more than {MAX_TIME // 60} minutes; choose an earlier start, a shorter length, a larger "
                "stride or a lighter model."
            )


def check_picture(path: str | Path, bounds: Bounds) -> None:
    """Look at a picture's header, before anything is decoded: a `VideoError` if it is none, else as `Bounds`."""
    path = Path(path)
    advice = f"upload a whole one, of the kind {listed(IMAGE_SUFFIXES)}"
    with reported(f"Cannot read {path.name} as a picture", advice):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError("its name does not end as a picture's")
        try:
            with Image.open(path, formats=PICTURES) as image:
                size = image.size
        except UnidentifiedImageError as error:  # Its message names the place on this machine.
            raise ValueError("it holds no picture") from error
        except Image.DecompressionBombError as error:
            raise bounds.too_large("too many") from error
    bounds(*size)


def checked(path: str | Path, bounds: Bounds) -> VideoInfo:
    """Probe an upload: a `VideoError` if it cannot be read, a `BoundsError` if it is too large."""
    path = Path(path)
    # A folder would be read as a video of its images.
    if not path.is_file():
        raise VideoError(f"{path.name} is not a file; upload a video or an image.")
    if path.stat().st_size > MAX_BYTES:
        raise BoundsError(f"{path.name} has more than {MAX_BYTES >> 20} MB; upload a smaller or shorter one.")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        check_picture(path, bounds)
    else:
        with reported(f"Cannot read {path} as a video", "it may be damaged; upload an MP4, MOV or WebM file"):
            av.open(f"{FILE_PROTOCOL}{path}", options={"format_whitelist": CONTAINERS}).close()
    return probe(path, bounds)


def num_frames(info: VideoInfo, start: float, length: float) -> int | None:
    """How many frames a part of the source has, as far as its header tells."""
    if info.num_frames is None:
        return None
    rest = max(0.0, info.num_frames / float(info.frame_rate) - start)
    return min(round(min(rest, length) * info.frame_rate), MAX_FRAMES)


class Demo:
    """Predicts for many people, one at a time; `models` has, by name, what gives a predictor when it is first used."""

    def __init__(self, models: Mapping[str, Callable[[], SaliencyPredictor]]) -> None:
        self.models = models
        self.loaded: dict[str, SaliencyPredictor] = {}
        # With what forgets them after `KEPT`.
        self.recent: dict[tuple, tuple[Maps, threading.Timer]] = {}
        self.predicted = GPU(duration=GPU_TIME)(self.small_maps)

    def load(self, name: str) -> SaliencyPredictor:
        if name not in self.loaded:
            self.loaded[name] = self.models[name]()
        return self.loaded[name]

    def small_maps(
        self, model: str, path: Path, start: float, length: float | None, stride: int, bounds: Bounds
    ) -> Iterator[tuple[Fraction, np.ndarray, Attention]]:
        """Timestamps, maps (float16, small), and what they say: on ZeroGPU they come from another process."""
        loaded = self.load(model)
        predictor = SaliencyPredictor(loaded.model, loaded.processor, stride, loaded.batch_size)
        timestamps: deque[Fraction] = deque()

        def images() -> Iterator[np.ndarray]:
            for frame in read_frames(path, start, length, bounds):
                timestamps.append(frame.timestamp)
                yield frame.image

        for frame in islice(predictor.stream(images()), MAX_FRAMES):
            small = smaller_map(frame.saliency, MAP_SIDE).astype(np.float16)
            yield timestamps.popleft(), small, attention(frame.saliency)

    def is_recent(self, *part: object) -> bool:
        return part in self.recent

    def maps(
        self,
        model: str,
        path: str,
        start: float,
        length: float | None,
        stride: int,
        bounds: Bounds,
        progress: Progress,
    ) -> Maps:
        """
        Predict a part, in seconds (images have no length), of an upload, or take it from the last few that were
        predicted: another colour needs no network.

        Raises:
            VideoError: the file cannot be read.
            BoundsError: it is too large, or takes too long.
            ModelError: the model cannot be loaded.
        """
        part = (model, path, start, length, stride)
        if recent := self.recent.get(part):
            return recent[0]
        info = checked(path, bounds)
        try:
            self.load(model)
        except Exception as error:  # What loads it may be anything.
            raise ModelError(model) from error
        total = num_frames(info, start, length or MAX_SECONDS)
        saliency, timestamps, numbers = [], [], []
        for timestamp, small, found in self.predicted(model, info.path, start, length, stride, bounds):
            saliency.append(small)
            timestamps.append(timestamp)
            numbers.append(found)
            bounds.check_time()
            progress(len(saliency), total, "Looking at frame")
        maps = Maps(info, np.stack(saliency), timestamps, numbers)
        forget = threading.Timer(KEPT, self.recent.pop, (part, None))
        forget.daemon = True
        forget.start()
        self.recent[part] = maps, forget
        for oldest in list(self.recent)[:-KEPT_RUNS]:
            self.recent.pop(oldest)[1].cancel()
        return maps


def write_files(
    maps: Maps,
    folder: Path,
    start: float,
    length: float | None,
    colormap: str,
    opacity: float,
    bounds: Bounds,
    progress: Progress,
) -> list[Path]:
    """
    Write the maps of this part, in seconds, of the source into an empty folder.

    Returns:
        overlay, heat map, and frame with overlay next to it (MP4, or PNG for an image); maps (NPZ) and table (CSV).

    Raises:
        BoundsError: it takes too long.
    """
    source = maps.info.path
    is_image = is_picture(source)
    names = ("overlay", "heatmap", "side-by-side")
    pictures = [folder / f"{source.stem}_{name}{'.png' if is_image else '.mp4'}" for name in names]
    archive, table = folder / f"{source.stem}_maps.npz", folder / f"{source.stem}_gaze.csv"
    height, width = within(maps.info.height, maps.info.width, VIEW_SIDE)

    def drawn(image: np.ndarray, saliency: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        saliency = resize_map(torch.from_numpy(saliency.astype(np.float32)), (height, width)).numpy()
        over = overlay(image, saliency, colormap, opacity)
        return over, heatmap(saliency, colormap), np.concatenate([image, over], axis=1)

    frames = zip(read_frames(source, start, length, bounds), maps.saliency, strict=False)
    if is_image:
        for frame, saliency in frames:
            for path, picture in zip(pictures, drawn(frame.image, saliency), strict=True):
                Image.fromarray(picture).save(path)
    else:
        with ExitStack() as stack:
            writers = []
            for path, columns in zip(pictures, (width, width, 2 * width), strict=True):
                rate = maps.info.frame_rate
                writer = VideoWriter(path, columns, height, rate, audio_from=source, start=start, duration=length)
                writers.append(stack.enter_context(writer))
            for number, (frame, saliency) in enumerate(frames, 1):
                for writer, picture in zip(writers, drawn(frame.image, saliency), strict=True):
                    writer.write(picture, frame.timestamp, frame.duration)
                bounds.check_time()
                progress(number, len(maps.saliency), "Drawing frame")
    no_image = np.empty((0, 0, 3), np.uint8)
    timed = zip(maps.timestamps, maps.saliency, strict=True)
    write_npz((SaliencyFrame(no_image, *pair) for pair in timed), archive, overwrite=False)
    write_table(zip(maps.timestamps, maps.numbers, strict=True), table, maps.info.width, maps.info.height)
    return [*pictures, archive, table]
