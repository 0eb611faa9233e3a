"""What the demo computes, within bounds that let strangers use it: from an uploaded file to pictures and tables."""

import time
from collections import OrderedDict
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
from PIL import Image

from ..output import write_npz
from ..predictor import SaliencyFrame, SaliencyPredictor
from ..render import heatmap, overlay
from ..video import FILE_PROTOCOL, IMAGE_SUFFIXES, VideoError, VideoInfo, probe, read_frames, reported
from ..video_processing_salfom import resize_map
from ..video_writer import VideoWriter
from .attention import Attention, attention, write_csv

MAX_BYTES = 100 * 2**20
MAX_PIXELS = 50_000_000  # per frame
MAX_SECONDS = 30
MAX_FRAMES = 1000
MAX_TIME = 300  # seconds of computing and drawing
GPU_TIME = 60  # seconds to ask ZeroGPU for: visitors have few, and longer requests wait longer
VIEW_SIDE = 960  # pixels of the longer side of what is shown
MAP_SIDE = 384  # the same of the maps, which have no finer detail
KEPT_RUNS = 4

# What FFmpeg reads from one file alone: playlists and the like name other files, which may be other people's.
CONTAINERS = "asf,avi,flv,gif,matroska,mov,mpeg,mpegts,mxf,ogg,yuv4mpegpipe"

# Frames done, frames in all if known, what is being done.
Progress = Callable[[int, int | None, str], None]


class Maps(NamedTuple):
    """
    The predicted maps of a clip.

    Attributes:
        info: of the source.
        saliency: float16 `(frames, height, width)`, values in 0…1, at most `MAP_SIDE` wide and high.
        timestamps: seconds on the source's clock.
        numbers: each map's.
    """

    info: VideoInfo
    saliency: np.ndarray
    timestamps: list[Fraction]
    numbers: list[Attention]


class Files(NamedTuple):
    """The results: overlay, heat map, and frame with overlay beside it (MP4, or PNG for an image); maps and table."""

    overlay: Path
    heatmap: Path
    side_by_side: Path
    maps: Path
    table: Path


def within(height: int, width: int, side: int) -> tuple[int, int]:
    """The largest size of the same shape that does not exceed `side` or the size itself; even, as players want it."""
    scale = min(1.0, side / max(height, width))
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)


def checked(path: str | Path) -> VideoInfo:
    """
    Probe an upload.

    Raises:
        VideoError: it cannot be read, or is beyond the bounds.
    """
    path = Path(path)
    # A folder would be read as a video of its images.
    if not path.is_file():
        raise VideoError(f"{path.name} is not a file; upload a video or an image.")
    if path.stat().st_size > MAX_BYTES:
        raise VideoError(f"{path.name} has more than {MAX_BYTES >> 20} MB; upload a smaller or shorter one.")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        with reported(f"Cannot read {path} as a video", "it may be damaged; upload an MP4, MOV or WebM file"):
            av.open(f"{FILE_PROTOCOL}{path}", options={"format_whitelist": CONTAINERS}).close()
    info = probe(path)
    if info.width * info.height > MAX_PIXELS:
        raise VideoError(
            f"{path.name} has {info.width}×{info.height} pixels; upload at most {MAX_PIXELS // 10**6} megapixels."
        )
    return info


def timed(progress: Progress) -> Progress:
    """
    The same, for one prediction that begins now.

    Raises:
        VideoError: when called after more than `MAX_TIME`.
    """
    begin = time.monotonic()

    def report(done: int, total: int | None, what: str) -> None:
        if time.monotonic() - begin > MAX_TIME:
            raise VideoError(
                f"It takes more than {MAX_TIME // 60} minutes; choose a shorter length, a larger stride or a lighter "
                "model."
            )
        progress(done, total, what)

    return report


def num_frames(info: VideoInfo, start: float, length: float) -> int | None:
    """How many frames a part of the source has, as far as its header tells."""
    if info.num_frames is None:
        return None
    rest = max(0.0, info.num_frames / float(info.frame_rate) - start)
    return min(round(min(rest, length) * info.frame_rate), MAX_FRAMES)


class Demo:
    """
    Predicts for many people, one at a time.

    Args:
        models: name → what gives its predictor; called when the model is first used.
    """

    def __init__(self, models: Mapping[str, Callable[[], SaliencyPredictor]]):
        self.models = models
        self.loaded: dict[str, SaliencyPredictor] = {}
        self.recent: OrderedDict[tuple, Maps] = OrderedDict()
        self.small_maps = GPU(duration=GPU_TIME)(self.small_maps)

    def load(self, name: str) -> SaliencyPredictor:
        if name not in self.loaded:
            self.loaded[name] = self.models[name]()
        return self.loaded[name]

    def small_maps(
        self, model: str, path: Path, start: float, length: float | None, stride: int
    ) -> Iterator[tuple[Fraction, np.ndarray]]:
        """Timestamps and maps, float16, small: on ZeroGPU they come from another process."""
        loaded = self.load(model)
        predictor = SaliencyPredictor(loaded.model, loaded.processor, stride, loaded.batch_size)
        for frame in islice(predictor.stream(path, start, length), MAX_FRAMES):
            size = within(*frame.saliency.shape, MAP_SIDE)
            saliency = resize_map(torch.from_numpy(frame.saliency), size).clamp(0, 1)
            yield frame.timestamp, saliency.numpy().astype(np.float16)

    def is_recent(self, *part) -> bool:
        return part in self.recent

    def maps(self, model: str, path: str, start: float, length: float | None, stride: int, progress: Progress) -> Maps:
        """
        Predict a part of a file, or take it from the last few that were predicted: another colour needs no network.

        Args:
            model: one of the names given.
            path: of the upload.
            start, length: in seconds; images have no length.
            stride: see [`SaliencyPredictor`].
            progress: called after every frame; what it raises ends the run.

        Raises:
            VideoError: the file is bad or beyond the bounds.
        """
        part = (model, path, start, length, stride)
        if part in self.recent:
            self.recent.move_to_end(part)
            return self.recent[part]
        info = checked(path)
        self.load(model)
        total = num_frames(info, start, length or MAX_SECONDS)
        saliency, timestamps = [], []
        for timestamp, small in self.small_maps(model, info.path, start, length, stride):
            saliency.append(small)
            timestamps.append(timestamp)
            progress(len(saliency), total, "Looking at frame")
        self.recent[part] = Maps(info, np.stack(saliency), timestamps, [attention(small) for small in saliency])
        while len(self.recent) > KEPT_RUNS:
            self.recent.popitem(last=False)
        return self.recent[part]


def write_files(
    maps: Maps, folder: Path, start: float, length: float | None, colormap: str, opacity: float, progress: Progress
) -> Files:
    """
    Write the results of a prediction, for an image pictures in place of videos.

    Args:
        maps: of this part of the source.
        folder: an empty one.
        start, length: the part, in seconds.
        colormap: a name in [`COLORMAPS`][salfom_hf.render.COLORMAPS].
        opacity: 0…1.
        progress: called after every frame; what it raises ends the drawing.
    """
    is_image = maps.info.path.suffix.lower() in IMAGE_SUFFIXES
    stem, suffix = maps.info.path.stem, ".png" if is_image else ".mp4"
    files = Files(
        *(folder / f"{stem}_{name}{suffix}" for name in ("overlay", "heatmap", "side-by-side")),
        folder / f"{stem}_maps.npz",
        folder / f"{stem}_gaze.csv",
    )
    height, width = within(maps.info.height, maps.info.width, VIEW_SIDE)

    def drawn(image: np.ndarray, saliency: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        saliency = resize_map(torch.from_numpy(saliency.astype(np.float32)), (height, width)).numpy()
        over = overlay(image, saliency, colormap, opacity)
        return over, heatmap(saliency, colormap), np.concatenate([image, over], axis=1)

    frames = zip(read_frames(maps.info.path, start, length), maps.saliency, strict=False)
    if is_image:
        for (image, _), saliency in frames:
            for path, picture in zip(files[:3], drawn(image, saliency), strict=True):
                Image.fromarray(picture).save(path)
    else:
        with ExitStack() as stack:
            part = {"audio_from": maps.info.path, "start": start, "duration": length}
            writers = [
                stack.enter_context(VideoWriter(path, columns, height, maps.info.frame_rate, **part))
                for path, columns in zip(files[:3], (width, width, 2 * width), strict=True)
            ]
            for number, ((image, timestamp), saliency) in enumerate(frames, 1):
                for writer, picture in zip(writers, drawn(image, saliency), strict=True):
                    writer.write(picture, timestamp)
                progress(number, len(maps.saliency), "Drawing frame")
    write_npz(
        (SaliencyFrame(None, *pair) for pair in zip(maps.timestamps, maps.saliency, strict=True)),
        files.maps,
        overwrite=False,
    )
    write_csv(files.table, [float(timestamp) for timestamp in maps.timestamps], maps.numbers)
    return files


__all__ = ["Demo", "Files", "Maps", "checked", "timed", "write_files"]
