"""The command `salfom`: a thin layer over the package's functions."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from . import __version__
from .output import FORMATS, default_output, write
from .pretrained import KNOWN, installed
from .render import COLORMAPS
from .video import IMAGE_SUFFIXES, VideoError, probe

VIDEO_SUFFIXES = {
    *(".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf"),
    *(".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
}
FAILURE = 2


class UsageError(Exception):
    """What the user asked for cannot be done; the message is one sentence that says what to do."""


def parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(
        prog="salfom", description="Predict where people look in a video (SalFoM, arXiv 2404.03097)."
    )
    main_parser.add_argument("--version", action="version", version=f"salfom-hf {__version__}")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    predict = commands.add_parser(
        "predict",
        help="videos in, saliency out",
        description="Predict saliency for videos, images, folders of images, or folders of videos.",
    )
    predict.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    predict.add_argument("-o", "--output", type=Path, help="file, or folder for several inputs")
    predict.add_argument("--format", choices=FORMATS, default="overlay", help="default: %(default)s")
    predict.add_argument("--model", default="salfom", help=f"{', '.join(KNOWN)}, a folder, or a Hub name")
    predict.add_argument("--stride", type=at_least_one, default=1, help="run the network on every k-th frame")
    predict.add_argument("--batch-size", type=at_least_one, default=4, help="windows per call, default 4")
    predict.add_argument("--device", help="such as cpu, cuda, cuda:1, mps; default: cuda if there is one, else cpu")
    predict.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    predict.add_argument("--colormap", choices=tuple(COLORMAPS), default="turbo")
    predict.add_argument("--start", type=seconds, default=0.0, help="seconds to skip")
    predict.add_argument("--duration", type=seconds, help="seconds to process")
    predict.add_argument("--overwrite", action="store_true", help="replace existing outputs")

    convert = commands.add_parser(
        "convert",
        help="the authors' weights to a folder for from_pretrained",
        description="Convert a released SalFoM or UMT .pth file to a folder for from_pretrained.",
    )
    convert.add_argument("checkpoint", type=Path)
    convert.add_argument("output", type=Path, nargs="?", help="folder to make")
    convert.add_argument("--install", action="store_true", help="make it the model 'salfom-large' of this user")
    convert.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    return main_parser


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def sources(path: Path) -> list[Path]:
    """What one argument stands for: a file, a folder of images (one video), or every video in a folder."""
    try:
        if not path.is_dir():
            return [path]
        videos = sorted(file for file in path.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file())
        # What an earlier run wrote beside its inputs is no input of the next one.
        videos = [file for file in videos if not file.stem.endswith(tuple(f"_{name}" for name in FORMATS))]
        has_images = any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())
    except OSError as error:
        raise UsageError(f"Cannot read the folder {path} ({error.strerror}); check its permissions.") from error
    if not videos and not has_images:
        raise UsageError(f"The folder {path} holds no videos and no images; name a video or another folder.")
    return videos or [path]


def outputs(videos: list[Path], output: Path | None, output_format: str) -> Iterator[Path]:
    """The output of each video."""
    several = len(videos) > 1
    if several and output is not None and (output.is_file() or output.suffix.lower() in VIDEO_SUFFIXES):
        raise UsageError(f"{len(videos)} inputs cannot all be written to {output}; name a folder.")
    for video in videos:
        place = default_output(video, output_format)
        named_folder = output is not None and (output.is_dir() or not output.suffix) and output_format != "maps"
        into_folder = output is not None and (several or named_folder)
        yield output / place.name if into_folder else output or place


def load_predictor(args: argparse.Namespace):
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    from .predictor import SaliencyPredictor

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"The device '{device}' cannot be used on this machine; try --device cpu.") from error
    try:
        return SaliencyPredictor.from_pretrained(
            args.model, device, getattr(torch, args.dtype), args.stride, args.batch_size
        )
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise UsageError(
            f"Cannot load the model '{args.model}': it is none of {', '.join(KNOWN)}, no folder with a complete "
            "SalFoM model, and no such model on the Hub can be reached."
        ) from error


def predict(args: argparse.Namespace) -> int:
    videos: list[Path] = []
    failures = 0
    for path in args.videos:
        try:
            videos += sources(path)
        except UsageError as error:
            failures += report(error)
    if not videos:
        return FAILURE
    jobs = list(zip(videos, outputs(videos, args.output, args.format), strict=True))
    predictor = None
    written: set[Path] = set()
    for video, output in jobs:
        try:
            if output in written:
                raise VideoError(f"{video} and another input would both be written to {output}; predict it by itself.")
            written.add(output)
            info = probe(video)
            if os.path.lexists(output) and not args.overwrite and not output.is_dir():
                raise VideoError(f"{output} exists already; choose another output or pass --overwrite.")
            predictor = predictor or load_predictor(args)
            predict_one(predictor, info, output, args)
        except (VideoError, ValueError, OSError) as error:
            failures += report(error)
        except RuntimeError as error:
            # PyTorch has no class of its own for a CPU that runs out of memory.
            if "memory" not in str(error):
                raise
            failures += report(UsageError(f"Out of memory for {video}; lower --batch-size or use another --device."))
    return FAILURE if failures else 0


def predict_one(predictor, info, output: Path, args: argparse.Namespace) -> None:
    total = info.num_frames
    if total is not None and (args.start or args.duration is not None):
        length = total / info.frame_rate - args.start
        total = max(0, round(min(length, length if args.duration is None else args.duration) * info.frame_rate))
    frames = predictor.stream(info.path, args.start, args.duration)
    with tqdm(frames, total=total, unit="frame", desc=info.path.name, disable=None, dynamic_ncols=True) as bar:
        write(bar, output, args.format, info, args.colormap, args.start, args.duration, args.overwrite)
    print(f"{info.path} -> {output}")


def convert(args: argparse.Namespace) -> int:
    from .convert import ConversionError, convert_checkpoint

    if (args.output is None) != args.install:
        raise UsageError("Name the folder to make, or pass --install, but not both.")
    try:
        report_of = convert_checkpoint(args.checkpoint, args.output or installed("salfom-large"), args.overwrite)
    except ConversionError as error:
        raise UsageError(str(error)) from error
    print(report_of)
    return 0


def report(error: Exception) -> int:
    """Print an error as one line; the number of failures it is, for counting."""
    print(f"salfom: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 when anything failed."""
    args = parser().parse_args(arguments)
    try:
        return {"predict": predict, "convert": convert}[args.command](args)
    except (UsageError, VideoError) as error:
        report(error)
        return FAILURE
    except KeyboardInterrupt:
        print("salfom: stopped; the unfinished output was removed.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
