"""A [`GazeFolder`] from videos and a table of where people looked in them."""

import csv
import math
import os
import warnings
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..errors import check_file, reason_of, reported
from ..files import Inputs, atomic_output, check_free
from ..models.losses import blur_matrix
from ..video.reading import VIDEO_SUFFIXES, VideoInfo, probe, read_frames
from .clip_folders import FPS_FILE, GAZE_FILE, GazeFolder
from .export import writing
from .features import DataError
from .report import counted, listed_names
from .samples import VIDEO_SIGMA, VIDEO_WIDTH
from .splits import held_out

JPEG_QUALITY = 95
LONGEST = 1 << 16  # All frames as they are.
# Seconds. Tables hold milliseconds, so that a frame's own time may have been rounded to before the frame.
TIME_TOLERANCE = 0.0005
UNKNOWN = -1  # observer
NO_NUMBER, OUTSIDE_FRAME, OUTSIDE_VIDEO = "without a number", "outside the frame", "before or after the video"


@dataclass(frozen=True)
class Made:
    """
    What [`make_gazefolder`] wrote; `print` it.

    Attributes:
        videos: names of the clips of each split.
        frames: number of frames.
        fixations: number of rows of the table that lie on a frame, each as often as on one.
        dropped: number of those that do not, by why.
        observers: number of observers; 0 if the table does not tell.
    """

    videos: dict[str, list[str]]
    frames: int
    fixations: int
    dropped: dict[str, int]
    observers: int

    def __str__(self) -> str:
        videos = counted(sum(map(len, self.videos.values())), "video")
        splits = ", ".join(f"{split} {len(names)}" for split, names in self.videos.items())
        observers = f" of {counted(self.observers, 'observer')}" if self.observers else ""
        dropped = "; ".join(f"{count} {reason}" for reason, count in self.dropped.items() if count)
        return (
            f"{videos} ({splits}), {counted(self.frames, 'frame')}, {counted(self.fixations, 'fixation')}{observers}; "
            f"{counted(sum(self.dropped.values()), 'row')} dropped{dropped and f' ({dropped})'}"
        )


class GazeTable(NamedTuple):
    """Where people looked."""

    rows: dict[str, array]  # for each name of a video, `begin, end, x, y, observer, begin, end, …`
    by_frame: bool  # `begin` is the number of a frame, from 0; otherwise seconds, and `end` the same for a moment
    observers: list[str]  # whose numbers, from 0, the rows hold; empty if unknown
    incomplete: int  # number of rows left out because a number is missing


def read_gaze(path: Path) -> GazeTable:
    """Read a table as for [`make_gazefolder`], of which 40 bytes per row are kept; a `DataError` if it is unfit."""
    try:
        check_file(path)
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            # Spreadsheets write semicolons where the comma is the decimal sign, and eye trackers write tabs.
            separator = max(",;\t", key=header.count)
            return _read_rows(path, csv.reader(file, delimiter=separator, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Cannot read {path} ({reason_of(error)}); give a CSV file in UTF-8.") from error


def _read_rows(path: Path, reader: Any) -> GazeTable:
    header = [name.strip().lower() for name in next(reader, [])]
    clocks = [name for name in ("time", "frame", "start") if name in header]
    absent = [name for name in ("video", "x", "y") if name not in header]
    absent += [] if clocks else ["time or start (seconds) or frame (from 0)"]
    lasting = clocks == ["start"]
    absent += ["duration (seconds)"] if lasting and "duration" not in header else []
    if absent:
        raise DataError(f"{path} has no column {absent[0]}, but {', '.join(header) or 'is empty'}; name it in line 1.")
    wanted = ("video", *clocks, *(["duration"] if lasting else []), "x", "y")
    twice = [name for name in (*wanted, "observer") if header.count(name) > 1]
    if twice:
        raise DataError(f"{path} has two columns {twice[0]}; remove or rename one of them.")
    if len(clocks) > 1:
        raise DataError(f"{path} has the columns {' and '.join(clocks)}; leave one of them.")
    at_video, *numbers = map(header.index, wanted)
    at_observer = header.index("observer") if "observer" in header else None
    table: dict[str, array] = defaultdict(lambda: array("d"))
    observers: dict[str, int] = {}
    incomplete = 0
    for row in filter(None, reader):
        if len(row) != len(header):
            raise DataError(f"{path}, line {reader.line_num}: {len(row)} cells, but the header has {len(header)}.")
        values = []
        for place in numbers:
            cell = row[place].strip()
            try:
                values.append(math.nan if cell in ("", "NA") else float(cell))
            except ValueError as error:
                where = f"{path}, line {reader.line_num}, column {header[place]}"
                advice = "write decimals with a point" if "," in cell else "leave it empty if it is unknown"
                raise DataError(f"{where}: {cell!r} is not a number; {advice}.") from error
        if not all(map(math.isfinite, values)):
            incomplete += 1
            continue
        if clocks == ["frame"] and not values[0].is_integer():
            raise DataError(
                f"{path}, line {reader.line_num}, column frame: {values[0]} is not a whole number; "
                "call the column time if it holds seconds."
            )
        begin, *duration, x, y = values
        name = row[at_observer].strip() if at_observer is not None else ""
        number = observers.setdefault(name, len(observers)) if name else UNKNOWN
        table[row[at_video].strip()].extend((begin, sum(duration, begin), x, y, number))
    return GazeTable(dict(table), clocks == ["frame"], list(observers), incomplete)


def find_videos(path: Path) -> list[Path]:
    """The video files in a folder, of which there is one at least and no two have the same name; or a single one."""
    if not path.is_dir():
        return [path]
    with reported(f"Cannot read the folder {path}"):
        videos = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
    if not videos:
        raise DataError(f"The folder {path} holds no videos; name a video or another folder.")
    named: dict[str, Path] = {}
    for video in videos:
        if video.stem in named:
            raise DataError(f"{named[video.stem]} and {video.name} have the same name; rename one of them.")
        named[video.stem] = video
    return videos


def assign(table: GazeTable, videos: list[Path]) -> tuple[dict[Path, np.ndarray], list[str]]:
    """The gaze in each video that has some, float64 `(rows, 5)` as in the table; and names that are of no video."""
    named = {video.stem: video for video in videos} | {video.name: video for video in videos}
    parts = defaultdict(list)
    for name, rows in table.rows.items():
        parts[named.get(name)].append((name, np.frombuffer(rows).reshape(-1, 5)))
    unknown = [name for name, _ in parts.pop(None, [])]
    return {video: np.concatenate([rows for _, rows in parts[video]]) for video in videos if video in parts}, unknown


def frames_shown(path: Path) -> Iterator[tuple[np.ndarray, float, float]]:
    """Each frame, from when and until when it is shown, in seconds."""
    for image, timestamp, duration in read_frames(path):
        yield image, float(timestamp), float(timestamp + (duration or 0))


@contextmanager
def new_gazefolder(folder: Path, overwrite: bool, total: int | None) -> Iterator[tuple[Path, tqdm]]:
    """Where to write a folder that takes its place when it is complete, and a progress bar of so many frames."""
    with (
        atomic_output(folder, overwrite) as temporary,
        writing(folder),
        tqdm(total=total, unit="frame", desc=folder.name, disable=None, dynamic_ncols=True) as progress,
    ):
        yield temporary, progress


def make_clip_folder(folder: Path, info: VideoInfo) -> list[Path]:
    """Make the folder of a clip, with its frame rate; the folders of its frames, densities and fixations."""
    parts = [folder / name for name in ("images", "maps", "fixation")]
    for part in parts:
        part.mkdir(parents=True)
    (folder / FPS_FILE).write_text(f"{float(info.frame_rate):.9g}\n", encoding="utf-8")
    return parts


def write_frame(parts: list[Path], number: int, image: np.ndarray, density: np.ndarray, fixations: np.ndarray) -> None:
    """Write a frame, by its number from 0, and its labels, into parts as `make_clip_folder` gives them."""
    name = f"{number + 1:06d}"
    density = np.rint(density * (255 / (density.max() or 1))).astype(np.uint8)
    Image.fromarray(image).save(parts[0] / f"{name}.jpg", quality=JPEG_QUALITY)
    for part, picture in zip(parts[1:], (density, fixations * np.uint8(255)), strict=True):
        Image.fromarray(picture).save(part / f"{name}.png")


def write_clip(
    folder: Path, info: VideoInfo, gaze: np.ndarray, table: GazeTable, sigma: float, longest: int, progress: tqdm
) -> Counter[str]:
    """
    Write one video, with a few frames in memory; the number of `"frames"`, of `"fixations"`, and of rows outside the
    frame or the video. Frames have at most `longest` pixels a side, and sigma is in pixels of a width of 640.
    """
    parts = make_clip_folder(folder, info)
    inside = ((gaze[:, 2:4] >= 0) & (gaze[:, 2:4] < (info.width, info.height))).all(axis=1)
    counts = Counter({OUTSIDE_FRAME: int((~inside).sum())})
    gaze = gaze[inside]
    begins, ends, observers = gaze[:, 0], gaze[:, 1], gaze[:, 4].astype(np.int64)
    width, height = reduced_size(info, longest)
    points = gaze[:, 2:4] * (width / info.width, height / info.height)
    columns, rows = points.T.astype(np.int64)
    # A fixation's density is a product of these columns: far less to compute than to blur whole maps.
    sigma *= width / VIDEO_WIDTH
    vertical, horizontal = (blur_matrix(n, sigma, "zeros").float().numpy() for n in (height, width))
    on_a_frame = np.zeros(len(gaze), bool)
    looked = ["frame,x,y,observer\n"]
    for number, (image, begin, end) in enumerate(frames_shown(info.path)):
        if table.by_frame:
            seen = np.flatnonzero(begins == number)
        else:
            # A fixation belongs to all frames that appear while it lasts; a moment, and a fixation that is too short
            # for that, to the frame in which it begins.
            lasts = (begins < begin + TIME_TOLERANCE) & (ends > begin + TIME_TOLERANCE)
            begun = (begins >= begin - TIME_TOLERANCE) & (begins < end - TIME_TOLERANCE)
            seen = np.flatnonzero(lasts | (begun & (ends <= end + TIME_TOLERANCE)))
        density = vertical[:, rows[seen]] @ horizontal[:, columns[seen]].T
        fixations = np.zeros(density.shape, bool)
        fixations[rows[seen], columns[seen]] = True
        picture = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        write_frame(parts, number, picture, density, fixations)
        whose = zip(points[seen], observers[seen], strict=True)
        looked += [f"{number},{x:.2f},{y:.2f},{who}\n" for (x, y), who in whose]
        on_a_frame[seen] = True
        counts.update(frames=1, fixations=len(seen))
        progress.update()
    if table.observers:
        (folder / GAZE_FILE).write_text("".join(looked), encoding="utf-8")
    counts[OUTSIDE_VIDEO] = int((~on_a_frame).sum())
    return counts


def reduced_size(info: VideoInfo, longest: int) -> tuple[int, int]:
    """Width and height of a video's frames, reduced to at most so many pixels a side."""
    factor = min(1.0, longest / max(info.height, info.width))
    return max(1, round(info.width * factor)), max(1, round(info.height * factor))


def make_gazefolder(
    videos: str | os.PathLike[str],
    gaze: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    split: str = "train",
    validation: float = 0.0,
    seed: int = 0,
    sigma: float = VIDEO_SIGMA,
    longest: int = LONGEST,
    overwrite: bool = False,
) -> Made:
    """
    Write videos and gaze as the folder that [`load_gazefolder`] reads, complete or not at all, with a progress bar.

    A row of the table with a time belongs to the frame that is shown then, also where the frame rate varies; one with
    a start and a duration to all frames that appear while it lasts. Who looked where is kept in `gaze.csv`. Rows
    without a number, outside the frame, or before or after the video are dropped. Warns of videos without gaze, which
    are left out, and of gaze without a video.

    Args:
        videos: a folder of video files, or one file.
        gaze: a CSV file with a row for each fixation or sample of gaze, and the columns `video` (name of the file,
            with or without suffix), `x` and `y` (pixels of the upright frame; 0 is the outer edge of the first one),
            either `time` (seconds), `start` and `duration` (seconds) or `frame` (from 0), and perhaps `observer`.
        folder: to make.
        split: the split that the videos are for.
        validation: share of the videos for `"train"` that go to `"validation"` instead; 0 for none.
        seed: which ones.
        sigma: standard deviation of the densities, in pixels of a video 640 wide.
        longest: the longest side of the frames written, in pixels; smaller ones are not enlarged.
        overwrite: replace the folder if it is an earlier one.

    Raises:
        ValueError: an argument is out of its range.
        DataError: the table or the folder of videos does not fit, or nobody looks at any frame.
        VideoError: a video cannot be read, or the folder exists or cannot be written.
    """
    videos, gaze, folder = Path(videos), Path(gaze), Path(folder)
    if split not in GazeFolder.OFFICIAL:
        raise ValueError(f"There is no split {split!r}; choose one of {', '.join(GazeFolder.OFFICIAL)}.")
    if not 0 <= validation < 1 or (validation and split != "train"):
        raise ValueError(f"A share from 0 to below 1 of train goes to validation, not {validation} of {split}.")
    if not 0 < sigma < math.inf:
        raise ValueError(f"Sigma is a number of pixels above 0, not {sigma}.")
    found = find_videos(videos)
    check_free(folder, overwrite, Inputs(gaze, *found))
    table = read_gaze(gaze)
    assigned, unknown = assign(table, found)
    if not assigned:
        raise DataError(f"No row of {gaze} is of a video in {videos}; its column video has names of files.")
    if validation and len(assigned) < 2:
        raise DataError("One video cannot be both in train and in validation; give more, or validation 0.")
    infos = {video: probe(video) for video in assigned}
    _check_units(table, assigned, infos, gaze)
    if without := [video.name for video in found if video not in assigned]:
        warnings.warn(f"Left out, without gaze: {listed_names(without)}.", stacklevel=2)
    if unknown:
        warnings.warn(f"Gaze without a video: {listed_names(unknown)}.", stacklevel=2)
    held = held_out({video.stem for video in assigned}, validation, seed) if validation else set()
    made: dict[str, list[str]] = defaultdict(list)
    counts = Counter()
    total = sum(info.num_frames or 0 for info in infos.values()) or None
    with new_gazefolder(folder, overwrite, total) as (temporary, progress):
        for video, info in infos.items():
            place = "validation" if video.stem in held else split
            made[place].append(video.stem)
            clip = temporary / place / video.stem
            counts += write_clip(clip, info, assigned[video], table, sigma, longest, progress)
        if not counts["fixations"]:
            raise DataError(
                f"None of the rows of {gaze} lies on a frame of its video; x and y are pixels, time is in seconds."
            )
    dropped = {NO_NUMBER: table.incomplete} | {reason: counts[reason] for reason in (OUTSIDE_FRAME, OUTSIDE_VIDEO)}
    splits = {place: made[place] for place in GazeFolder.OFFICIAL if place in made}
    return Made(splits, counts["frames"], counts["fixations"], dropped, len(table.observers))


def _check_units(table: GazeTable, assigned: dict[Path, np.ndarray], infos: dict[Path, VideoInfo], gaze: Path) -> None:
    # Eye trackers report some places outside of the frame, above 1 or below 0.
    if np.median(np.concatenate([rows[:, 2:4].max(axis=1) for rows in assigned.values()])) <= 1:
        raise DataError(f"x and y in most rows of {gaze} are at most 1; give pixels, not shares of the frame.")
    past = any((rows[:, 0] == infos[video].num_frames).any() for video, rows in assigned.items())
    if table.by_frame and past and all((rows[:, 0] >= 1).all() for rows in assigned.values()):
        raise DataError(
            f"{gaze} has rows of the frame after a video's last one and none of frame 0, as if frames were counted "
            "from 1; subtract 1 in the column frame."
        )
