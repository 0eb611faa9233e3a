"""Which files belong to a video, and whether they fit together.

Files of a video belong together when their names agree up to the suffix and to leading zeros (`0007.jpg` and `7.png`),
and are ordered by the numbers in them.
"""

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import IO

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import VideoError, check_file, reason_of
from ..video.pictures import IMAGE_SUFFIXES
from ..video.reading import demuxed, opened, rate_of, video_stream
from .features import FRAME_TOLERANCE, DataError
from .report import Problem, any_fatal, counted, listed_names
from .samples import GazeVideo
from .tables import fixation_faults, in_lines, read_columns

MAX_SIDE, MAX_PIXELS = 1 << 14, 89_000_000  # of an image


@dataclass(frozen=True)
class Clip:
    """Where the files of one video are, and, once examined, what their headers say."""

    id: str  # the row's `video_id`
    video: Path | None = None  # a file, or None where `images` is a folder of frames
    images: Path | None = None
    maps: Path | None = None  # folders, or None for videos without labels
    fixations: Path | None = None
    gaze: Path | None = None  # a table of who looked where, or None where that is unknown
    num_frames: int = 0  # 0 until examined, as what follows; of a folder of frames `fps` is known without
    fps: float = 0.0
    width: int = 0
    height: int = 0

    def state(self) -> tuple:
        """What changes with all that the examined clip and its row are made of; cheap: few files are looked at."""
        stamps = (self.fps, *(stamp(path) for path in (self.video, self.maps, self.fixations, self.gaze)))
        return stamps if self.images is None else (*stamps, image_stamps(self.images))

    def examine(self) -> tuple[list["Clip"], list[Problem]]:
        """
        The clip with what its headers say, or nothing where a problem is fatal; the problems. Files are compared by
        names and headers alone. A video with up to two maps more or fewer than frames is used as far as both go.
        """
        names, problems = self._list_parts()
        if any_fatal(problems):
            return [], problems
        clip = self
        try:
            if self.video is not None:
                source = self.video
                clip = self._read_header(source, len(names.get("maps", ())))
            elif self.images is not None:
                source = self.images / names["images"][min(names["images"])]
                width, height = examined_image(source).size
                clip = replace(self, num_frames=len(names["images"]), width=width, height=height)
        except (VideoError, av.FFmpegError) as error:
            problems.append(Problem("unreadable", source, str(error)))
        except OSError as error:
            problems.append(Problem("unreadable", source, f"is not an image ({error})"))
        if names:
            reference = clip._reference(names)
            problems += clip._gaps(names, reference)
            if "maps" in names:
                problems += clip._compare(names, reference)
                clip, more = clip._shorten(len(names["maps"]))
                problems += more
        if clip.gaze is not None and clip.num_frames:
            try:
                faults = gaze_faults(clip.gaze, clip.num_frames, clip.width, clip.height)
                problems += [Problem("fixations", clip.gaze, fault) for fault in faults]
            except DataError as error:
                problems.append(Problem("unreadable", clip.gaze, str(error)))
        return ([] if any_fatal(problems) else [clip]), problems

    def decode(self) -> list[Problem]:
        """Read every file of an examined clip: what is damaged or no map, and what is not of the clip's size."""
        problems = [] if self.video is None else self._decode_video(self.video)
        size = (self.width, self.height)
        sample = GazeVideo(next(self.rows()))
        for part, read in (("images", None), ("maps", sample.density), ("fixations", sample.fixations)):
            folder = getattr(self, part)
            if folder is None:
                continue
            damaged, odd, blank = [], [], 0
            names = ordered_images(folder)[: self.num_frames]
            for index, name in enumerate(names):
                try:
                    image = examined_image(folder / name, decode=read is None)
                    blank += read is not None and not read(index).any()
                except OSError as error:
                    damaged.append(f"{name} ({reason_of(error)})")
                    continue
                except DataError as error:
                    damaged.append(f"{name} ({reason_of(error.__cause__ or error)})")
                    continue
                if image.size != size:
                    odd.append(f"{name} is {image.width}×{image.height}")
            if damaged:
                text = f"{counted(len(damaged), 'image')}: {listed_names(damaged)}"
                problems.append(Problem("unreadable", folder, text))
            if odd:
                text = f"{len(odd)} images are not {size[0]}×{size[1]} pixels, as the video is: {listed_names(odd)}"
                problems.append(Problem("size", folder, text))
            if part == "fixations" and 2 * blank > len(names):
                text = f"nobody looks at {blank} of {len(names)} frames"
                problems.append(Problem("fixations", folder, text, fatal=blank == len(names)))
        return problems

    def count(self) -> tuple[int, int]:
        return 1, self.num_frames

    def rows(self) -> Iterator[dict]:
        """The row of an examined clip; lists its folders, opens nothing."""
        yield {
            "video_id": self.id,
            "video": self.video and _as_file(self.video),
            "frames": self._files(self.images),
            "num_frames": self.num_frames,
            "fps": self.fps,
            "width": self.width,
            "height": self.height,
            "maps": self._files(self.maps),
            "fixations": self._files(self.fixations),
            **read_gaze(self.gaze),
        }

    def _files(self, folder: Path | None) -> list[dict]:
        names = [] if folder is None else ordered_images(folder)
        return [_as_file(f"{folder}{os.sep}{name}") for name in names[: self.num_frames]]

    def _list_parts(self) -> tuple[dict[str, dict[tuple, str]], list[Problem]]:
        """The images in each of the clip's folders, or what keeps them from being listed."""
        names, problems = {}, []
        if self.maps is not None and self.images is None and not os.path.lexists(self.maps.parent):
            return names, [Problem("missing annotation", self.maps.parent, f"does not exist; {self.video} needs it")]
        for part in ("images", "maps", "fixations"):
            folder = getattr(self, part)
            if folder is None:
                continue
            if folder.is_dir():
                names[part], more = list_images(folder)
                problems += more
                if not names[part] and not more:
                    problems.append(Problem("empty folder", folder, "has no images"))
            elif folder.exists():
                problems.append(Problem("file for folder", folder, "is a file"))
            else:
                kind = "missing video" if part == "images" else "missing annotation"
                problems.append(Problem(kind, folder, "does not exist"))
        return names, problems

    def _read_header(self, video: Path, num_maps: int) -> "Clip":
        """The clip with what the header of its video says; the number of its maps is 0 where it has no labels."""
        with opened(video) as container:
            stream = video_stream(container)
            if stream is None:
                raise VideoError(f"{video} has no pictures; copy or download it again.")
            rate = float(rate_of(container, stream) or self.fps)
            width, height, frames = stream.width, stream.height, stream.frames
            if not frames or (num_maps and abs(frames - num_maps) > FRAME_TOLERANCE):
                # Headers are wrong at times; packets are as many as frames, and counting them decodes nothing.
                frames = sum(1 for packet in demuxed(container, stream) if packet.size)
        if not frames:
            raise VideoError(f"{video} has no frames; copy or download it again.")
        return replace(self, num_frames=frames, fps=rate, width=width, height=height)

    def _reference(self, names: dict[str, dict[tuple, str]]) -> str:
        """Which of the clip's folders tells the frames that there are."""
        if "images" in names:
            return "images"
        # Maps are missing, rather than fixations too many, where the video has frames for these.
        return "fixations" if len(names["maps"]) < min(len(names["fixations"]), self.num_frames) else "maps"

    def _gaps(self, names: dict[str, dict[tuple, str]], reference: str) -> list[Problem]:
        """Holes in the numbers of the frames; fatal where the numbers are the only tie to the frames of a video."""
        # Keys end with the number and what follows it.
        numbers = [key[-2] for key in sorted(names[reference]) if len(key) > 1]
        if reference != "images":
            numbers = [0, *numbers]
        holes = [(before + 1, after - 1) for before, after in pairwise(numbers) if after - before > 1]
        if not holes:
            return []
        listed = listed_names(f"{first}" if first == last else f"{first}–{last}" for first, last in holes)
        return [Problem("gap", getattr(self, reference), f"has no {listed}", fatal=reference != "images")]

    def _compare(self, names: dict[str, dict[tuple, str]], reference: str) -> list[Problem]:
        """Whether maps and fixations are there for the same frames, by name."""
        problems = []
        frames = names[reference]
        of = "frames" if reference == "images" else reference
        for part in ("maps", "fixations"):
            folder, own = getattr(self, part), names[part]
            if missing := sorted(frames.keys() - own.keys()):
                listed = listed_names(frames[key] for key in missing)
                text = f"{len(missing)} of {len(frames)} {of} lack one: {listed}"
                problems.append(Problem("missing maps", folder, text))
            if surplus := sorted(own.keys() - frames.keys()):
                listed = listed_names(own[key] for key in surplus)
                text = f"{len(surplus)} without one of {len(frames)} {of}: {listed}"
                problems.append(Problem("surplus maps", folder, text))
        return problems

    def _shorten(self, num_maps: int) -> tuple["Clip", list[Problem]]:
        """The clip as far as its video and its maps both go."""
        frames = self.num_frames
        if self.video is None or self.maps is None or frames in (0, num_maps):
            return self, []
        kind = "missing maps" if num_maps < frames else "surplus maps"
        fatal = abs(frames - num_maps) > FRAME_TOLERANCE
        problem = Problem(kind, self.maps, f"has {num_maps} images, {self.video.name} has {frames} frames", fatal)
        return replace(self, num_frames=min(frames, num_maps)), [problem]

    def _decode_video(self, video: Path) -> list[Problem]:
        try:
            with opened(video) as container:
                frames = sum(1 for _ in container.decode(video_stream(container)))
        except (VideoError, av.FFmpegError) as error:
            return [Problem("unreadable", video, str(error))]
        if frames >= self.num_frames:
            return []
        text = f"only {frames} of {self.num_frames} frames can be decoded"
        return [Problem("unreadable", video, text, fatal=frames < self.num_frames - FRAME_TOLERANCE)]


def read_gaze(path: Path | None) -> dict[str, list]:
    """The columns of who looked where in a clip, from a table that has been examined."""
    values = {} if path is None else read_columns(path, ("frame", "x", "y", "observer"))[0]
    none = np.empty(0)
    return {
        "fixation_frame": values.get("frame", none).astype(np.int64).tolist(),
        "fixation_x": values.get("x", none).tolist(),
        "fixation_y": values.get("y", none).tolist(),
        "observer": values.get("observer", none).astype(np.int64).tolist(),
    }


def gaze_faults(path: Path, num_frames: int, width: int, height: int) -> list[str]:
    """What is wrong with a table of who looked where in a clip of so many frames of a size, in words."""
    values, _, lines, faults = read_columns(path, ("frame", "x", "y", "observer"))
    if not lines:
        return faults
    frame, observer = values["frame"], values["observer"]
    for wrong, text in (
        (~np.equal(frame, np.floor(frame)), "whose frame is no whole number"),
        ((frame < 0) | (frame >= num_frames), f"in none of the frames 0 to {num_frames - 1}"),
        (~(np.equal(observer, np.floor(observer)) & (np.abs(observer) < 2**31)), "whose observer is no whole number"),
    ):
        if found := np.flatnonzero(wrong).tolist():
            faults.append(f"{counted(len(found), 'fixation')} {text}, such as {in_lines([lines[n] for n in found])}")
    return faults + fixation_faults(values["x"], values["y"], width, height, lines)


def _as_file(path: str | Path) -> dict:
    return {"path": str(path), "bytes": None}


@lru_cache(maxsize=2**14)
def natural_key(stem: str) -> tuple[str | int, ...]:
    """What orders names by the numbers in them: text and numbers in turn; leading zeros do not count."""
    return tuple(int(part) if index % 2 else part for index, part in enumerate(re.split(r"([0-9]+)", stem)))


def list_folder(folder: Path) -> list[os.DirEntry]:
    """What a folder holds in natural order, without hidden files."""
    with os.scandir(folder) as entries:
        return sorted(
            (entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: natural_key(entry.name)
        )


def list_images(folder: Path) -> tuple[dict[tuple, str], list[Problem]]:
    """Names of the images in a folder by the natural key of their stems; other files and folders are ignored."""
    names: dict[tuple, str] = {}
    problems = []
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, _, suffix = entry.name.rpartition(".")
            if stem.startswith(".") or f".{suffix.lower()}" not in IMAGE_SUFFIXES:
                continue
            key = natural_key(stem)
            if key not in names and entry.is_file():
                names[key] = entry.name
            elif entry.is_dir():
                problems.append(Problem("folder for file", Path(entry.path), "is a folder"))
            elif key in names:
                problems.append(Problem("duplicate", Path(entry.path), f"{names[key]} has the same number"))
            else:
                problems.append(Problem("unreadable", Path(entry.path), "is a link to nothing"))
    return names, problems


def ordered_images(folder: Path) -> list[str]:
    names = list_images(folder)[0]
    return [names[key] for key in sorted(names)]


def examined_image(file: str | Path | IO[bytes], decode: bool = False) -> Image.Image:
    """
    An image, closed, of which the header was read, or, to decode, all. An `OSError` tells that it is damaged, or too
    large to be worked on.
    """
    try:
        if isinstance(file, Path):
            check_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                width, height = image.size
                if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
                    raise OSError(f"it has {width}×{height} pixels, more than can be worked on: make it smaller")
                if decode:
                    image.load()
                return image
    except UnidentifiedImageError as error:
        raise OSError("it is no image") from error
    except OSError:
        raise
    except Exception as error:  # Pillow's readers raise errors of any type for damaged files.
        raise OSError(str(error)) from error


def stamp(path: str | os.PathLike | None) -> tuple | None:
    """What changes when a file is written, or when the list of files in a folder changes: names it and its times."""
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return (os.fspath(path),)
    return (os.fspath(path), status.st_size, status.st_mtime_ns)


def image_stamps(folder: Path) -> tuple:
    """Stamps of a folder and of one of its images: written over with others, they leave the folder's times alone."""
    first = None
    if folder.is_dir():
        with os.scandir(folder) as entries:
            first = next(entries, None)
    return stamp(folder), stamp(first)
