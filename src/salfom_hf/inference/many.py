"""Many videos: found in folders and lists, each with the place of its result."""

import codecs
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import VideoError, reason_of, refuse_pipe, reported
from ..files import check_free, is_taken, may_be_folder
from ..video.pictures import READ_IMAGES
from ..video.reading import VIDEO_SUFFIXES
from .results import FORMATS, default_output, inputs_of

Job = tuple[Path, Path]  # a video and its output

# Why something in a folder is skipped.
RESULT = "an earlier run made it; name it to predict it"
UNKNOWN = "folders are not searched for files of that kind; name it to try it"
IMAGES = "the folder's videos are predicted; put images that are a video into a folder of their own"
# Of files that are neither videos nor images: nobody misses them.
OTHER_SUFFIXES = frozenset(
    {
        *(".aac", ".aif", ".aiff", ".flac", ".m4a", ".mid", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"),  # sound
        *(".ass", ".idx", ".sbv", ".srt", ".ssa", ".sub", ".vtt"),  # subtitles
        *(".csv", ".db", ".h5", ".hdf5", ".json", ".jsonl", ".mat", ".npy", ".npz", ".parquet", ".tsv", ".xlsx"),
        *(".bin", ".ckpt", ".onnx", ".pkl", ".pt", ".pt2", ".pth", ".safetensors", ".tflite"),  # models
        *(".cfg", ".ini", ".log", ".toml", ".xml", ".xmp", ".yaml", ".yml"),  # settings
        *(".doc", ".docx", ".htm", ".html", ".md", ".nfo", ".odt", ".pdf", ".rst", ".rtf", ".tex", ".txt"),
        *(".bat", ".ipynb", ".js", ".m", ".ps1", ".py", ".r", ".sh"),  # programs
        *(".7z", ".bz2", ".gz", ".md5", ".rar", ".sha1", ".sha256", ".tar", ".xz", ".zip", ".zst"),  # archives
    }
)


class Skipped(dict[str, list[Path]]):
    """What folders hold that might be wanted and is not predicted, by the reason why."""

    def __init__(self) -> None:
        super().__init__({RESULT: [], UNKNOWN: [], IMAGES: []})

    def say(self) -> None:
        """Print a line for each reason, with an example."""
        for reason, paths in self.items():
            more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
            if paths:
                print(f"salfom: skipped {paths[0]}{more}: {reason}.", file=sys.stderr)


def sources(path: Path, skipped: Skipped, further: Iterable[str] = ()) -> list[Path]:
    """
    What a path stands for: a file, a folder of images (one video), or every video in a folder; a `VideoError` if that
    holds neither. `skipped` gets what else it holds, except hidden files and those that are surely no media; results
    of the `further` inputs elsewhere, as [`input_names`] has them, may be among it.
    """
    with reported(f"Cannot read the folder {path}", "check its permissions"):
        if not path.is_dir():
            return [path]
        within = [file for file in sorted(path.iterdir()) if not file.name.startswith(".")]
        files = {file: file.suffix.lower() for file in within if file.is_file()}
    inputs = {*input_names(path, files), *(file.name for file in within if file not in files), *further}
    # What an earlier run wrote next to its inputs is no input of the next one.
    fresh = {file for file in files if not is_result(file.stem, inputs)}
    videos = [file for file in files if files[file] in VIDEO_SUFFIXES and file in fresh]
    skipped[UNKNOWN] += [file for file in files if files[file] not in VIDEO_SUFFIXES | READ_IMAGES | OTHER_SUFFIXES]
    skipped[RESULT] += [file for file in files if files[file] in VIDEO_SUFFIXES and file not in fresh]
    if videos:
        skipped[IMAGES] += [file for file in files if files[file] in READ_IMAGES and file in fresh]
    elif READ_IMAGES.isdisjoint(files.values()):
        raise VideoError(f"The folder {path} holds no videos and no images; name a video or another folder.")
    return videos or [path]


def input_names(folder: Path, files: Collection[Path]) -> set[str]:
    """What results of files in a folder are called after: their stems; and the folder, if images make it a video."""
    is_video = any(file.suffix.lower() in READ_IMAGES for file in files)
    return {file.stem for file in files}.union([folder.resolve().name] if is_video else [])


def is_result(stem: str, inputs: Collection[str], formats: Collection[str] = FORMATS) -> bool:
    """Whether a file of this stem has the name of a result for one of the inputs, given as stems or folders' names."""
    name, _, made_as = stem.rpartition("_")
    return made_as in formats and name in inputs


def named_by(path: Path) -> list[Path]:
    """
    The paths that a text file names, one per line, relative to its own folder; `#` begins a comment line. Any other
    path stands for itself. A `VideoError` if it cannot be read.
    """
    if path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES | READ_IMAGES:
        return [path]
    refuse_pipe(path)
    with reported(f"Cannot read the list {path}", "give a text file in UTF-8 or UTF-16"), path.open("rb") as file:
        data = file.read(4096)
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        if b"\0" in data and not is_utf16:
            return [path]
        lines = (data + file.read()).decode("utf-16" if is_utf16 else "utf-8-sig").splitlines()
    return [path.parent / line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def videos_under(folder: Path, output: Path, skipped: Skipped, failures: list[str]) -> Iterator[Path]:
    """The videos (folders of images among them) of a folder and all below; `failures` gets what cannot be read."""

    def unread(error: OSError) -> None:
        failures.append(f"Cannot read the folder {error.filename} ({reason_of(error)}); check its permissions.")

    places, inputs = [], set()
    for root, names, files in os.walk(folder, onerror=unread):
        # Hidden folders hold unfinished outputs, and finished ones are no inputs.
        below = [Path(root, name) for name in sorted(names) if not name.startswith(".")]
        names[:] = [path.name for path in below if os.path.abspath(path) != os.path.abspath(output)]
        places.append(Path(root))
        inputs |= input_names(places[-1], [Path(name) for name in files if not name.startswith(".")])
    for place in places:
        if place != folder and is_result(place.name, inputs, ["maps"]):
            skipped[RESULT].append(place)
        else:
            with suppress(VideoError):  # Nothing to predict at this level.
                yield from sources(place, skipped, inputs)


def find(given: Path, output: Path, skipped: Skipped, failures: list[str]) -> Iterator[tuple[Path, Path]]:
    """
    The videos that an argument stands for, each with the subfolder of its output: those below the folder or the list;
    of a path elsewhere, all its folders, which do not depend on what else is asked for.
    """
    root = given if given.is_dir() else given.parent
    for path in named_by(given):
        for video in videos_under(path, output, skipped, failures) if path.is_dir() else [path]:
            # A folder of images that was itself named has no folder within.
            folder = Path() if video == root else Path(os.path.relpath(video, root)).parent
            if ".." in folder.parts:
                folder = Path(os.path.abspath(video)).parent
                folder = folder.relative_to(folder.anchor)
            yield video, folder


def plan(
    given: Path,
    output: str,
    output_format: str,
    overwrite: bool = False,
    others: Iterable[Path] = (),
    moment: bool = False,
) -> tuple[list[Job], list[str], int]:
    """
    What is to be done of a folder, a list or a video, the largest videos first; what cannot be done; and how many
    outputs are there already. The folder of all outputs is a text, which may end in a slash; no output replaces one of
    the `others`, such as the model; for a `moment` it is a picture. A `VideoError` if there are no videos or no such
    folder.
    """
    if not may_be_folder(output):
        raise VideoError(f"The outputs go to a folder, which {output} is not; name another.")
    if not given.exists():
        raise VideoError(f"There is no list, folder or video {given}; check the path.")
    found: dict[Path, Path] = {}
    failures: list[str] = []
    skipped = Skipped()
    for video, folder in find(given, Path(output), skipped, failures):
        place = Path(output) / folder / default_output(video, output_format, moment).name
        other = found.setdefault(place, video)
        if os.path.abspath(other) != os.path.abspath(video):
            failures.append(f"{other} and {video} would both be written to {place}; rename one of them.")
    skipped.say()
    if not found and not failures:
        raise VideoError(f"{given} names no videos and no images; give another list or folder.")
    jobs = []
    inputs = inputs_of([*found.values(), *([] if given.is_dir() else [given])], *others)
    left = {place: video for place, video in found.items() if overwrite or not is_taken(place)}
    for place, video in left.items():
        try:
            check_free(place, overwrite, inputs)
            jobs.append((video, place))
        except VideoError as error:
            failures.append(str(error))
    # Bytes are about in proportion to frames, and known without opening thousands of files.
    return sorted(jobs, key=lambda job: -size_of(job[0])), failures, len(found) - len(left)


def size_of(video: Path) -> int:
    """Bytes of a video file, or of all images of a folder."""
    try:
        return sum(file.stat().st_size for file in (video.iterdir() if video.is_dir() else [video]))
    except OSError:
        return 0  # The process that predicts it says so.
