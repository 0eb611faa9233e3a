"""Gaze datasets on disk: which files belong to a video, and a report of what is missing or does not fit.

Files of a video belong together when their names agree up to the suffix and to leading zeros (`0007.jpg` and `7.png`),
and are ordered by the numbers in them.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
from PIL import Image
from tqdm import tqdm

from ..errors import VideoError, check_file
from ..video.reading import IMAGE_SUFFIXES, opened, video_stream
from .features import DataError

# By how many frames the header of a video may differ from the number of its maps. Containers count frames that no
# decoder gives, and annotators stopped a frame early or late.
FRAME_TOLERANCE = 2
_LISTED = 5  # names or places of one kind that a report lists before it only counts them

# Kind of problem: its heading, and what to do.
_KINDS = {
    "missing annotation": ("No annotation", "unpack the annotation again, or remove the videos"),
    "missing image": ("No image", "copy the images again, or remove their fixations"),
    "missing video": ("No frames", "unpack the videos again, or remove their annotation"),
    "missing maps": ("Fewer maps than frames", "every frame needs a map and a fixation image: unpack them again"),
    "surplus maps": ("More maps than frames", "unpack the frames again, or remove the maps without one"),
    "file for folder": ("A file where a folder is expected", "remove it, or unpack it if it is an archive"),
    "folder for file": ("A folder where a file is expected", "move the file out of it"),
    "empty folder": ("Empty folders", "unpack the images again"),
    "unreadable": ("Cannot be read", "copy or download the files again"),
    "size": ("Sizes differ", "export frames, maps and fixations of a video at one size"),
    "duplicate": ("Two of the same number or name", "keep one of them"),
    "missing part": ("Parts are missing", "copy or download all parts of the table"),
    "names": ("Names of different lengths, matched by number", "rename them if they do not belong together"),
    "gap": ("Numbers are missing", "frames on both sides of a gap are taken as neighbours: unpack them again"),
    "split": ("Not in the official split", "move the videos to the folder of their split"),
    "origin": ("Perhaps another dataset", "name the dataset that the folder holds"),
    "unexpected": ("Ignored", "move the files elsewhere"),
    "fixations": ("Fixations", "check the columns x and y: they are pixels of the image as stored"),
    "fps": ("Frame rates", "write the number of frames per second, such as 25, or remove the file"),
    "columns": ("Tables that do not fit", "name the columns as documented and use numbers"),
}


@dataclass(frozen=True)
class Problem:
    """
    Something in a dataset's folder that is missing or does not fit.

    Attributes:
        kind: which check found it; problems of one kind are listed together.
        where: the file or folder.
        text: what is wrong there.
        fatal: the video cannot be used.
    """

    kind: str
    where: Path
    text: str
    fatal: bool = True


class Found(NamedTuple):
    """What a split holds that can be used; `official` is the number of videos it should have, if that is known."""

    items: int
    frames: int
    official: int | None = None


@dataclass(frozen=True)
class Report:
    """
    The result of a check; `print` it.

    Attributes:
        title: of the dataset.
        root: its folder.
        problems: in the order in which they were found.
        found: per split.
        left_out: number of videos or images that `skip_invalid=True` leaves out; those whose damage only shows when
            every file is read are not among them.
        hidden: number of errors that only show when every file is read.
        unit: what a row is, `"videos"` or `"images"`.
    """

    title: str
    root: Path
    problems: list[Problem]
    found: dict[str, Found]
    left_out: int = 0
    hidden: int = 0
    unit: str = "videos"

    @property
    def fatal(self) -> list[Problem]:
        """The problems that keep videos from being used."""
        return [problem for problem in self.problems if problem.fatal]

    def __str__(self) -> str:
        fatal = self.fatal
        warned = [problem for problem in self.problems if not problem.fatal]
        lines = [f"{self.title} in {self.root}: {counted(len(fatal), 'error')}, {counted(len(warned), 'warning')}."]
        for severity, problems in (("Error", fatal), ("Warning", warned)):
            by_kind = defaultdict(list)
            for problem in problems:
                by_kind[problem.kind].append(problem)
            for kind, group in by_kind.items():
                heading, advice = _KINDS[kind]
                lines.append(f"{severity}: {heading} ({len(group)}); {advice}:")
                for problem in group[:_LISTED]:
                    place = problem.where
                    if place.is_relative_to(self.root) and place != self.root:
                        place = place.relative_to(self.root)
                    lines.append(f"  {place}: {problem.text}")
                if len(group) > _LISTED:
                    lines.append(f"  … and {len(group) - _LISTED} more")
        for split, found in self.found.items():
            official = f" of {found.official}" if found.official else ""
            frames = f", {found.frames} frames" if self.unit == "videos" else ""
            lines.append(f"Found: {split}: {found.items}{official} {self.unit}{frames}.")
        if self.left_out:
            lines.append(
                f"Fix the errors, or leave out {counted(self.left_out, self.unit[:-1])} with skip_invalid=True, in "
                "commands --skip-invalid."
            )
        elif fatal:
            lines.append("Fix the errors.")
        if self.hidden:
            lines.append(
                f"Loading, which reads names and headers only, does not notice {self.hidden} of these errors; their "
                f"{self.unit} are counted as found."
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Clip:
    """
    Where the files of one video are, and, once examined, what their headers say.

    Attributes:
        id: the row's `video_id`.
        video: a video file, or None where `images` is a folder of frames.
        maps, fixations: folders; None for videos without labels.
        num_frames, fps, width, height: 0 until examined; of a folder of frames `fps` is known without.
    """

    id: str
    video: Path | None = None
    images: Path | None = None
    maps: Path | None = None
    fixations: Path | None = None
    num_frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0

    def row(self) -> dict:
        """The row of an examined clip; lists its folders, opens nothing."""
        return {
            "video_id": self.id,
            "video": self.video and _as_file(self.video),
            "frames": self._files(self.images),
            "num_frames": self.num_frames,
            "fps": self.fps,
            "width": self.width,
            "height": self.height,
            "maps": self._files(self.maps),
            "fixations": self._files(self.fixations),
        }

    def _files(self, folder: Path | None) -> list[dict]:
        if folder is None:
            return []
        names = list_images(folder)[0]
        return [_as_file(f"{folder}{os.sep}{names[key]}") for key in sorted(names)[: self.num_frames]]


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
                continue
            path = Path(entry.path)
            if entry.is_dir():
                problems.append(Problem("folder for file", path, "is a folder"))
            elif key in names:
                problems.append(Problem("duplicate", path, f"{names[key]} has the same number"))
            else:
                problems.append(Problem("unreadable", path, "is a link to nothing"))
    return names, problems


def examine(clip: Clip) -> tuple[list[Clip], list[Problem]]:
    """
    Compare the files of a clip with one another, by names and headers alone.

    A video file whose frames differ in number from its maps by at most two is used as far as both go.

    Returns:
        the clip with what its headers say, or nothing where a problem is fatal; the problems.
    """
    names, problems = _list_parts(clip)
    if _any_fatal(problems):
        return [], problems
    try:
        if clip.video is not None:
            clip = _read_header(clip, len(names.get("maps", ())))
        else:
            first = clip.images / names["images"][min(names["images"])]
            check_file(first)
            with Image.open(first) as image:
                width, height = image.size
            clip = replace(clip, num_frames=len(names["images"]), width=width, height=height)
    except (VideoError, av.FFmpegError) as error:
        problems.append(Problem("unreadable", clip.video, str(error)))
    except OSError as error:
        problems.append(Problem("unreadable", first, f"is not an image ({error})"))
    if names:
        reference = _reference(clip, names)
        problems += _gaps(clip, names, reference)
        if "maps" in names:
            problems += _compare(clip, names, reference)
            clip, more = _shorten(clip, len(names["maps"]))
            problems += more
    return ([] if _any_fatal(problems) else [clip]), problems


def _any_fatal(problems: Iterable[Problem]) -> bool:
    return any(problem.fatal for problem in problems)


def _list_parts(clip: Clip) -> tuple[dict[str, dict[tuple, str]], list[Problem]]:
    """The images in each of the clip's folders, or what keeps them from being listed."""
    names, problems = {}, []
    if clip.maps is not None and clip.images is None and not os.path.lexists(clip.maps.parent):
        return names, [Problem("missing annotation", clip.maps.parent, f"does not exist; {clip.video} needs it")]
    for part, kind in (
        ("images", "missing video"),
        ("maps", "missing annotation"),
        ("fixations", "missing annotation"),
    ):
        folder = getattr(clip, part)
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


def _reference(clip: Clip, names: dict[str, dict[tuple, str]]) -> str:
    """Which of the clip's folders tells the frames that there are."""
    if "images" in names:
        return "images"
    # Maps are missing, rather than fixations too many, where the video has frames for these.
    return "fixations" if len(names["maps"]) < min(len(names["fixations"]), clip.num_frames) else "maps"


def _compare(clip: Clip, names: dict[str, dict[tuple, str]], reference: str) -> list[Problem]:
    """Whether maps and fixations are there for the same frames, by name."""
    problems = []
    frames = names[reference]
    for part in ("maps", "fixations"):
        if names[part] == frames:
            continue
        folder = getattr(clip, part)
        missing, surplus = frames.keys() - names[part].keys(), names[part].keys() - frames.keys()
        of = "frames" if reference == "images" else reference
        if missing:
            listed = listed_names(frames[key] for key in sorted(missing))
            problems.append(
                Problem("missing maps", folder, f"{len(missing)} of {len(frames)} {of} lack one: {listed}")
            )
        if surplus:
            listed = listed_names(names[part][key] for key in sorted(surplus))
            problems.append(
                Problem("surplus maps", folder, f"{len(surplus)} without one of {len(frames)} {of}: {listed}")
            )
        different = [
            key
            for key in frames.keys() & names[part].keys()
            if os.path.splitext(frames[key])[0] != os.path.splitext(names[part][key])[0]
        ]
        if different:
            key = min(different)
            text = f"{names[part][key]} goes with {getattr(clip, reference).name}/{frames[key]}"
            problems.append(Problem("names", folder, text, fatal=False))
    return problems


def _gaps(clip: Clip, names: dict[str, dict[tuple, str]], reference: str) -> list[Problem]:
    """Holes in the numbers of a clip's frames; fatal where the numbers are the only tie to the frames of a video."""
    # Keys end with the number and what follows it.
    numbers = [key[-2] for key in sorted(names[reference]) if len(key) > 1]
    if reference != "images":
        numbers = [0, *numbers]
    holes = [(before + 1, after - 1) for before, after in pairwise(numbers) if after - before > 1]
    if not holes:
        return []
    listed = listed_names(f"{first}" if first == last else f"{first}–{last}" for first, last in holes)
    return [Problem("gap", getattr(clip, reference), f"has no {listed}", fatal=reference != "images")]


def _read_header(clip: Clip, num_maps: int) -> Clip:
    """The clip with what the header of its video says; the number of its maps is 0 where it has no labels."""
    with opened(clip.video) as container:
        stream = video_stream(container)
        if stream is None:
            raise VideoError(f"{clip.video} has no pictures; copy or download it again.")
        rate = stream.average_rate or stream.guessed_rate
        clip = replace(clip, fps=float(rate or clip.fps), width=stream.width, height=stream.height)
        frames = stream.frames
        if not frames or (num_maps and abs(frames - num_maps) > FRAME_TOLERANCE):
            # Headers are wrong at times; packets are as many as frames, and counting them decodes nothing.
            frames = sum(1 for packet in container.demux(stream) if packet.size)
    if not frames:
        raise VideoError(f"{clip.video} has no frames; copy or download it again.")
    return replace(clip, num_frames=frames)


def _shorten(clip: Clip, num_maps: int) -> tuple[Clip, list[Problem]]:
    """The clip as far as its video and its maps both go."""
    frames = clip.num_frames
    if clip.video is None or frames in (0, num_maps):
        return clip, []
    kind = "missing maps" if num_maps < frames else "surplus maps"
    fatal = abs(frames - num_maps) > FRAME_TOLERANCE
    problem = Problem(kind, clip.maps, f"has {num_maps} images, {clip.video.name} has {frames} frames", fatal)
    return replace(clip, num_frames=min(frames, num_maps)), [problem]


def decode(clip: Clip) -> list[Problem]:
    """Read every file of an examined clip: what is damaged, and images that are not of the clip's size."""
    problems = []
    size = (clip.width, clip.height)
    if clip.video is not None:
        frames = 0
        try:
            with opened(clip.video) as container:
                for _ in container.decode(video_stream(container)):
                    frames += 1
        except (VideoError, av.FFmpegError) as error:
            problems.append(Problem("unreadable", clip.video, str(error)))
        else:
            if frames < clip.num_frames:
                fatal = frames < clip.num_frames - FRAME_TOLERANCE
                text = f"only {frames} of {clip.num_frames} frames can be decoded"
                problems.append(Problem("unreadable", clip.video, text, fatal))
    for folder in (clip.images, clip.maps, clip.fixations):
        if folder is None:
            continue
        damaged, odd = [], []
        names = list_images(folder)[0]
        for key in sorted(names):
            try:
                found = decoded_size(folder / names[key])
            except OSError:
                damaged.append(names[key])
            else:
                if found != size:
                    odd.append(f"{names[key]} is {found[0]}×{found[1]}")
        if damaged:
            problems.append(Problem("unreadable", folder, f"{len(damaged)} images: {listed_names(damaged)}"))
        if odd:
            text = f"{len(odd)} images are not {size[0]}×{size[1]} pixels, as the video is: {listed_names(odd)}"
            problems.append(Problem("size", folder, text))
    return problems


def decoded_size(file) -> tuple[int, int]:
    """
    (width, height) of an image, all of which is read.

    Raises:
        OSError: it is damaged.
    """
    try:
        if isinstance(file, Path):
            check_file(file)
        with Image.open(file) as image:
            image.load()
            return image.size
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # What Pillow raises for broken chunks.
        raise OSError(str(error)) from error


def decode_all(items: list, check) -> Iterator[list[Problem]]:
    """`check(item)` of each item in order, by threads, with a progress bar."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        results = pool.map(check, items)
        yield from tqdm(results, total=len(items), desc="Reading every file", unit="video", disable=None)
    finally:
        # An interrupted check does not go on with what is left, which may take an hour.
        pool.shutdown(cancel_futures=True)


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


def fingerprint(clip: Clip) -> tuple:
    """What changes with all that an examined clip and its row are made of; cheap, since few files are looked at."""
    stamps = (clip.fps, *(stamp(path) for path in (clip.video, clip.maps, clip.fixations)))
    return stamps if clip.images is None else (*stamps, image_stamps(clip.images))


def find_root(data_dir: str | os.PathLike, title: str, looks_right, expected: str) -> Path:
    """
    The dataset's folder, as an absolute path.

    Args:
        looks_right: whether a folder is that of the dataset.
        expected: the entries that it has, in words.

    Raises:
        DataError: the folder is not there or is not the dataset's; the message says where it may be.
    """
    root = Path(os.path.abspath(os.path.expanduser(data_dir)))
    if root.exists() and looks_right(root):
        return root
    nearby = []
    if root.is_dir():
        nearby += [Path(entry.path) for entry in list_folder(root) if entry.is_dir()]
    nearby += [folder for folder in list(root.parents)[:3] if folder.is_dir()]
    hint = next((f"; did you mean {folder}?" for folder in nearby if looks_right(folder)), ".")
    if not root.exists():
        raise DataError(f"There is no folder {root}{hint}")
    if not root.is_dir():
        raise DataError(f"{root} is a file, but {title} is a folder with {expected}{hint}")
    raise DataError(f"{root} does not look like {title}, which has {expected}{hint}")


def listed_names(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


__all__ = ["Clip", "Found", "Problem", "Report"]
