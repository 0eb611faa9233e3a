"""A [`GazeFolder`] from videos and a table of where people looked in them."""

import csv
import math
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..errors import reported
from ..files import Inputs, atomic_output, check_free
from ..inference.cpu import pytorch_threads
from ..inference.results import smaller_size
from ..inference.threads import in_background
from ..models.losses import blur_matrix
from ..video.drawing import png_of
from ..video.frames import fit
from ..video.reading import VIDEO_SUFFIXES, VideoInfo, frames_there, probe
from .features import DataError
from .loading import held_out
from .report import amount, listed_names
from .samples import VIDEO_SIGMA, VIDEO_WIDTH
from .tables import NAMES, UNKNOWN, GazeTable, read_gaze_table, shown
from .video_folders import FPS_FILE, GAZE_FILE, SIGMA_FILE, GazeFolder

JPEG_QUALITY = 95
OBSERVERS_FILE = "observers.csv"  # Whose numbers the gaze has; for people, as nothing reads it.
SUSPICIOUS = 0.05  # share of rows outside the frame: eyes rarely leave a video
LONGEST = 1 << 16  # All frames as they are.
# Seconds. Tables hold milliseconds, so that a frame's own time may have been rounded to before the frame.
TIME_TOLERANCE = 0.0005
NO_NUMBER, OUTSIDE_FRAME, OUTSIDE_VIDEO = "without a number", "outside the frame", "before or after the video"

# An image, and what gives its density and fixations.
Labelled = tuple[np.ndarray, Callable[[], tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Made:
    """What [`make_gazefolder`] wrote; `print` it."""

    videos: dict[str, list[str]]  # names of the clips of each split
    frames: int
    rows: int  # of the table that lie on a frame
    fixations: int  # the same, each counted once for every frame that it lies on
    dropped: dict[str, int]  # number of rows that lie on none, by why
    observers: int  # 0 if the table does not tell

    def __str__(self) -> str:
        videos = amount(sum(map(len, self.videos.values())), "video")
        splits = ", ".join(f"{split} {len(names)}" for split, names in self.videos.items())
        observers = f" of {amount(self.observers, 'observer')}" if self.observers else ""
        dropped = "; ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count)
        return (
            f"{videos} ({splits}), {amount(self.rows, 'row')}{observers}, "
            f"{amount(self.fixations, 'fixated place')} in {amount(self.frames, 'frame')}; "
            f"{amount(sum(self.dropped.values()), 'row')} dropped{dropped and f' ({dropped})'}"
        )


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
        if (same := named.setdefault(video.stem, video)) != video:
            raise DataError(f"{same} and {video.name} have the same name; rename one of them.")
    return videos


@contextmanager
def new_gazefolder(folder: Path, overwrite: bool, total: int | None) -> Iterator[tuple[Path, tqdm]]:
    """Where to write a folder that takes its place when it is complete, and a progress bar of so many frames."""
    with (
        atomic_output(folder, overwrite) as temporary,
        reported(f"Cannot write {folder}", "choose another place"),
        tqdm(total=total, unit="frame", desc=folder.name, disable=None, dynamic_ncols=True) as progress,
    ):
        yield temporary, progress


def write_clip(
    folder: Path, info: VideoInfo, size: tuple[int, int], frames: Iterable[Labelled], progress: tqdm
) -> int:
    """
    Write the folder of a clip; the number of its frames. Each is an image, scaled to a size (height, width), and what
    gives its labels of that size, float density and bool fixations. There are as many threads as cores, and a few
    frames in memory.
    """
    parts = [folder / name for name in ("images", "maps", "fixation")]
    for part in parts:
        part.mkdir(parents=True)
    (folder / FPS_FILE).write_text(f"{float(info.frame_rate):.9g}\n", encoding="utf-8")

    def write(frame: tuple[int, Labelled]) -> None:
        number, (image, labels) = frame
        Image.fromarray(fit(image, size)).save(parts[0] / f"{number:06d}.jpg", quality=JPEG_QUALITY)
        density, points = labels()
        density = np.rint(density * (255 / (density.max() or 1))).astype(np.uint8)
        for part, gray in zip(parts[1:], (density, points * np.uint8(255)), strict=True):
            (part / f"{number:06d}.png").write_bytes(png_of(gray, level=1))

    cores, count = os.cpu_count() or 1, 0
    with closing(in_background(write, enumerate(frames), 2 * cores, cores)) as written:
        for _ in written:
            progress.update()
            count += 1
    return count


def write_gaze(
    folder: Path, info: VideoInfo, gaze: np.ndarray, table: GazeTable, sigma: float, longest: int, progress: tqdm
) -> Counter[str]:
    """
    Write one video; the number of `"frames"`, of `"rows"` on any, of `"fixations"`, of frames at whose beginning
    fixations of known observers `"last"`, of those with one observer at `"several"` places, and of rows outside the
    frame or the video. Frames have at most `longest` pixels a side, and sigma is in pixels of a width of 640.
    """
    inside = ((gaze[:, 2:4] >= 0) & (gaze[:, 2:4] < (info.width, info.height))).all(axis=1)
    counts = Counter({OUTSIDE_FRAME: int((~inside).sum())})
    _refuse_lost(info.path, len(gaze), counts, table.clock)
    total, gaze = len(gaze), gaze[inside]
    gaze = gaze[gaze[:, 0].argsort(kind="stable")]
    begins, ends, observers = gaze[:, 0], gaze[:, 1], gaze[:, 4].astype(np.int64)
    longest_fixation = (ends - begins).max()
    height, width = size = smaller_size(info.height, info.width, longest)
    points = gaze[:, 2:4] * (width / info.width, height / info.height)
    columns, rows = points.T.astype(np.int64)
    looks = (observers * height + rows) * width + columns  # a number for each place and observer
    # A fixation's density is a product of these columns: far less to compute than to blur whole maps.
    vertical, horizontal = (blur_matrix(n, sigma * width / VIDEO_WIDTH, "zeros").float() for n in (height, width))
    on_a_frame = np.zeros(len(gaze), bool)
    looked = ["frame,x,y,observer\n"]

    def labels(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with pytorch_threads(1):  # This thread has a core of its own.
            density = (vertical[:, rows[seen]] @ horizontal[:, columns[seen]].T).numpy()
        fixations = np.zeros(density.shape, bool)
        fixations[rows[seen], columns[seen]] = True
        return density, fixations

    def frames() -> Iterator[Labelled]:
        for number, (image, timestamp, duration) in enumerate(frames_there(info.path, size)):
            begin, end = float(timestamp), float(timestamp + (duration or 0))
            if table.by_frame:
                seen = np.arange(*np.searchsorted(begins, (number, number + 1)))
            else:
                # A fixation belongs to all frames that appear while it lasts; a moment, and a fixation that is too
                # short for that, to the frame in which it begins.
                first, last = np.searchsorted(
                    begins, (begin - longest_fixation - TIME_TOLERANCE, end + TIME_TOLERANCE)
                )
                starts, stops = begins[first:last], ends[first:last]
                lasts = (starts < begin + TIME_TOLERANCE) & (stops > begin + TIME_TOLERANCE)
                begun = (starts >= begin - TIME_TOLERANCE) & (starts < end - TIME_TOLERANCE)
                seen = first + np.flatnonzero(lasts | (begun & (stops <= end + TIME_TOLERANCE)))
                at_once = first + np.flatnonzero(lasts & (observers[first:last] != UNKNOWN))
                counts["last"] += bool(len(at_once))
                counts["several"] += len(np.unique(looks[at_once])) > len(np.unique(observers[at_once]))
            whose = zip(points[seen].tolist(), observers[seen].tolist(), strict=True)
            looked.extend(f"{number},{x:.2f},{y:.2f},{who}\n" for (x, y), who in whose)
            on_a_frame[seen] = True
            counts["fixations"] += len(seen)
            yield image, partial(labels, seen)

    counts["frames"] = write_clip(folder, info, size, frames(), progress)
    counts["rows"] = int(on_a_frame.sum())
    counts[OUTSIDE_VIDEO] = len(gaze) - counts["rows"]
    _refuse_lost(info.path, total, counts, table.clock)
    if table.observers:
        (folder / GAZE_FILE).write_text("".join(looked), encoding="utf-8")
    (folder / SIGMA_FILE).write_text(f"{sigma:.9g}\n", encoding="utf-8")
    return counts


def _refuse_lost(video: Path, total: int, counts: Counter[str], clock: str) -> None:
    lost = {reason: counts[reason] for reason in (OUTSIDE_VIDEO, OUTSIDE_FRAME) if counts[reason]}
    if 2 * sum(lost.values()) > total:
        reasons = ", ".join(f"{count} {reason}" for reason, count in lost.items())
        advice = f"and {clock}: correct the table, say --time-unit or --from-first-row"
        if 2 * counts[OUTSIDE_FRAME] > total:
            advice = (
                "but these may be of the screen: correct the table by x = (x on the screen - left edge of the video) "
                "* width / width shown, and y alike"
            )
        raise DataError(
            f"{sum(lost.values())} of {total} rows of {video.name} lie on no frame of it ({reasons}); x and y are "
            f"pixels of the frame, {advice}, or remove those rows."
        )


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
    columns: Mapping[str, str] | None = None,
    time_unit: str | None = None,
    from_first_row: bool = False,
    overwrite: bool = False,
) -> Made:
    """
    Write videos and gaze as the folder that [`load_gazefolder`] reads, complete or not at all, with a progress bar.

    A row of the table with a time belongs to the frame that is shown then, also where the frame rate varies; one with
    a start and a duration or end to all frames that appear while it lasts. Who looked where is kept in `gaze.csv`, and
    the observers' names in `observers.csv`. Rows without a number, outside the frame, or before or after the video are
    dropped, but not most of a video's. Warns of videos without gaze, which are left out, of gaze that is not used, and
    of observers in several places at once. Frames are written by a thread for each core.

    Args:
        videos: a folder of video files, or one file.
        gaze: a CSV file with a row for each fixation or sample of gaze, and the columns `video` (name of the file,
            with or without suffix; one video needs none), `x` and `y` (pixels of the upright frame; 0 is the outer
            edge of the first one), either `time` (seconds), `start` and `duration` or `end` (seconds) or `frame` (from
            0), and perhaps `observer`; or EyeLink's or Tobii's columns, by the names that they export.
        folder: to make.
        split: the split that the videos are for.
        validation: share of the videos for `"train"` that go to `"validation"` instead; 0 for none. One video alone
            is not divided.
        seed: which ones.
        sigma: standard deviation of the densities, in pixels of a video 640 wide.
        longest: the longest side of the frames written, in pixels; smaller ones are not enlarged.
        columns: names in the table of any of these columns, such as `{"video": "TRIAL_MOVIE"}`.
        time_unit: `"s"`, `"ms"` or `"us"`, of times whose column does not tell; by default milliseconds in the
            trackers' columns, else the unit of the other of start and duration or end, else seconds.
        from_first_row: times count not from the video's beginning but from the first row of each observer and video.
        overwrite: replace the folder if it is an earlier one.

    Raises:
        ValueError: an argument is out of its range.
        DataError: the table or the folder of videos does not fit, or most rows of a video lie on none of its frames.
        VideoError: a video cannot be read, or the folder exists or cannot be written.
    """
    videos, gaze, folder = Path(videos), Path(gaze), Path(folder)
    if split not in GazeFolder.OFFICIAL:
        raise ValueError(f"There is no split {split!r}; choose one of {', '.join(GazeFolder.OFFICIAL)}.")
    if not 0 <= validation < 1 or (validation and split != "train"):
        raise ValueError(f"A share from 0 to below 1 of train goes to validation, not {validation} of {split}.")
    if not 0 < sigma < math.inf:
        raise ValueError(f"Sigma is a number of pixels above 0, not {sigma}.")
    columns = columns or {}
    if unknown := [name for name in columns if name not in NAMES]:
        raise ValueError(f"There is no column {unknown[0]!r} to name; choose from {', '.join(NAMES)}.")
    if time_unit not in (None, "s", "ms", "us"):
        raise ValueError(f"time_unit must be s, ms or us, not {time_unit!r}.")
    found = find_videos(videos)
    check_free(folder, overwrite, Inputs(gaze, *found))
    table = read_gaze_table(gaze, found, columns, time_unit, from_first_row)
    if not table.rows:
        named = f"; it has {shown(table.unknown[0])}, the video is {found[0].name}" if table.unknown else ""
        raise DataError(
            f"No row of {gaze} is of a video in {videos}{named}: the table's column of videos has names of files, in "
            "which capitals count."
        )
    infos = {video: probe(video) for video in table.rows}
    # Eye trackers report some places outside of the frame, above 1 or below 0.
    if np.median(np.concatenate([rows[:, 2:4].max(axis=1) for rows in table.rows.values()])) <= 1:
        raise DataError(f"x and y in most rows of {gaze} are at most 1; give pixels, not shares of the frame.")
    past = any((rows[:, 0] == infos[video].num_frames).any() for video, rows in table.rows.items())
    if table.by_frame and past and all((rows[:, 0] >= 1).all() for rows in table.rows.values()):
        raise DataError(
            f"{gaze} has rows of the frame after a video's last one and none of frame 0, as if frames were counted "
            "from 1; subtract 1 in the column frame."
        )
    if without := [video.name for video in found if video not in infos]:
        warnings.warn(f"Left out, without gaze: {listed_names(without)}.", stacklevel=2)
    if table.incomplete > sum(map(len, table.rows.values())):
        warnings.warn(f"Left out: {amount(table.incomplete, 'row')} of {gaze} without a number.", stacklevel=2)
    if table.unknown:
        warnings.warn(f"Not used: gaze of {listed_names(table.unknown)}, of which no video was given.", stacklevel=2)
    held = held_out({video.stem for video in infos}, validation, seed) if validation and len(infos) > 1 else set()
    if validation and not held:
        warnings.warn("One video is not divided: it goes to train; to only score it, say --split test.", stacklevel=2)
    made: dict[str, list[str]] = defaultdict(list)
    counts: Counter[str] = Counter()
    numbers = np.concatenate([rows[:, 4] for rows in table.rows.values()])
    whose = np.unique(numbers[numbers != UNKNOWN]).astype(np.int64).tolist()
    total = sum(info.num_frames or 0 for info in infos.values()) or None
    with new_gazefolder(folder, overwrite, total) as (temporary, progress):
        for video, info in infos.items():
            place = "validation" if video.stem in held else split
            made[place].append(video.stem)
            clip = temporary / place / video.stem
            counts += write_gaze(clip, info, table.rows[video], table, sigma, longest, progress)
        if whose:
            with open(temporary / OBSERVERS_FILE, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("observer", "name"), *((who, table.observers[who]) for who in whose)])
    if 2 * counts["several"] > counts["last"]:
        where = f"In {counts['several']:,} of {amount(counts['last'], 'frame')} with fixations"
        advice = (
            "times or durations may be in another unit (name their columns as onset [s] and duration [ms], or say "
            "--time-unit), or two observers have one name"
        )
        warnings.warn(f"{where} an observer of {gaze} is in several places at once: {advice}.", stacklevel=2)
    if counts[OUTSIDE_FRAME] > SUSPICIOUS * sum(map(len, table.rows.values())):
        where = f"Of {gaze}, {amount(counts[OUTSIDE_FRAME], 'row')} outside the frame"
        advice = "x and y may be pixels of the screen, or of another size of the video; look at salfom data show"
        warnings.warn(f"{where}: {advice}.", stacklevel=2)
    dropped = {NO_NUMBER: table.incomplete} | {reason: counts[reason] for reason in (OUTSIDE_FRAME, OUTSIDE_VIDEO)}
    splits = {place: made[place] for place in GazeFolder.OFFICIAL if place in made}
    return Made(splits, counts["frames"], counts["rows"], counts["fixations"], dropped, len(whose))
