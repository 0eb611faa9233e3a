"""`salfom data`: make, pseudo-label, check, look at and export gaze datasets."""

import argparse
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import Inputs, atomic_output, check_free, check_suffix
from ..video.pictures import IMAGE_SUFFIXES
from .common import FAILURE, UsageError, at_least_one, print_traceback, quick_imports, some_path, whole_number

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

# The keys of `DATASETS` in `salfom_hf.data`, which takes a second to import.
DATASET_NAMES = ("dhf1k", "hollywood2", "ucf_sports", "stills", "gazefolder")

# How many videos, or rows of stills, are on a sheet if none are named.
SHEET_VIDEOS, SHEET_ROWS_OF_STILLS = 6, 3

# Kinds of options, and what a table of gaze is.
N: dict[str, Any] = {"type": at_least_one, "metavar": "N"}
PIXELS: dict[str, Any] = {"type": at_least_one, "metavar": "PIXELS"}
GAZE = (
    "a row per fixation or sample of gaze: video (one video needs none), x, y (pixels), time or start and duration or "
    "end (seconds) or frame (from 0), and observer if known; or what EyeLink's and Tobii's programs export"
)


def add(commands: argparse._SubParsersAction) -> None:
    text = "Make, check, look at and export gaze datasets. `salfom data ACTION --help` says more."
    group = commands.add_parser("data", description=text, example="salfom data make videos/ gaze.csv my-dataset")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(run: Callable, text: str, example: str) -> Callable:
        """The `add_argument` of a new action, whose name its example begins with; some arguments several have."""
        texts = {"description": f"{text[0].upper()}{text[1:]}.", "example": f"salfom data {example}"}
        command = actions.add_parser(example.split()[0], help=text, **texts)
        command.set_defaults(run=lambda args: reporting(run, args))
        option = command.add_argument
        if run in (make, pseudo_label):
            option("videos", type=some_path, metavar="VIDEOS", help="folder of videos, or one video")
        else:
            option("dataset", choices=DATASET_NAMES, metavar="DATASET", help=", ".join(DATASET_NAMES))
            what = f"the dataset's folder{', or an export of it' if run is show else ''}"
            option("path", type=some_path, metavar="PATH", help=what)
        if run is make:
            option("gaze", type=some_path, metavar="GAZE.csv", help=GAZE)
        if run in (make, pseudo_label, export):
            option("output", type=some_path, metavar="OUT", help="folder to make")
            option("--overwrite", action="store_true", help="replace an earlier output")
        if run in (show, export):
            add_skip_invalid(command)
        return option

    text = "make a dataset, a gazefolder, of your videos and a table of where people looked"
    option = action(make, text, "make videos/ gaze.csv my-dataset")
    option("--split", choices=("train", "validation", "test"), default="train", help="default: train")
    text = "of the videos for train, how many go to validation; default 0.2, 0 for none; a single video stays whole"
    option("--validation", type=float, metavar="SHARE", help=text)
    option("--seed", type=whole_number, default=0, help="of that choice")
    text = (
        "standard deviation of densities in a video 640 wide, scaled by the video's width; default 12.7, as DHF1K's; "
        "for 1 degree of visual angle: pixels of the video per degree * 640 / width"
    )
    option("--sigma", type=float, metavar="PIXELS", help=text)
    option("--longest", **PIXELS, help="reduce frames to this longest side; default: none is")
    text = "what the table calls these columns, such as video=TRIAL_MOVIE; default: known names are found"
    option("--columns", nargs="+", type=named_column, metavar="OURS=THEIRS", help=text)
    text = (
        "of times whose column does not tell; default: ms in EyeLink's and Tobii's columns, else the unit of the "
        "other of start and duration or end, else s"
    )
    option("--time-unit", choices=("s", "ms", "us"), help=text)
    text = "times count from the first row of each observer and video, not from the beginning of the video"
    option("--from-first-row", action="store_true", help=text)

    text = "make a dataset, a gazefolder, of videos without gaze, with pseudo-labels that an image model draws"
    option = action(pseudo_label, text, "pseudo-label videos/ my-dataset --teacher center.tflite")
    text = "Google's attention-center model; needs the package ai-edge-litert"
    option("--teacher", type=some_path, required=True, metavar="FILE.tflite", help=text)
    option("--every", **N, default=5, help="the teacher labels every N-th frame; labels between are interpolated")
    option("--frames", **N, default=400, help="at most so many from the beginning of each video")
    option("--longest", **PIXELS, default=448, help="reduce frames to this longest side")
    option("--seed", type=whole_number, default=0, help="of the fixations drawn")

    text = "report what is missing in a dataset's folder or does not fit"
    option = action(check, text, "check dhf1k /data/DHF1K")
    option("--split", help="default: all")
    option("--quick", action="store_true", help="read names and headers only, not every image")

    text = "make a picture of frames, density maps and fixations"
    option = action(show, text, "show gazefolder my-dataset -o sheet.png")
    option("--split", help="default: the first one found")
    option("--video", nargs="+", metavar="ID", help="default: some from all over the split")
    option("-o", "--output", type=some_path, help="default: DATASET_SPLIT.png")
    option("--frames", **N, default=5, help="per video, or stills per row")
    option("--overwrite", action="store_true", help="replace an existing picture")

    text = "write shards that hold the files, for the Hub and for streaming to many machines"
    option = action(export, text, "export dhf1k /data/DHF1K dhf1k-parquet")
    option("--split", nargs="+", help="default: all found")
    size = actions.choices["export"].add_mutually_exclusive_group()
    size.add_argument("--max-shard-size", default="500MB", metavar="SIZE", help="default: %(default)s")
    text = "shards per split, with equally many rows: give a multiple of the number of machines"
    size.add_argument("--num-shards", **N, help=text)


def named_column(text: str) -> tuple[str, str]:
    ours, sign, theirs = text.partition("=")
    if not (ours and sign and theirs):
        raise argparse.ArgumentTypeError(f"{text} is not OURS=THEIRS, such as video=TRIAL_MOVIE")
    return ours, theirs


def add_skip_invalid(command: argparse.ArgumentParser) -> None:
    text = "leave out what has errors in the report of `salfom data check`"
    command.add_argument("--skip-invalid", action="store_true", help=text)


def reporting(run: Callable, args: argparse.Namespace) -> int:
    """Run a command; problems with the data are printed as the reports that they are, of several lines."""
    try:
        with quick_imports():
            from ..data import DataError, datasets

        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = lambda message, *_: print(f"salfom: {message}", file=sys.stderr)
            try:
                return run(args)
            except DataError as error:
                print_traceback(error)
                print(f"salfom: {error}", file=sys.stderr)
                return FAILURE
    except ImportError as error:
        raise UsageError(str(error)) from error


def make(args: argparse.Namespace) -> int:
    from ..data import DataError, make_gazefolder

    names = ("split", "seed", "sigma", "longest", "time_unit", "from_first_row", "validation", "overwrite")
    options = {name: value for name in names if (value := getattr(args, name)) is not None}
    options.setdefault("validation", 0.2 if args.split == "train" else 0)
    try:
        made = make_gazefolder(args.videos, args.gaze, args.output, columns=dict(args.columns or ()), **options)
    except DataError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
    return say_made(args, f"{made}")


def pseudo_label(args: argparse.Namespace) -> int:
    from ..data import pseudo_label
    from ..data.report import amount

    options = {name: getattr(args, name) for name in ("every", "frames", "longest", "seed", "overwrite")}
    made = pseudo_label(args.videos, args.output, args.teacher, **options)
    return say_made(args, f"pseudo-labels for {amount(len(made), 'video')}, {amount(sum(made.values()), 'frame')}")


def say_made(args: argparse.Namespace, made: str) -> int:
    print(f"{args.videos} -> {args.output}: {made}.")
    print(f"Look at it: salfom data show gazefolder {shlex.quote(str(args.output))}")
    return 0


def check(args: argparse.Namespace) -> int:
    from ..data import DATASETS

    refuse_export(args.path)
    report = DATASETS[args.dataset].check(args.path, args.split, decode=not args.quick)
    print(report)
    return FAILURE if report.fatal else 0


def refuse_export(path: Path) -> None:
    from ..data import export_info

    if export_info(path) is not None:
        raise UsageError(f"{path} is an export; give the folder of the dataset that it was made from.")


def tables(args: argparse.Namespace, splits: list[str] | None) -> dict:
    """The rows, with paths of files, of the splits asked for, or of all."""
    from ..data import DATASETS

    builder = DATASETS[args.dataset](data_dir=args.path, splits=splits, skip_invalid=args.skip_invalid)
    builder.download_and_prepare()
    return dict(builder.as_dataset())


def show(args: argparse.Namespace) -> int:
    from ..data import export_info, load
    from ..data.contact_sheet import contact_sheet
    from ..data.samples import open_sample

    if args.output is not None:
        check_suffix(args.output, IMAGE_SUFFIXES, "a picture")
        check_output(args.output, args)
    info = export_info(args.path)
    if info is None:
        split, rows = next(iter(tables(args, args.split and [args.split]).items()))
    else:
        split = args.split or info["splits"][0]
        rows = load(args.dataset, args.path, split, streaming=True)
    output = args.output or Path(f"{args.dataset}_{args.split or split}.png")
    if args.output is None:
        check_output(output, args, earlier=True)
    with atomic_output(output, args.overwrite) as temporary:
        contact_sheet(map(open_sample, chosen(rows, split, args)), args.frames).save(temporary)
    print(f"{args.path} -> {output}")
    return 0


def check_output(path: Path, args: argparse.Namespace, earlier: bool = False) -> None:
    """As `check_free`; where an output of an earlier run may be, it is no input though it is among them."""
    inputs = Inputs(args.path)
    if earlier:
        inputs.refuse(path)
    check_free(path, args.overwrite, None if earlier else inputs)


def chosen(rows: "Dataset | IterableDataset", split: str, args: argparse.Namespace) -> Iterable[dict]:
    """The rows named, in that order; else some from all over, or the first of an export, which is read one by one."""
    from datasets import IterableDataset

    from ..data.features import id_column

    if ids := args.video:
        column = id_column(rows.features)
        found = {row[column]: row for row in rows.filter(lambda name: name in ids, input_columns=column)}
        if missing := [name for name in ids if name not in found]:
            where = f"in the split {split}; name others, or none to see some of all"
            raise UsageError(f"There is no {missing[0]} {where}.")
        return [found[name] for name in ids]
    wanted = SHEET_ROWS_OF_STILLS * args.frames if args.dataset == "stills" else SHEET_VIDEOS
    if isinstance(rows, IterableDataset):
        return islice(rows, wanted)
    wanted = min(wanted, len(rows))
    return (rows[(2 * place + 1) * len(rows) // (2 * wanted)] for place in range(wanted))


def export(args: argparse.Namespace) -> int:
    from ..data import export_dataset, export_info

    check_output(args.output, args, earlier=export_info(args.output) is not None)
    refuse_export(args.path)
    splits = tables(args, args.split)
    sizes = {"max_shard_size": args.max_shard_size, "num_shards": args.num_shards}
    try:
        export_dataset(splits, args.output, args.dataset, **sizes, overwrite=args.overwrite)
    except ValueError as error:
        raise UsageError(f"{args.max_shard_size} is no size; give one such as 500MB.") from error
    print(f"{args.path} -> {args.output}: {', '.join(f'{split} {len(rows)}' for split, rows in splits.items())}")
    return 0
