"""What the demo computes, within bounds that let strangers use it: from an uploaded file to pictures and tables."""

import ctypes
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
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

from ..errors import CutOffError, VideoError, reported, until_cut_off
from ..inference.predictor import SaliencyFrame, SaliencyPredictor
from ..inference.results import smaller_map, smaller_size, write_npz
from ..inference.table import Attention, attention, write_table
from ..models.video_processing_salfom import resize_map
from ..video.drawing import heatmap, overlay, png_of
from ..video.pictures import IMAGE_SUFFIXES, READ_IMAGES, is_picture
from ..video.reading import FILE_PROTOCOL, VideoInfo, probe, read_frames
from ..video.writing import VideoWriter
from .attention import MOST_STAYS, Stay, path_picture, stays

UPLOAD = "upload an MP4, MOV or WebM file, or a JPEG or PNG picture"
MAX_BYTES = 100 * 2**20
MAX_PIXELS = 50_000_000  # of a picture
MAX_FRAME_PIXELS = 10_000_000  # of a frame of a video; a decoder may hold 20 of them
MAX_ANIMATION = 1_000_000_000  # pixels of all images of an animated picture
MAX_SIDE = 12_000  # pixels
MAX_ASPECT = 8  # of the longer side to the shorter one
MAX_SECONDS = 30
MAX_FRAMES = 1000
MAX_TIME = 300  # seconds of computing and drawing
GPU_TIME = 60  # seconds to ask ZeroGPU for: visitors have few, and longer requests wait longer
WORK_SIDE = 1920  # pixels of the longer side of the frames that are predicted: the network's are much smaller
VIEW_SIDE = 960  # the same of what is shown
MAP_SIDE = 384  # the same of the maps, which have no finer detail
KEPT = 3600  # seconds that uploads and results stay
KEPT_RUNS = 4
KEPT_BYTES = 300 * 2**20  # of the maps of these runs

# What FFmpeg reads from one file alone: playlists and the like name other files, which may be other people's.
CONTAINERS = "asf,avi,flv,gif,matroska,mov,mpeg,mpegts,mxf,ogg,yuv4mpegpipe"
# What Pillow reads by itself; for some other kinds it starts other programs.
PICTURES = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
PAGED = (".tif", ".tiff")


class Part(NamedTuple):
    """Seconds of an upload, which a model looks at; a picture has no length."""

    model: str
    path: str
    start: float = 0.0
    length: float | None = None
    stride: int = 1


class Maps(NamedTuple):
    """What is predicted of a part."""

    part: Part
    info: VideoInfo
    saliency: np.ndarray  # float16 (frames, height, width), 0…1, at most `MAP_SIDE` wide and high
    timestamps: list[Fraction]  # seconds on the source's clock
    numbers: list[Attention]

    @property
    def still(self) -> bool:
        return self.part.length is None

    @property
    def seconds(self) -> list[float]:
        return [float(timestamp) for timestamp in self.timestamps]

    @property
    def end(self) -> float:
        """Of the last frame, in seconds; that of a picture is its beginning."""
        return self.seconds[-1] + (0 if self.still else float(1 / self.info.frame_rate))

    @property
    def stays(self) -> list[Stay]:
        return stays(self.seconds, self.end, self.numbers)


class BoundsError(Exception):
    """An upload, or what is asked of it, is beyond the bounds; the message names the bound."""


class ModelError(Exception):
    """A model cannot be loaded."""


def is_photo(path: str | Path) -> bool:
    """Whether a file is a photo or another picture that does not move; of a TIFF of pages, the first is."""
    return Path(path).suffix.lower() in PAGED or is_picture(Path(path))


def give_back_memory() -> None:
    """Return to the system what is freed, which glibc would keep for its next allocations."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


class Bounds:
    """
    What one run may take, from now on: `MAX_TIME`, so many pixels in each frame (`MAX_PIXELS` for a picture,
    `MAX_FRAME_PIXELS` for a video), `MAX_SIDE` in a row or column, and a shape within `MAX_ASPECT`. Call it with the
    width and height of what is about to be decoded or converted: it raises a `BoundsError` beyond them.
    `stop_if_alone` raises when nobody waits for the run any more; `progress` gets the frames done, those in all if
    known, and what is being done.
    """

    def __init__(
        self,
        path: str | Path,
        max_pixels: int | None = None,
        stop_if_alone: Callable[[], None] | None = None,
        progress: Callable[[int, int | None, str], None] | None = None,
    ) -> None:
        self.name = Path(path).name
        self.max_pixels = max_pixels or (MAX_PIXELS if is_photo(path) else MAX_FRAME_PIXELS)
        # ZeroGPU's other process has the same clock.
        self.end = time.monotonic() + MAX_TIME
        self.stop_if_alone, self.progress = stop_if_alone, progress

    def __getstate__(self) -> dict:
        return {**vars(self), "stop_if_alone": None, "progress": None}  # ZeroGPU's other process knows no visitors.

    def __call__(self, width: int, height: int) -> None:
        if width * height > self.max_pixels or max(width, height) > MAX_SIDE:
            raise self.too_large(f"{width}×{height}")
        if max(width, height) > MAX_ASPECT * min(width, height):
            cut = f"cut it so that no side is more than {MAX_ASPECT} times the other"
            raise BoundsError(f"{self.name} has {width}×{height} pixels; {cut}.")
        self.check_time()

    def too_large(self, pixels: str) -> BoundsError:
        most = f"at most {self.max_pixels // 10**6} megapixels, and {MAX_SIDE} pixels a side"
        return BoundsError(f"{self.name} has {pixels} pixels; upload {most}.")

    def check_time(self) -> None:
        if self.stop_if_alone is not None:
            self.stop_if_alone()
        if time.monotonic() > self.end:
            raise BoundsError(
                f"It takes more than {MAX_TIME // 60} minutes; choose an earlier start, a shorter length, a higher "
                "speed or a lighter model."
            )

    def report(self, done: int, total: int | None, what: str) -> None:
        """One more frame is done: for the visitor to see, if there is time left."""
        self.check_time()
        if self.progress is not None:
            self.progress(done, total, what)


def check_picture(path: str | Path, bounds: Bounds) -> None:
    """Look at a picture's header, before anything is decoded: a `VideoError` if it is none, else as `Bounds`."""
    path = Path(path)
    if path.suffix.lower() in READ_IMAGES - IMAGE_SUFFIXES:
        raise VideoError(f"This page cannot read {path.name}; convert it to JPEG and upload that.")
    with reported(f"Cannot read {path.name} as a picture", UPLOAD):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError("its name does not end as a picture's, such as photo.jpg")
        try:
            with Image.open(path, formats=PICTURES) as image:
                size = image.size
                # Each page would be decoded, whatever its size; counting them may take long.
                if image.format == "TIFF":
                    with suppress(EOFError):
                        image.seek(1)
                        raise BoundsError(f"{path.name} has several pages; upload one of them.")
                total = size[0] * size[1] * getattr(image, "n_frames", 1)
        except UnidentifiedImageError as error:  # Its message names the place on this machine.
            raise ValueError("it holds no picture") from error
        except Image.DecompressionBombError as error:
            raise bounds.too_large("too many") from error
    bounds(*size)
    if total > MAX_ANIMATION:
        raise BoundsError(f"{path.name} is a long animation; upload a shorter or smaller one, or an MP4 file.")


def checked(path: str | Path, bounds: Bounds) -> VideoInfo:
    """Probe an upload: a `VideoError` if it cannot be read, a `BoundsError` if it is too large."""
    path = Path(path)
    # A folder would be read as a video of its images.
    if not path.is_file():
        raise VideoError(f"{path.name} is not a file; upload a video or an image.")
    if path.stat().st_size > MAX_BYTES:
        raise BoundsError(f"{path.name} has more than {MAX_BYTES >> 20} MB; upload a smaller or shorter one.")
    if path.suffix.lower() in READ_IMAGES:
        check_picture(path, bounds)
    else:
        try:
            av.open(f"{FILE_PROTOCOL}{path}", options={"format_whitelist": CONTAINERS}).close()
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f"{path.name} is damaged, or no video; {UPLOAD}.") from error
    return probe(path, bounds)


def frames_of(
    part: Part, bounds: Bounds, side: int, ended: list[CutOffError]
) -> Iterator[tuple[Fraction, Fraction | None, np.ndarray]]:
    """
    Timestamps, durations and images, at most `side` pixels wide and high. Where the video breaks off after some, that
    is put into `ended`.
    """
    frames = until_cut_off(read_frames(part.path, part.start, part.length, bounds), ended)
    empty = True
    for frame in islice(frames, MAX_FRAMES if part.length else 1):
        empty, image = False, frame.image
        if max(image.shape) > side:
            height, width = smaller_size(image.shape[0], image.shape[1], side, 2)
            large = Image.fromarray(image)
            image = np.asarray(large.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2))
        yield frame.timestamp, frame.duration, image
    if empty:
        raise ended[0]


class Demo:
    """Predicts for many people, one at a time; `models` has, by name, what gives a predictor when it is first used."""

    def __init__(self, models: Mapping[str, Callable[[], SaliencyPredictor]]) -> None:
        self.models = models
        self.loaded: dict[str, SaliencyPredictor] = {}
        # With what forgets them after `KEPT`.
        self.recent: dict[Part, tuple[Maps, threading.Timer]] = {}
        self.predicted = GPU(duration=GPU_TIME)(self.small_maps)

    def load(self, name: str) -> SaliencyPredictor:
        if name not in self.loaded:
            self.loaded[name] = self.models[name]()
        return self.loaded[name]

    def small_maps(self, part: Part, bounds: Bounds) -> Iterator[tuple[Fraction, np.ndarray, Attention]]:
        """Timestamps, maps (float16, small), and what they say: on ZeroGPU they come from another process."""
        loaded = self.load(part.model)
        predictor = SaliencyPredictor(loaded.model, loaded.processor, part.stride, loaded.batch_size)
        timestamps: deque[Fraction] = deque()

        def images() -> Iterator[np.ndarray]:
            for timestamp, _, image in frames_of(part, bounds, WORK_SIDE, []):
                timestamps.append(timestamp)
                yield image

        for frame in predictor.stream(images()):
            small = smaller_map(frame.saliency, MAP_SIDE).astype(np.float16)
            yield timestamps.popleft(), small, attention(frame.saliency)

    def maps(self, part: Part, bounds: Bounds) -> Maps:
        """Predict a part, or take it from the last few that were predicted: another colour needs no network."""
        if recent := self.recent.get(part):
            return recent[0]
        info = checked(part.path, bounds)
        try:
            self.load(part.model)
        except Exception as error:  # What loads it may be anything.
            raise ModelError(part.model) from error
        total = None if part.length else 1
        if part.length and info.num_frames is not None:  # As far as its header tells.
            rest = max(0.0, info.num_frames / float(info.frame_rate) - part.start)
            total = min(round(min(rest, part.length) * info.frame_rate), MAX_FRAMES)
        found = []
        for each in self.predicted(part, bounds):
            found.append(each)
            bounds.report(len(found), total, "Looking at frame")
        timestamps, saliency, numbers = zip(*found, strict=True)
        maps = Maps(part, info, np.stack(saliency), [*timestamps], [*numbers])
        forget = threading.Timer(KEPT, self.recent.pop, (part, None))
        forget.daemon = True
        forget.start()
        self.recent[part] = maps, forget
        while (
            len(self.recent) > KEPT_RUNS or sum(kept.saliency.nbytes for kept, _ in self.recent.values()) > KEPT_BYTES
        ):
            self.recent.pop(next(iter(self.recent)))[1].cancel()
        return maps


def write_files(
    maps: Maps, folder: Path, colormap: str, opacity: float, bounds: Bounds
) -> tuple[list[Path], CutOffError | None]:
    """
    Write maps into an empty folder: overlay, heat map, and frame with overlay next to it (MP4, or PNG for a picture),
    maps (NPZ), table (CSV) and, unless it is a picture, the path of where most look (PNG); and what the source broke
    off by.
    """
    part, info, source = maps.part, maps.info, maps.info.path
    names = ("overlay", "heatmap", "side-by-side")
    pictures = [folder / f"{source.stem}_{name}{'.png' if maps.still else '.mp4'}" for name in names]
    archive, table, path = (folder / f"{source.stem}_{name}" for name in ("maps.npz", "table.csv", "path.png"))
    height, width = smaller_size(info.height, info.width, VIEW_SIDE, 2)
    ended: list[CutOffError] = []
    found = maps.stays
    shown = [np.empty(0)] * min(len(found), MOST_STAYS)  # what is to be seen in the middle of each
    with ExitStack() as stack:
        writers = []
        for file, columns in zip(pictures if not maps.still else (), (width, width, 2 * width), strict=False):
            writer = VideoWriter(
                file, columns, height, info.frame_rate, audio_from=source, start=part.start, duration=part.length
            )
            writers.append(stack.enter_context(writer))
        frames = zip(frames_of(part, bounds, VIEW_SIDE, ended), maps.saliency, strict=False)
        for number, ((timestamp, duration, image), small) in enumerate(frames, 1):
            resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
            saliency = resize_map(torch.from_numpy(small.astype(np.float32)), (height, width)).numpy()
            over = overlay(resized, saliency, colormap, opacity)
            drawn = over, heatmap(saliency, colormap), np.concatenate([resized, over], axis=1)
            for writer, picture in zip(writers, drawn, strict=False):
                writer.write(picture, timestamp, duration)
            for file, picture in zip(pictures if maps.still else (), drawn, strict=False):
                file.write_bytes(png_of(picture, level=1))
            for stay in range(len(shown)):
                if timestamp <= (found[stay].begin + found[stay].end) / 2:
                    shown[stay] = image
            bounds.report(number, len(maps.saliency), "Drawing frame")
    no_image = np.empty((0, 0, 3), np.uint8)
    timed = zip(maps.timestamps, maps.saliency, strict=True)
    write_npz((SaliencyFrame(no_image, *pair) for pair in timed), archive, overwrite=False)
    write_table(zip(maps.timestamps, maps.numbers, strict=True), table, info.width, info.height)
    if not maps.still:
        path_picture(shown, maps.seconds, maps.numbers, found).save(path)
    return [*pictures, archive, table, *([] if maps.still else [path])], next(iter(ended), None)
