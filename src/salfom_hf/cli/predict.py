"""`salfom predict`: videos in, saliency out."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..errors import CutOffError, VideoError, is_out_of_memory, is_sentence, until_cut_off
from ..files import may_be_folder
from ..inference import results
from ..inference.many import Skipped, sources
from ..inference.profiling import Profile, speed
from ..models.names import local
from ..video.drawing import COLORMAPS
from ..video.reading import VideoInfo, probe
from .common import (
    COLOURS,
    FAILURE,
    MODEL,
    UsageError,
    add_model_options,
    at_least_one,
    error_in_words,
    load_predictor,
    not_negative,
    report,
    some_path,
)

if TYPE_CHECKING:
    from ..inference.predictor import SaliencyFrame, SaliencyPredictor


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "predict",
        description="Predict where people look in videos, pictures, folders of pictures (each is one video), or "
        "folders of videos. For very many videos there is python -m salfom_hf.predict.",
        example="salfom predict walk.mp4\n"
        "salfom predict walk.mp4 --format csv -o walk.csv --start 10 --duration 5\n"
        "salfom predict walk.mp4 --at 12.5 -o figure.png\n"
        "salfom predict one.mp4 two.mp4 -o results/ --format maps",
    )
    option = command.add_argument
    option("videos", nargs="+", type=some_path, metavar="VIDEO", help="file or folder")
    # A text, which may end in a slash.
    output = "file to write, or folder (such as results/) for several inputs; default: next to each input"
    option("-o", "--output", help=output)
    add_options(command)
    option("--profile", action="store_true", help="print a table of where the time goes")
    command.set_defaults(run=predict)


def add_options(command: argparse.ArgumentParser) -> None:
    """What is predicted of each video, how, and what is written."""
    option = command.add_argument
    option(
        "--format",
        choices=results.FORMATS,
        default="overlay",
        help="overlay (the default): the video with colours where people look, as MP4 or another kind by the output's "
        "name; heatmap: the colours alone; side-by-side: both next to each other; maps: a folder with a grey PNG of "
        "each frame; npz: arrays for NumPy; csv: a table with a row for each frame; png: the heat map of one "
        "moment with a colour bar",
    )
    option("--model", default="salfom", help=MODEL)
    add_model_options(command)
    option("--colormap", choices=tuple(COLORMAPS), default="turbo", help=COLOURS)
    begin = "where to begin, as if the video began there: the first maps of a part know less of what was before"
    option("--start", type=not_negative, default=0.0, metavar="SECONDS", help=begin)
    option("--duration", type=not_negative, metavar="SECONDS", help="how much; default: to the end")
    moment = "one moment, as a picture, for --format overlay, heatmap, side-by-side and png; default of png: 0"
    option("--at", type=not_negative, metavar="SECONDS", help=moment)
    size = "longer side of --format maps and npz; default: as large as the video"
    option("--max-size", type=at_least_one, metavar="PIXELS", help=size)
    option("--overwrite", action="store_true", help="replace existing outputs")


def check_options(args: argparse.Namespace) -> None:
    """Set the moment that is the default; raise a UsageError for an option that what is written has no use for."""
    if args.format == "png" and args.at is None:
        args.at = 0.0
    if args.at is not None and args.format not in results.DRAWINGS:
        formats = ", ".join(results.DRAWINGS)
        raise UsageError(f"--at is for --format {formats}; of {args.format} choose a part by --start and --duration.")
    if args.at is not None and (args.start or args.duration is not None):
        raise UsageError("A picture shows one moment; choose it by --at, without --start and --duration.")
    if args.max_size is not None and args.format not in results.BYTES:
        raise UsageError(f"--max-size is for --format maps and npz, not {args.format}; leave it out.")


def predict(args: argparse.Namespace) -> int:
    check_options(args)
    videos: list[Path] = []
    failures, skipped = 0, Skipped()
    for path in args.videos:
        try:
            videos += sources(path, skipped)
        except VideoError as error:
            failures += report(error)
    skipped.say()
    several, folder = len(videos) > 1, args.output is not None and may_be_folder(args.output)
    if several and args.output is not None and not folder:
        raise UsageError(f"{len(videos)} inputs cannot all be written to {args.output}; name a folder.")
    load = cache(lambda: load_predictor(args.model, args))
    inputs = results.inputs_of(videos, *local(args.model))
    written: set[Path] = set()
    for video in videos:
        output = results.default_output(video, args.format, args.at is not None)
        if folder and (several or args.format != "maps"):
            output = Path(args.output, output.name)
        elif args.output is not None:
            output = Path(args.output)
        try:
            if output in written:
                raise VideoError(f"{video} and another input would both be written to {output}; predict it by itself.")
            written.add(output)
            results.check_output(output, args.format, args.overwrite, inputs, args.at is not None)
            if args.format == "maps" and not may_be_folder(args.output or f"{output}/"):
                raise VideoError(f"Cannot write: {output} is not a folder, which maps need; name another output.")
            predict_one(load, video, output, args)
        except VideoError as error:
            failures += report(error)
    return FAILURE if failures else 0


@contextmanager
def failing_alone(video: Path) -> Iterator[None]:
    """Raise what goes wrong with one video as a `VideoError`, so that others can go on, and all else as it is."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise VideoError(f"Out of memory for {video}; lower --batch-size or use another --device.") from error
        if is_sentence(error):
            raise VideoError(str(error)) from error
        if isinstance(error, RuntimeError):
            raise
        raise VideoError(f"Cannot predict {video}: {error_in_words(error)}") from error


def write_predicted(
    predictor: SaliencyPredictor, info: VideoInfo, output: Path, args: argparse.Namespace, each: Callable[[], None]
) -> None:
    """
    Predict and write what the options say, and call `each` after each frame; of a video that breaks off what there is,
    before that is raised.
    """
    part, ended = (args.start, args.duration), list[CutOffError]()

    def predicted() -> Generator[SaliencyFrame]:
        one = args.at is not None
        for frame in [results.frame_at(predictor, info, args.at)] if one else predictor.stream(info.path, *part):
            yield frame
            each()

    with closing(predicted()) as frames:
        shown = until_cut_off(frames, ended)
        results.write(shown, output, args.format, info, args.colormap, *part, args.overwrite, args.max_size)
    for error in ended:
        raise CutOffError(f"{output} ends early: {error}") from error


def predict_one(load: Callable[[], SaliencyPredictor], video: Path, output: Path, args: argparse.Namespace) -> None:
    """Predict a video, with all that is said of it meanwhile."""
    with failing_alone(video):
        info = probe(video)
        predictor = load()
        total = 1 if args.at is not None else info.num_frames
        if total is not None:
            length = total / info.frame_rate - args.start
            total = max(0, round(min(length, math.inf if args.duration is None else args.duration) * info.frame_rate))
        if args.format in results.BYTES:
            size = results.size_in_words(args.format, info, total, args.max_size)
            smaller = "" if args.max_size else "; --max-size makes it smaller"
            print(f"salfom: {output} takes {size}{smaller}.", file=sys.stderr)
        begin, count, profile = time.perf_counter(), 0, Profile() if args.profile else None
        bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
        bar = tqdm(total=total, desc=video.name, bar_format=bar_format, disable=None, dynamic_ncols=True)

        def each() -> None:
            nonlocal count
            count += 1
            bar.set_postfix_str(speed(count, time.perf_counter() - begin, info.frame_rate), refresh=False)
            bar.update()

        with bar, profile or nullcontext():
            write_predicted(predictor, info, output, args, each)
        seconds = time.perf_counter() - begin
        print(f"{video} -> {output}" + (f" ({speed(count, seconds, info.frame_rate)})" if count > 1 else ""))
        if profile is not None:
            print(profile.table(count, seconds, info.frame_rate), file=sys.stderr)
