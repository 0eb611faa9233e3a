"""`salfom evaluate` and `salfom submit`: scores on gaze, and maps for the DHF1K server."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import Inputs, atomic_output, remove_unfinished
from ..models.names import KNOWN, local
from .common import UsageError, add_model_options, at_least_one, load_predictor, not_negative, some_path, whole_number
from .data import DATASET_NAMES, add_skip_invalid, reporting

if TYPE_CHECKING:
    from datasets import Dataset

    from ..evaluation.baselines import Center
    from ..evaluation.methods import Method

BASELINES = ("center", "spectral-residual", "inter-observer", "one-observer")
# Where there are several splits and none is named; others are scored on "test".
SPLITS = {"dhf1k": "val", "stills": "dev", "gazefolder": "validation"}
STOPPED = "finished videos are kept: run the same command again to go on"


def add(commands: argparse._SubParsersAction) -> None:
    known = f"{', '.join(KNOWN)}, a folder, or a Hub name"
    command = commands.add_parser(
        "evaluate",
        description="Score models, maps that others have made, and baselines on a gaze dataset, side by side. Each "
        "video's scores are kept in the output folder: the same command continues where it was stopped; methods can "
        "be added later. It writes results.json, videos.csv with a line per method and video, and frames.csv with a "
        "line per method and frame.",
        example="salfom evaluate --dataset gazefolder --data-dir my-dataset --model salfom --baseline center",
    )
    option, several = command.add_argument, partial(command.add_argument, action="append", default=[])
    option("--dataset", required=True, choices=DATASET_NAMES, metavar="NAME", help=", ".join(DATASET_NAMES))
    option("--data-dir", required=True, type=some_path, help="folder of the dataset")
    splits = "default: the only one there is, or val (dhf1k), dev (stills), validation (gazefolder), else test"
    option("--split", help=splits)
    add_skip_invalid(command)
    option("-o", "--output", type=some_path, help="folder of the results; default: evaluation_DATASET_SPLIT")
    several("--model", help=f"{known}; may be repeated")
    alone = "next to each model with its window, the same model on every frame by itself: what it gains from time"
    option("--last-frame-alone", action="store_true", help=alone)
    baselines = (
        "center (density of the training split's fixations, or of the other videos' if there is none), "
        "spectral-residual, inter-observer (half of the observers predict the others) or one-observer (all but one "
        "predict that one, each in turn); may be repeated"
    )
    several("--baseline", choices=BASELINES, metavar="NAME", help=baselines)
    predictions = (
        "maps made by any model, as DIR/VIDEO/FRAME.png (or .jpg, .npy), DIR/VIDEO.npz with the array 'maps', or "
        "for stills DIR/IMAGE.png; or the output folder of salfom predict --format maps or npz; may be repeated"
    )
    several("--predictions", type=some_path, metavar="DIR", help=predictions)
    some = "score the --predictions that there are, and tell how many; default: that some are missing is an error"
    option("--partial", action="store_true", help=some)
    metrics = (
        "auc_judd, auc_shuffled, auc_shuffled_exact, nss, cc, sim, kldiv, information_gain; default: all but "
        "auc_shuffled_exact"
    )
    option("--metrics", nargs="+", metavar="NAME", help=metrics)
    blur = "blur every map before it is scored; 2 is the field's 11x11 kernel"
    option("--blur", type=not_negative, default=0.0, metavar="SIGMA", help=blur)
    option("--first", type=whole_number, default=0, metavar="N", help="score no frame before N, from 0; default 0")
    option("--every", type=at_least_one, default=1, metavar="N", help="score every N-th frame from there, default 1")
    option("--max-frames", type=at_least_one, help="score so many random frames; the official script: 50000")
    option("--seed", type=whole_number, default=0, help="of random frames and of shuffled AUC, default 0")
    processes = (
        "how many score maps at once, while models predict in another; default: one per core, fewer if there is "
        "little to score; 1 does all in one"
    )
    option("--processes", type=at_least_one, help=processes)
    add_model_options(command)
    option("--overwrite", action="store_true", help="forget what the output folder holds")
    command.set_defaults(run=partial(reporting, evaluate), stopped=STOPPED)

    command = commands.add_parser(
        "submit",
        description="Write the maps of DHF1K's test videos as its server wants them, OUTPUT/0701/0001.png and so on, "
        "and check them. The same command continues where it was stopped; delete the folder of a video to have it "
        "written again.",
        example="salfom submit --data-dir /data/DHF1K -o submission\n"
        "salfom submit --data-dir /data/DHF1K --check submission",
    )
    option = command.add_argument
    option("--data-dir", required=True, type=some_path, help="folder of DHF1K")
    option("--split", default="test", help="default: %(default)s")
    option("-o", "--output", type=some_path, default=Path("submission"), help="default: %(default)s")
    option("--model", default="salfom", help=known)
    add_model_options(command)
    option("--check", type=some_path, metavar="DIR", help="only check this folder, made by any program")
    option("--overwrite", action="store_true", help="write all videos again")
    command.set_defaults(run=partial(reporting, submit), stopped=STOPPED)


def center_for(args: argparse.Namespace, dataset: "Dataset") -> "Center":
    """
    The center baseline: of the training split's fixations or, if that split is missing or itself scored, for each
    video those of all others.
    """
    from ..data import DataError, load
    from ..evaluation import Center

    def keys(split: "Dataset") -> set[str]:
        """What identifies rows; names may be numbers that begin again in every split."""
        videos = ("video_id", "num_frames", "width", "height")
        names = videos if "video_id" in split.features else ("image_id", "fixation_x")
        return set(map(repr, zip(*(split[name] for name in names), strict=True)))

    try:
        training = load(args.dataset, args.data_dir, "train", skip_invalid=args.skip_invalid)
    except DataError:
        training = dataset
    # A single table of stills is any split that is asked for, so names do not tell.
    if keys(training).isdisjoint(keys(dataset)):
        return Center.fitted(training, "train")
    return Center.fitted(dataset, "scored", left_out=True) if len(dataset) > 1 else Center(source="one video alone")


def methods_for(args: argparse.Namespace, dataset: "Dataset") -> "list[Method]":
    """What the command line names, in the order of models, predictions, baselines."""
    from ..evaluation import InterObserver, Method, Model, Predictions, SpectralResidual

    if args.partial and not args.predictions:
        raise UsageError("--partial is for maps that others have made; name their folder with --predictions.")
    if args.last_frame_alone and args.dataset == "stills":
        raise UsageError("A still is its last frame; leave out --last-frame-alone, or score a dataset of videos.")
    names = args.model or ([] if args.baseline or args.predictions else ["salfom"])
    if args.last_frame_alone and not names:
        raise UsageError("--last-frame-alone needs a --model to score so.")
    kinds = (False, True) if args.last_frame_alone else (False,)
    predictors = [(name, load_predictor(name, args)) for name in names]
    methods: list[Method] = [Model(name, predictor, alone) for name, predictor in predictors for alone in kinds]
    methods += [Predictions(folder, args.partial) for folder in args.predictions]
    make: dict[str, Callable[[], Method]] = {
        "center": partial(center_for, args, dataset),
        "spectral-residual": SpectralResidual,
        "inter-observer": InterObserver,
        "one-observer": partial(InterObserver, one=True),
    }
    return methods + [make[name]() for name in args.baseline]


def evaluate(args: argparse.Namespace) -> int:
    from .. import data, evaluation

    split = args.split
    if not split:  # The one that the dataset is usually scored on, unless its folder holds a single other one.
        split, found = SPLITS.get(args.dataset, "test"), data.splits_of(args.dataset, args.data_dir)
        if len(found) == 1 and found != data.DATASETS[args.dataset].official_split(split)[1]:
            (split,) = found
    output = args.output or Path(f"evaluation_{args.dataset}_{split}")
    if args.overwrite:
        Inputs(args.data_dir, *args.predictions, *local(*args.model)).refuse(output)
    remove_unfinished(output, below=True)
    dataset = data.load(args.dataset, args.data_dir, split, skip_invalid=args.skip_invalid)
    metrics = tuple(args.metrics or (*evaluation.DEFAULT_METRICS, "information_gain"))
    options = {name: getattr(args, name) for name in ("blur", "first", "every", "max_frames", "seed")}
    protocol = evaluation.Protocol(metrics, **options)
    evaluation.check_dataset(dataset)
    methods, prior = methods_for(args, dataset), None
    if "information_gain" in metrics:
        center = (method for method in methods if isinstance(method, evaluation.Center))
        prior = next(center, None) or center_for(args, dataset)
    about = {"dataset": args.dataset, "split": split}
    given = dataset, methods, output, protocol
    scores = evaluation.evaluate(*given, prior=prior, processes=args.processes, overwrite=args.overwrite, about=about)
    scores += evaluation.kept_scores(*given)

    stills = args.dataset == "stills"
    densities = evaluation.density_text(dataset)
    count = data.report.amount(len(dataset), "image" if stills else "video")
    title = f"{args.dataset}, split {split}: {count}; densities of gaze: {densities}"
    print(evaluation.table(scores, protocol, title, stills, prior))
    how = ("stride", "batch_size", "device", "dtype", "runtime", "processes")
    run = {"data_dir": str(args.data_dir), "options": {name: getattr(args, name) for name in how}}
    evaluation.write_reports(output, scores, protocol, {**about, "densities": densities, **run}, prior)
    picture = evaluation.picture(evaluation.Scorer(dataset, protocol, prior), methods, scores[: len(methods)])
    if picture is not None:
        with atomic_output(output / "frames.png", overwrite=True) as temporary:
            picture.save(temporary)
    print(f"\n{output} holds {', '.join(name for name in evaluation.REPORTS if (output / name).is_file())}.")
    return 0


def submit(args: argparse.Namespace) -> int:
    from ..data import load
    from ..evaluation import Model, check_submission, write_submission

    if args.check is None and args.overwrite:
        Inputs(args.data_dir, *local(args.model)).refuse(args.output)
    dataset = load("dhf1k", args.data_dir, args.split)
    if args.check is None:
        remove_unfinished(args.output, below=True)
        method = Model(args.model, load_predictor(args.model, args))
        write_submission(dataset, method, args.output, overwrite=args.overwrite)
    print(check_submission(dataset, args.check or args.output))
    return 0
