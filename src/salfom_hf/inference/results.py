"""From predicted frames to a file: a video or picture, PNG maps, an npz, a table, or a picture for a paper."""

from __future__ import annotations

import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import VideoError
from ..files import Inputs, atomic_output, check_free, check_suffix
from ..video.drawing import heatmap, overlay, png_of, side_by_side, to_gray, with_color_bar
from ..video.pictures import IMAGE_SUFFIXES, image_files, is_picture
from ..video.reading import VideoInfo
from ..video.writing import CONTAINERS, VideoWriter
from .profiling import stage
from .table import Attention, attention, write_table
from .threads import in_background

if TYPE_CHECKING:
    from .predictor import SaliencyFrame, SaliencyPredictor

# A new format stands in `FORMATS` and, if it is drawn as a video or picture, in `DRAWINGS`, else in `SUFFIXES` and in
# `write`; its words are in the help of `cli/predict.py` and in `docs/own-video.md`.

# How each format that can show one moment, as a picture, is drawn from image, map and colours; png shows nothing else.
DRAWINGS: dict[str, Callable] = {
    "overlay": overlay,
    "heatmap": lambda _, saliency, colormap: heatmap(saliency, colormap),
    "side-by-side": side_by_side,
    "png": lambda _, saliency, colormap: with_color_bar(saliency, colormap),
}
# The suffixes of outputs that cannot be videos, and the bytes of a map's value before it is compressed.
SUFFIXES = {"maps": "", "npz": ".npz", "csv": ".csv", "png": ".png"}
BYTES = {"maps": 1, "npz": 2}
FORMATS = ("overlay", "heatmap", "side-by-side", "maps", "npz", "csv", "png")

# Frames that wait to be drawn and written: as many as come at once from a batch of usual size.
WAITING = 4


def default_output(source: Path, output_format: str, moment: bool = False) -> Path:
    """
    Where a result, of a whole video or of one moment, goes when the user names no place: next to the source, with the
    format in its name; a csv is called a table.
    """
    if source.name in ("", ".."):  # "." and ".." get the names of their folders.
        source = source.resolve()
    suffix = SUFFIXES.get(output_format, ".png" if moment or is_picture(source) else ".mp4")
    made_as = "table" if output_format == "csv" else output_format
    return source.with_name(f"{source.stem if source.is_file() else source.name}_{made_as}{suffix}")


def inputs_of(videos: Iterable[Path], *others: Path) -> Inputs:
    """All files that videos, images and folders of images are read from, and what else is read."""
    return Inputs(*others, *(file for video in videos for file in (image_files(video) if video.is_dir() else [video])))


def check_output(path: Path, output_format: str, overwrite: bool, inputs: Inputs, moment: bool = False) -> None:
    """
    Raise a `VideoError` if what is written in one of `FORMATS`, of a whole video or of one moment, cannot have this
    name, or not this place.
    """
    check_free(path, overwrite, inputs)
    if suffix := SUFFIXES.get(output_format):
        check_suffix(path, (suffix,), f"a {suffix} file")
    elif moment:
        check_suffix(path, IMAGE_SUFFIXES, "a picture of one moment")
    elif output_format != "maps":
        check_suffix(path, IMAGE_SUFFIXES.union(CONTAINERS), "a video or picture that can be written")


def frame_at(predictor: SaliencyPredictor, info: VideoInfo, moment: float) -> SaliencyFrame:
    """The frame on screen at so many seconds, with the map that it has when the whole video is predicted."""
    if info.duration is not None and moment > info.duration:
        raise VideoError(f"{info.path} lasts {info.duration:.3f} s, not {moment:g} s; choose an earlier moment.")
    window = predictor.processor.num_frames
    before = max(1.0, 2 * window / float(info.frame_rate))  # seconds, enough if the frames come evenly
    while True:
        start, shown, seen = max(0.0, moment - before), None, 0
        try:
            with closing(predictor.stream(info.path, start)) as frames:
                for frame in frames:
                    if shown is not None and frame.timestamp > moment:
                        break
                    shown, seen = frame, seen + 1
        except VideoError as error:
            if shown is None and start:  # There is nothing where the window would begin.
                raise VideoError(f"{info.path} ends before {moment:g} s; choose an earlier moment.") from error
            raise
        # A map is made of a whole window; where frames last long, that begins earlier.
        if shown is not None and (not start or seen >= window):
            return shown
        before *= 4


def smaller_size(height: int, width: int, side: int, step: int = 1) -> tuple[int, int]:
    """Height and width of the same shape, multiples of `step`, none above `side` pixels nor above what it is."""
    scale = min(1.0, side / max(height, width)) / step
    return max(1, round(height * scale)) * step, max(1, round(width * scale)) * step


def smaller_map(saliency: np.ndarray, side: int) -> np.ndarray:
    """A map, float32 `(height, width)`, made smaller as [`smaller_size`] says."""
    height, width = smaller_size(saliency.shape[0], saliency.shape[1], side)
    return np.asarray(Image.fromarray(saliency).resize((width, height), Image.Resampling.BILINEAR))


def size_in_words(output_format: str, info: VideoInfo, num_frames: int | None, max_size: int | None) -> str:
    """How much of the disk maps or an npz take at most, known before anything is predicted."""
    height, width = smaller_size(info.height, info.width, max_size or max(info.height, info.width))
    size = BYTES[output_format] * height * width / 1e3
    if num_frames is None:
        return f"up to {size:,.0f} kB for each map of {width}×{height}"
    return f"up to {size * num_frames / 1e3:,.2f} MB ({num_frames:,} map{'s' * (num_frames != 1)} of {width}×{height})"


def each_in_thread(function: Callable, items: Iterable, size: int = WAITING) -> None:
    """Call `function` with each item, in a thread of its own while the next ones are made; `size` of them may wait."""
    with closing(in_background(function, items, size)) as done:
        deque(done, maxlen=0)


def write_video(frames: Iterable[SaliencyFrame], path: Path, draw: Callable, info: VideoInfo, **options: Any) -> None:
    """A video of `draw(image, saliency)`; for one image, a picture if the path's suffix says so."""
    frames = iter(frames)
    # The first frame is predicted before the output is opened: a bad input leaves no trace.
    first = next(frames, None)
    if first is None:
        raise VideoError(f"{info.path} has no frames; check that it plays.")

    def drawn(frame: SaliencyFrame) -> np.ndarray:
        with stage("overlay"):
            return draw(frame.image, frame.saliency)

    picture = drawn(first)
    height, width = picture.shape[:2]
    if path.suffix.lower() in IMAGE_SUFFIXES:
        if next(frames, None) is not None:
            told = "name a video as the output, or one moment by --at SECONDS"
            raise VideoError(f"{info.path} has more than one frame, {path} holds one; {told}.")
        with atomic_output(path, options["overwrite"]) as temporary, stage("encode"):
            if path.suffix.lower() == ".png":
                temporary.write_bytes(png_of(picture, level=1))
            else:
                Image.fromarray(picture).save(temporary)
        return
    with VideoWriter(path, width, height, info.frame_rate, audio_from=info.path, **options) as writer:

        def write_one(frame: SaliencyFrame) -> None:
            image = picture if frame is first else drawn(frame)
            with stage("encode"):
                writer.write(image, frame.timestamp, frame.duration)

        each_in_thread(write_one, chain([first], frames))


def write_maps(frames: Iterable[SaliencyFrame], path: Path, overwrite: bool) -> None:
    """A folder of grey PNGs 0001.png, 0002.png, …, each scaled from its minimum to its maximum."""
    numbers = count(1)
    with atomic_output(path, overwrite) as temporary:
        temporary.mkdir()

        def write_one(frame: SaliencyFrame) -> None:
            with stage("encode"):
                (temporary / f"{next(numbers):04d}.png").write_bytes(png_of(to_gray(frame.saliency)))

        each_in_thread(write_one, frames)


def write_npz(frames: Iterable[SaliencyFrame], path: Path, overwrite: bool) -> None:
    """
    An npz with `maps`, float16 `(frames, height, width)`, values in 0…1, and `timestamps`, float64 `(frames,)`, in
    seconds. Written frame by frame: memory does not grow with the video.
    """
    # The scratch file has no name, which the output could have.
    with atomic_output(path, overwrite) as temporary, tempfile.TemporaryFile(dir=temporary.parent) as raw:
        timestamps, shape = [], (0, 0)
        for frame in frames:
            shape = frame.saliency.shape
            with stage("encode"):
                raw.write(frame.saliency.astype(np.float16).tobytes())
            timestamps.append(float(frame.timestamp))
        raw.seek(0)
        with stage("encode"), zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("timestamps.npy", "w") as entry:
                np.lib.format.write_array(entry, np.array(timestamps))
            # The header states the number of frames, known only now; the maps follow it piece by piece.
            with archive.open("maps.npy", "w", force_zip64=True) as entry:
                header = {"descr": "<f2", "fortran_order": False, "shape": (len(timestamps), *shape)}
                np.lib.format.write_array_header_2_0(entry, header)
                while piece := raw.read(1 << 20):
                    entry.write(piece)


def write(
    frames: Iterator[SaliencyFrame],
    path: Path,
    output_format: str,
    info: VideoInfo,
    colormap: str = "turbo",
    start: float = 0.0,
    duration: float | None = None,
    overwrite: bool = False,
    max_size: int | None = None,
) -> None:
    """
    Write what [`SaliencyPredictor.stream`] gives in one of `FORMATS`; the output appears under its name only when
    complete. Pictures are drawn and encoded in a thread, while the next frames are predicted. Frame rate and sound,
    from `start` for `duration` seconds, are those of the source; the longer side of maps in a folder or an npz is
    `max_size` pixels, if the source's is more. A `VideoError` where [`check_output`] raises one, or if it cannot be
    written.
    """
    check_output(path, output_format, overwrite, inputs_of([info.path]))
    if max_size is not None:
        frames = (frame._replace(saliency=smaller_map(frame.saliency, max_size)) for frame in frames)
    if output_format == "maps":
        write_maps(frames, path, overwrite)
    elif output_format == "npz":
        write_npz(frames, path, overwrite)
    elif output_format == "csv":

        def row_of(frame: SaliencyFrame) -> tuple[Fraction, Attention]:
            with stage("encode"):
                return frame.timestamp, attention(frame.saliency)

        with closing(in_background(row_of, frames, WAITING)) as rows:
            write_table(rows, path, info.width, info.height, overwrite)
    else:
        draw = partial(DRAWINGS[output_format], colormap=colormap)
        write_video(frames, path, draw, info, start=start, duration=duration, overwrite=overwrite)
