"""Which files belong to a video, and whether they fit together.

Files of a video belong together when their names agree up to the suffix and to leading zeros (`0007.jpg` and `7.png`),
and are ordered by the numbers in them.
"""

import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, ClassVar

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import VideoError, check_file, reason_of
from ..video.pictures import IMAGE_SUFFIXES, natural_key
from ..video.reading import demuxed, opened, rate_of, video_stream
from .features import FRAME_TOLERANCE, DataError
from .report import Problem, amount, any_fatal, listed_names
from .samples import GazeVideo
from .tables import fixation_faults, read_columns

MAX_SIDE, MAX_PIXELS = 1 << 14, 89_000_000  # of an image
GAZE_COLUMNS = ("frame", "x", "y", "observer")


@dataclass(frozen=True)
class Clip:
    """Where the files of one video are, and, once examined, what their headers say."""

    id: str  # the row's `video_id`
    video: Path | None = None  # a file, or None where `images` is a folder of frames
    images: Path | None = None
    maps: Path | None = None  # folders, or None for videos without labels
    fixations: Path | None = None
    gaze: Path | None = None  # a table of who looked where, or None where that is unknown
    sigma: float = 0.0  # of densities, pixels of a video 640 wide; 0 where unknown
    num_frames: int = 0  # 0 until examined, as what follows; of a folder of frames `fps` is known without
    fps: float = 0.0
    width: int = 0
    height: int = 0
    num_rows: ClassVar = 1

    def state(self) -> tuple:
        """What changes with all that the examined clip and its row are made of; cheap: few files are looked at."""
        return self.fps, self.sigma, *map(stamp, (self.video, self.images, self.maps, self.fixations, self.gaze))

    def examine(self) -> tuple[list["Clip"], list[Problem]]:
        """
        The clip with what its headers say, or nothing where a problem is fatal; the problems. Files are compared by
        names and headers alone. A video with up to two maps more or fewer than frames is used as far as both go.
        """
        names, problems = self._list_parts()
        if any_fatal(problems):
            return [], problems
        clip = self
        source = self.video or Path(f"{self.images}{os.sep}{names['images'][min(names['images'])]}")
        try:
            if self.video is not None:
                clip = self._read_header(self.video, len(names.get("maps", ())))
            else:
                width, height = examined_image(source).size
                clip = replace(self, num_frames=len(names["images"]), width=width, height=height)
        except (VideoError, av.FFmpegError) as error:
            problems.append(Problem("unreadable", source, str(error)))
        except OSError as error:
            problems.append(Problem("unreadable", source, f"is not an image ({error})"))
        problems += clip._compare(names)
        if self.video is not None and self.maps is not None and clip.num_frames not in (0, len(names["maps"])):
            frames, maps = clip.num_frames, len(names["maps"])
            kind = "missing maps" if maps < frames else "surplus maps"
            text = f"has {maps} images, {self.video.name} has {frames} frames"
            problems.append(Problem(kind, self.maps, text, fatal=abs(frames - maps) > FRAME_TOLERANCE))
            clip = replace(clip, num_frames=min(frames, maps))
        if clip.num_frames:
            problems += clip._gaze_problems()
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
                    if image.size != size:
                        odd.append(f"{name} is {image.width}×{image.height}")
                except (OSError, DataError) as error:
                    cause = error.__cause__ if isinstance(error, DataError) else None
                    damaged.append(f"{name} ({reason_of(cause or error)})")
            if damaged:
                text = f"{amount(len(damaged), 'image')}: {listed_names(damaged)}"
                problems.append(Problem("unreadable", folder, text))
            if odd:
                text = f"{len(odd)} images are not {size[0]}×{size[1]} pixels, as the video is: {listed_names(odd)}"
                problems.append(Problem("size", folder, text))
            if part == "fixations" and 2 * blank > len(names):
                text = f"nobody looks at {blank} of {len(names)} frames"
                problems.append(Problem("fixations", folder, text, fatal=blank == len(names)))
        return problems

    def rows(self) -> Iterator[dict]:
        """The row of an examined clip; lists its folders, opens nothing."""
        unknown = [np.empty(0)] * len(GAZE_COLUMNS)
        frame, x, y, observer = unknown if self.gaze is None else read_columns(self.gaze, GAZE_COLUMNS)[0].values()
        yield {
            "video_id": self.id,
            "video": self.video and {"path": str(self.video), "bytes": None},
            "frames": self._files(self.images),
            "num_frames": self.num_frames,
            "fps": self.fps,
            "width": self.width,
            "height": self.height,
            "maps": self._files(self.maps),
            "fixations": self._files(self.fixations),
            "fixation_frame": frame.astype(np.int64).tolist(),
            "fixation_x": x.tolist(),
            "fixation_y": y.tolist(),
            "observer": observer.astype(np.int64).tolist(),
            "sigma": self.sigma or None,
        }

    def _files(self, folder: Path | None) -> list[dict]:
        names = [] if folder is None else ordered_images(folder)
        return [{"path": f"{folder}{os.sep}{name}", "bytes": None} for name in names[: self.num_frames]]

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

    def _compare(self, names: dict[str, dict[tuple, str]]) -> Iterator[Problem]:
        """Whether images, maps and fixations are there for the same frames, by name, and for all up to the last."""
        if not names:
            return
        reference = "images" if "images" in names else "maps"  # The folder that tells the frames that there are.
        if reference == "maps" and len(names["maps"]) < min(len(names["fixations"]), self.num_frames):
            reference = "fixations"  # Maps are missing, rather than fixations too many, where the video has frames.
        frames, of = names[reference], "frames" if reference == "images" else reference
        # Keys end with the number and what follows it. Numbers may be the only tie to the frames of a video.
        numbers = [0] * (reference != "images") + [key[-2] for key in sorted(frames) if len(key) > 1]
        holes = [(before + 1, after - 1) for before, after in pairwise(numbers) if after - before > 1]
        if holes:
            listed = listed_names(f"{first}" if first == last else f"{first}–{last}" for first, last in holes)
            yield Problem("gap", getattr(self, reference), f"has no {listed}", fatal=reference != "images")
        for part in ("maps", "fixations") if "maps" in names else ():
            folder, own = getattr(self, part), names[part]
            if missing := [frames[key] for key in sorted(frames.keys() - own.keys())]:
                text = f"{len(missing)} of {len(frames)} {of} lack one: {listed_names(missing)}"
                yield Problem("missing maps", folder, text)
            if surplus := [own[key] for key in sorted(own.keys() - frames.keys())]:
                text = f"{len(surplus)} without one of {len(frames)} {of}: {listed_names(surplus)}"
                yield Problem("surplus maps", folder, text)

    def _gaze_problems(self) -> Iterator[Problem]:
        """What is wrong with the table of who looked where."""
        if self.gaze is None:
            return
        try:
            values, _, lines, faults = read_columns(self.gaze, GAZE_COLUMNS)
        except DataError as error:
            yield Problem("unreadable", self.gaze, str(error))
            return
        if lines:
            frame, x, y, observer = values.values()
            is_whole = np.equal(observer, np.floor(observer)) & (np.abs(observer) < 2**31)
            tests = [
                (~np.equal(frame, np.floor(frame)), "whose frame is no whole number"),
                ((frame < 0) | (frame >= self.num_frames), f"in none of the frames 0 to {self.num_frames - 1}"),
                (~is_whole, "whose observer is no whole number"),
            ]
            faults += fixation_faults(x, y, (self.width, self.height), lines, tests)
        yield from (Problem("fixations", self.gaze, fault) for fault in faults)

    def _decode_video(self, video: Path) -> list[Problem]:
        try:
            with opened(video) as container:
                frames = sum(1 for _ in container.decode(video_stream(container)))
        except (VideoError, av.FFmpegError) as error:
            return [Problem("unreadable", video, str(error))]
        text = f"only {frames} of {self.num_frames} frames can be decoded"
        fatal = frames < self.num_frames - FRAME_TOLERANCE
        return [Problem("unreadable", video, text, fatal)] if frames < self.num_frames else []


def list_folder(folder: Path) -> list[os.DirEntry]:
    """What a folder holds in natural order, without hidden files."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: natural_key(entry.name))


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


def stamp(path: os.PathLike[str] | None) -> tuple | None:
    """
    What changes when a file is written, or when the list of files in a folder changes: names it and its times. Of a
    folder also that of one of its files: written over with others, they leave the folder's times alone.
    """
    if path is None:
        return None
    try:
        status, first = os.stat(path), None
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(path) as entries:
                first = next(entries, None)
    except OSError:
        return (os.fspath(path),)
    return os.fspath(path), status.st_size, status.st_mtime_ns, stamp(first)
