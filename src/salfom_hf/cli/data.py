"""`salfom data`: make, pseudo-label, check, look at and export gaze datasets."""

import argparse
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import Inputs, atomic_output, check_free, check_suffix
from ..video.pictures import IMAGE_SUFFIXES
from .common import FAILURE, UsageError, at_least_one, print_traceback, some_path, whole_number

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

# Named here as well as in `salfom_hf.data`, which takes a second to import.
DATASETS = ("dhf1k", "hollywood2", "ucf_sports", "stills", "gazefolder")

EXAMPLES = {
    "make": "salfom data make videos/ gaze.csv my-dataset",
    "pseudo-label": "salfom data pseudo-label videos/ my-dataset --teacher center.tflite",
    "check": "salfom data check dhf1k /data/DHF1K",
    "show": "salfom data show gazefolder my-dataset -o sheet.png",
    "export": "salfom data export dhf1k /data/DHF1K dhf1k-parquet",
}

# How many videos, or rows of stills, are on a sheet if none are named.
SHEET_VIDEOS, SHEET_ROWS_OF_STILLS = 6, 3


def add(commands: argparse._SubParsersAction) -> None:
    group = commands.add_parser(
        "data",
        description="Make, check, look at and export gaze datasets. `salfom data ACTION --help` says more.",
        example=EXAMPLES["make"],
    )
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    command = add_action(
        actions, "make", make, "make a dataset, a gazefolder, of your videos and a table of where people looked"
    )
    command.add_argument("videos", type=some_path, metavar="VIDEOS", help="folder of videos, or one video")
    command.add_argument(
        "gaze",
        type=some_path,
        metavar="GAZE.csv",
        help="a row per fixation or sample of gaze: video, x, y (pixels), time or start and duration (seconds) or "
        "frame (from 0), and observer if known; or what EyeLink's and Tobii's programs export",
    )
    add_output_folder(command)
    command.add_argument("--split", choices=("train", "validation", "test"), default="train", help="default: train")
    command.add_argument(
        "--validation",
        type=float,
        metavar="SHARE",
        help="of the videos for train, how many go to validation instead; default 0.2, 0 for none",
    )
    command.add_argument("--seed", type=whole_number, default=0, help="of that choice, default 0")
    command.add_argument(
        "--sigma",
        type=float,
        metavar="PIXELS",
        help="standard deviation of densities in a video 640 wide; default 12.7, as DHF1K's",
    )
    command.add_argument(
        "--longest", type=at_least_one, metavar="PIXELS", help="reduce frames to this longest side; default: none is"
    )
    command.add_argument(
        "--columns",
        nargs="+",
        type=named_column,
        metavar="OURS=THEIRS",
        help="what the table calls these columns, such as video=TRIAL_MOVIE; default: known names are found",
    )
    command.add_argument(
        "--time-unit",
        choices=("s", "ms", "us"),
        help="of times whose column does not tell; default: s, and ms in EyeLink's and Tobii's columns",
    )
    command.add_argument(
        "--from-first-row",
        action="store_true",
        help="times count from the first row of each observer and video, not from the beginning of the video",
    )

    command = add_action(
        actions,
        "pseudo-label",
        pseudo_label,
        "make a dataset, a gazefolder, of videos without gaze, with pseudo-labels that an image model draws",
    )
    command.add_argument("videos", type=some_path, metavar="VIDEOS", help="folder of videos, or one video")
    add_output_folder(command)
    command.add_argument(
        "--teacher",
        type=some_path,
        required=True,
        metavar="FILE.tflite",
        help="Google's attention-center model; needs the package ai-edge-litert",
    )
    for option, default, metavar, text in (
        (
            "--every",
            5,
            "N",
            "the teacher labels every N-th frame, default %(default)s; labels between are interpolated",
        ),
        ("--frames", 400, "N", "at most so many from the beginning of each video, default %(default)s"),
        ("--longest", 448, "PIXELS", "reduce frames to this longest side, default %(default)s"),
    ):
        command.add_argument(option, type=at_least_one, default=default, metavar=metavar, help=text)
    command.add_argument("--seed", type=whole_number, default=0, help="of the fixations drawn, default 0")

    command = add_dataset_action(
        actions, "check", check, "report what is missing in a dataset's folder or does not fit"
    )
    command.add_argument("--split", help="default: all")
    command.add_argument("--quick", action="store_true", help="read names and headers only, not every image")

    command = add_dataset_action(
        actions, "show", show, "make a picture of frames, density maps and fixations", or_export=True
    )
    add_skip_invalid(command)
    command.add_argument("--split", help="default: the first one found")
    command.add_argument("--video", nargs="+", metavar="ID", help="default: some from all over the split")
    command.add_argument("-o", "--output", type=some_path, help="default: DATASET_SPLIT.png")
    command.add_argument(
        "--frames", type=at_least_one, default=5, metavar="N", help="per video, or stills per row; default %(default)s"
    )
    command.add_argument("--overwrite", action="store_true", help="replace an existing picture")

    command = add_dataset_action(
        actions, "export", export, "write shards that hold the files, for the Hub and for streaming to many machines"
    )
    add_output_folder(command)
    add_skip_invalid(command)
    command.add_argument("--split", nargs="+", help="default: all found")
    size = command.add_mutually_exclusive_group()
    size.add_argument("--max-shard-size", default="500MB", metavar="SIZE", help="default: %(default)s")
    size.add_argument(
        "--num-shards",
        type=at_least_one,
        metavar="N",
        help="shards per split, with equally many rows: give a multiple of the number of machines",
    )


def named_column(text: str) -> tuple[str, str]:
    ours, sign, theirs = text.partition("=")
    if not (ours and sign and theirs):
        raise argparse.ArgumentTypeError(f"{text} is not OURS=THEIRS, such as video=TRIAL_MOVIE")
    return ours, theirs


def add_action(actions: argparse._SubParsersAction, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    description = f"{text[0].upper()}{text[1:]}."
    command = actions.add_parser(name, help=text, description=description, example=EXAMPLES[name])
    command.set_defaults(run=lambda args: reporting(run, args))
    return command


def add_dataset_action(
    actions: argparse._SubParsersAction, name: str, run: Callable, text: str, or_export: bool = False
) -> argparse.ArgumentParser:
    command = add_action(actions, name, run, text)
    command.add_argument("dataset", choices=DATASETS, metavar="DATASET", help=", ".join(DATASETS))
    what = "the dataset's folder" + (", or an export of it" if or_export else "")
    command.add_argument("path", type=some_path, metavar="PATH", help=what)
    return command


def add_output_folder(command: argparse.ArgumentParser) -> None:
    command.add_argument("output", type=some_path, metavar="OUT", help="folder to make")
    command.add_argument("--overwrite", action="store_true", help="replace an earlier output")


def add_skip_invalid(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--skip-invalid", action="store_true", help="leave out what has errors in the report of `salfom data check`"
    )


def reporting(run: Callable, args: argparse.Namespace) -> int:
    """Run a command; problems with the data are printed as the reports that they are, of several lines."""
    try:
        from ..data import DataError, datasets
    except ImportError as error:
        raise UsageError(str(error)) from error
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


def make(args: argparse.Namespace) -> int:
    from ..data import DataError, make_gazefolder

    given = {name: getattr(args, name) for name in ("sigma", "longest", "time_unit", "from_first_row")}
    options = {name: value for name, value in given.items() if value is not None}
    options["columns"] = dict(args.columns or ())
    options["validation"] = args.validation
    if args.validation is None:
        options["validation"] = 0.2 if args.split == "train" else 0
    try:
        made = make_gazefolder(
            args.videos, args.gaze, args.output, split=args.split, seed=args.seed, overwrite=args.overwrite, **options
        )
    except DataError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error
    return say_made(args, f"{made}")


def pseudo_label(args: argparse.Namespace) -> int:
    from ..data import pseudo_label

    options = {name: getattr(args, name) for name in ("every", "frames", "longest", "seed", "overwrite")}
    try:
        made = pseudo_label(args.videos, args.output, args.teacher, **options)
    except ImportError as error:
        raise UsageError(str(error)) from error
    return say_made(args, f"pseudo-labels for {len(made)} videos, {sum(made.values())} frames")


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

    inputs = Inputs(args.path)
    if args.output is not None:
        check_suffix(args.output, IMAGE_SUFFIXES, "a picture")
        check_free(args.output, args.overwrite, inputs)
    info = export_info(args.path)
    if info is None:
        split, rows = next(iter(tables(args, args.split and [args.split]).items()))
    else:
        split = args.split or info["splits"][0]
        rows = load(args.dataset, args.path, split, streaming=True)
    output = args.output or Path(f"{args.dataset}_{args.split or split}.png")
    if args.output is None:
        check_free_or_earlier(output, args.overwrite, inputs)
    wanted = SHEET_ROWS_OF_STILLS * args.frames if args.dataset == "stills" else SHEET_VIDEOS
    with atomic_output(output, args.overwrite) as temporary:
        chosen = named(rows, split, args.video) if args.video else from_all_over(rows, wanted)
        contact_sheet(map(open_sample, chosen), args.frames).save(temporary)
    print(f"{args.path} -> {output}")
    return 0


def check_free_or_earlier(path: Path, overwrite: bool, inputs: Inputs) -> None:
    """As `check_free`, where an output of an earlier run may be, which is no input though it is among them."""
    inputs.refuse(path)
    check_free(path, overwrite)


def named(rows: "Dataset | IterableDataset", split: str, ids: list[str]) -> list[dict]:
    """The rows of these ids, in the order of the ids."""
    from ..data.features import id_column

    column = id_column(rows.features)
    found = {row[column]: row for row in rows.filter(lambda name: name in ids, input_columns=column)}
    if missing := [name for name in ids if name not in found]:
        raise UsageError(f"There is no {missing[0]} in the split {split}; name others, or none to see some of all.")
    return [found[name] for name in ids]


def from_all_over(rows: "Dataset | IterableDataset", wanted: int) -> Iterable[dict]:
    """Rows from all over a table; the first ones of an export, which would have to be read to be skipped."""
    from datasets import IterableDataset

    if isinstance(rows, IterableDataset):
        return islice(rows, wanted)
    wanted = min(wanted, len(rows))
    return (rows[(2 * place + 1) * len(rows) // (2 * wanted)] for place in range(wanted))


def export(args: argparse.Namespace) -> int:
    from ..data import export_dataset, export_info

    check_place = check_free if export_info(args.output) is None else check_free_or_earlier
    check_place(args.output, args.overwrite, Inputs(args.path))
    refuse_export(args.path)
    splits = tables(args, args.split)
    sizes = {"max_shard_size": args.max_shard_size, "num_shards": args.num_shards}
    try:
        export_dataset(splits, args.output, args.dataset, **sizes, overwrite=args.overwrite)
    except ValueError as error:
        raise UsageError(f"{args.max_shard_size} is no size; give one such as 500MB.") from error
    print(f"{args.path} -> {args.output}: {', '.join(f'{split} {len(rows)}' for split, rows in splits.items())}")
    return 0
