"""`salfom predict`: videos in, saliency out."""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..errors import VideoError, advice_for, is_out_of_memory, is_sentence
from ..files import check_free, may_be_folder
from ..inference.profiling import Profile, speed
from ..inference.results import FORMATS, check_name, default_output, inputs_of, write
from ..models.names import KNOWN, local
from ..video.drawing import COLORMAPS
from ..video.reading import READ_IMAGES, VIDEO_SUFFIXES, probe
from .common import FAILURE, UsageError, add_model_options, in_words, load_predictor, not_negative, report, some_path

if TYPE_CHECKING:
    from ..inference.predictor import SaliencyFrame

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


def add(commands) -> None:
    command = commands.add_parser(
        "predict",
        help="videos in, saliency out",
        description="Predict saliency for videos, images, folders of images, or folders of videos.",
    )
    command.add_argument("videos", nargs="+", type=some_path, metavar="VIDEO")
    # A text, which may end in a slash.
    command.add_argument("-o", "--output", help="file, or folder (such as results/) for several inputs")
    add_options(command)
    command.add_argument("--profile", action="store_true", help="print a table of where the time goes")
    command.set_defaults(run=predict)


def add_options(command: argparse.ArgumentParser) -> None:
    """What is predicted of each video, how, and what is written."""
    command.add_argument("--format", choices=FORMATS, default="overlay", help="default: %(default)s")
    command.add_argument("--model", default="salfom", help=f"{', '.join(KNOWN)}, a folder, or a Hub name")
    add_model_options(command)
    command.add_argument("--colormap", choices=tuple(COLORMAPS), default="turbo")
    command.add_argument("--start", type=not_negative, default=0.0, help="seconds to skip")
    command.add_argument("--duration", type=not_negative, help="seconds to process")
    command.add_argument("--overwrite", action="store_true", help="replace existing outputs")


class Skipped(defaultdict[str, list[Path]]):
    """What folders hold that might be wanted and is not predicted, by the reason why."""

    def __init__(self):
        super().__init__(list)

    def say(self) -> None:
        """Print a line for each reason, with an example."""
        for reason, paths in self.items():
            more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
            print(f"salfom: skipped {paths[0]}{more}: {reason}.", file=sys.stderr)


def sources(path: Path, skipped: Skipped, further: Iterable[str] = ()) -> list[Path]:
    """
    What one argument stands for: a file, a folder of images (one video), or every video in a folder.

    Args:
        skipped: gets what the folder holds besides, but for hidden files and those that are surely no media.
        further: inputs elsewhere whose results may be in the folder: stems of files, names of folders of images.
    """
    try:
        if not path.is_dir():
            return [path]
        beside = [file for file in sorted(path.iterdir()) if not file.name.startswith(".")]
        files = {file: file.suffix.lower() for file in beside if file.is_file()}
    except OSError as error:
        raise UsageError(f"Cannot read the folder {path} ({error.strerror}); check its permissions.") from error
    inputs = {*input_names(path, files), *(file.name for file in beside if file not in files), *further}
    images = [file for file, suffix in files.items() if suffix in READ_IMAGES]
    videos = []
    for file, suffix in files.items():
        if suffix not in VIDEO_SUFFIXES:
            if suffix not in READ_IMAGES | OTHER_SUFFIXES:
                skipped[UNKNOWN].append(file)
        # What an earlier run wrote beside its inputs is no input of the next one.
        elif is_result(file.stem, inputs):
            skipped[RESULT].append(file)
        else:
            videos.append(file)
    if videos and (unused := [file for file in images if not is_result(file.stem, inputs)]):
        skipped[IMAGES] += unused
    if not videos and not images:
        raise UsageError(f"The folder {path} holds no videos and no images; name a video or another folder.")
    return videos or [path]


def input_names(folder: Path, files: Collection[Path]) -> set[str]:
    """What results of files in a folder are called after: their stems; and the folder, if images make it a video."""
    is_video = any(file.suffix.lower() in READ_IMAGES for file in files)
    return {file.stem for file in files}.union([folder.resolve().name] if is_video else [])


def is_result(stem: str, inputs: set[str]) -> bool:
    """Whether a file of this stem has the name of a result for one of the inputs, given as stems or folders' names."""
    return any(stem.endswith(f"_{name}") and stem.removesuffix(f"_{name}") in inputs for name in FORMATS)


def outputs(videos: list[Path], output: str | None, output_format: str) -> Iterator[Path]:
    """The output of each video."""
    several = len(videos) > 1
    named_folder = output is not None and may_be_folder(output)
    if several and output is not None and not named_folder:
        raise UsageError(f"{len(videos)} inputs cannot all be written to {output}; name a folder.")
    for video in videos:
        place = default_output(video, output_format)
        into_folder = named_folder and (several or output_format != "maps")
        yield Path(output, place.name) if into_folder else Path(output or place)


def predict(args: argparse.Namespace) -> int:
    videos: list[Path] = []
    failures, skipped = 0, Skipped()
    for path in args.videos:
        try:
            videos += sources(path, skipped)
        except UsageError as error:
            failures += report(error)
    skipped.say()
    if not videos:
        return FAILURE
    jobs = list(zip(videos, outputs(videos, args.output, args.format), strict=True))
    inputs = inputs_of(videos, *local(args.model))
    predictor = None
    written: set[Path] = set()
    for video, output in jobs:
        try:
            if output in written:
                raise VideoError(f"{video} and another input would both be written to {output}; predict it by itself.")
            written.add(output)
            check_free(output, args.overwrite, inputs)
            if args.output is not None and output == Path(args.output):
                check_name(args.output, args.format)
            with failing_alone(video):
                info = probe(video)
                predictor = predictor or load_predictor(args.model, args)
                predict_one(predictor, info, output, args)
        except VideoError as error:
            failures += report(error)
    return FAILURE if failures else 0


@contextmanager
def failing_alone(video: Path) -> Iterator[None]:
    """
    Tell what goes wrong with one video, so that others can go on, from what goes wrong with all.

    Raises:
        VideoError: this video cannot be predicted.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise VideoError(f"Out of memory for {video}; lower --batch-size or use another --device.") from error
        if is_sentence(error):
            raise VideoError(str(error)) from error
        if isinstance(error, OSError):
            raise VideoError(f"Cannot predict {video} ({error}); {advice_for(error, 'try again')}.") from error
        if isinstance(error, ValueError):
            raise VideoError(f"Cannot predict {video}: {in_words(error)}") from error
        raise


class SpeedBar(tqdm):
    """
    A progress bar that says how fast frames are predicted, also in comparison with the video itself.

    Args:
        frame_rate: of the video, in frames per second.
    """

    def __init__(self, frame_rate: Fraction, *args, **options):
        self.frame_rate = frame_rate
        bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
        super().__init__(*args, bar_format=bar_format, **options)

    @property
    def format_dict(self) -> dict:
        values = super().format_dict
        if values["n"] and values["elapsed"]:
            values["postfix"] = speed(values["n"], values["elapsed"], self.frame_rate)
        return values


def predict_one(predictor, info, output: Path, args: argparse.Namespace) -> None:
    total = info.num_frames
    if total is not None and (args.start or args.duration is not None):
        length = total / info.frame_rate - args.start
        total = max(0, round(min(length, length if args.duration is None else args.duration) * info.frame_rate))
    count, begin = 0, time.perf_counter()
    profile = Profile() if args.profile else None
    with (
        closing(predictor.stream(info.path, args.start, args.duration)) as frames,
        SpeedBar(info.frame_rate, frames, total=total, desc=info.path.name, disable=None, dynamic_ncols=True) as bar,
        profile or nullcontext(),
    ):

        def counted() -> Iterator[SaliencyFrame]:
            nonlocal count
            for frame in bar:
                count += 1
                yield frame

        write(counted(), output, args.format, info, args.colormap, args.start, args.duration, args.overwrite)
    seconds = time.perf_counter() - begin
    print(f"{info.path} -> {output}" + (f" ({speed(count, seconds, info.frame_rate)})" if count > 1 else ""))
    if profile is not None:
        print(profile.table(count, seconds, info.frame_rate), file=sys.stderr)
