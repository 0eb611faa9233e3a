"""`salfom evaluate`, `steadiness` and `submit`: scores on gaze, how steady maps are, maps for the DHF1K server."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from ..errors import advice_for, is_out_of_memory
from ..files import Inputs, check_free, check_suffix
from ..inference.many import Skipped, sources
from ..inference.results import inputs_of
from ..models.names import KNOWN, local
from .common import UsageError, add_model_options, at_least_one, load_predictor, not_negative, some_path, whole_number
from .data import DATASETS, add_skip_invalid, reporting

# Where there are several splits and none is named; others are scored on "test".
SPLITS = {"dhf1k": "val", "stills": "dev", "gazefolder": "validation"}
STOPPED = "finished videos are kept: run the same command again to go on"


def add(commands) -> None:
    command = commands.add_parser(
        "evaluate",
        help="score models, others' maps and baselines on a gaze dataset",
        description="Score models, maps that others have made, and baselines on a gaze dataset, side by side. Each "
        "video's scores are kept in the output folder: the same command goes on where it was stopped, and methods can "
        "be added later.",
    )
    command.add_argument("--dataset", required=True, choices=DATASETS, metavar="NAME", help=", ".join(DATASETS))
    command.add_argument("--data-dir", required=True, type=some_path, help="folder of the dataset")
    command.add_argument(
        "--split",
        help="default: the only one there is, or val (dhf1k), dev (stills), validation (gazefolder), else test",
    )
    add_skip_invalid(command)
    command.add_argument(
        "-o", "--output", type=some_path, help="folder of the results; default: evaluation_DATASET_SPLIT"
    )
    add_models(command)
    command.add_argument(
        "--baseline",
        action="append",
        default=[],
        help="center (density of the training split's fixations, or a Gaussian if there is none), spectral-residual, "
        "or for stills inter-observer; may be repeated",
    )
    command.add_argument(
        "--predictions",
        action="append",
        default=[],
        type=some_path,
        metavar="DIR",
        help="maps made by any model, as DIR/VIDEO/FRAME.png (or .jpg, .npy), DIR/VIDEO.npz with the array 'maps', or "
        "for stills DIR/IMAGE.png; or the output folder of salfom predict --format maps or npz; may be repeated",
    )
    command.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="auc_judd, auc_shuffled, auc_shuffled_exact, nss, cc, sim, kldiv, information_gain; default: all but "
        "auc_shuffled_exact, information_gain",
    )
    command.add_argument(
        "--blur",
        type=not_negative,
        default=0.0,
        metavar="SIGMA",
        help="blur every map before it is scored; 2 is the field's 11x11 kernel",
    )
    command.add_argument(
        "--max-frames", type=at_least_one, help="score so many random frames; the official script: 50000"
    )
    command.add_argument(
        "--seed", type=whole_number, default=0, help="of random frames and of shuffled AUC, default 0"
    )
    command.add_argument("--processes", type=at_least_one, default=1, help="how many work at once, default 1")
    add_model_options(command)
    command.add_argument("--overwrite", action="store_true", help="forget what the output folder holds")
    command.set_defaults(run=lambda args: reporting(evaluate, args), stopped=STOPPED)

    command = commands.add_parser(
        "steadiness",
        help="how much maps change from frame to frame",
        description="Mean correlation (CC) of the maps of consecutive frames, for each video; no gaze is needed.",
    )
    command.add_argument(
        "videos", nargs="+", type=some_path, metavar="VIDEO", help="a video, or a folder of videos or images"
    )
    add_models(command)
    add_model_options(command)
    command.add_argument("--start", type=not_negative, default=0.0, help="seconds to skip")
    command.add_argument("--duration", type=not_negative, help="seconds to process")
    command.add_argument("-o", "--output", type=some_path, metavar="FILE.json", help="write the numbers there too")
    command.add_argument("--overwrite", action="store_true", help="replace an existing output")
    command.set_defaults(run=lambda args: reporting(steadiness, args))

    command = commands.add_parser(
        "submit",
        help="maps for the DHF1K server",
        description="Write the maps of DHF1K's test videos as its server wants them, OUTPUT/0701/0001.png and so on, "
        "and check them. The same command goes on where it was stopped, and writes anew what does not pass the check.",
    )
    command.add_argument("--data-dir", required=True, type=some_path, help="folder of DHF1K")
    command.add_argument("--split", default="test", help="default: %(default)s")
    command.add_argument("-o", "--output", type=some_path, default=Path("submission"), help="default: %(default)s")
    command.add_argument("--model", default="salfom", help=f"{', '.join(KNOWN)}, a folder, or a Hub name")
    add_model_options(command)
    command.add_argument("--check", type=some_path, metavar="DIR", help="only check this folder, whoever made it")
    command.add_argument("--overwrite", action="store_true", help="write all videos anew")
    command.set_defaults(run=lambda args: reporting(submit, args), stopped=STOPPED)


def add_models(command: argparse.ArgumentParser) -> None:
    """Which models, side by side."""
    command.add_argument(
        "--model", action="append", default=[], help=f"{', '.join(KNOWN)}, a folder, or a Hub name; may be repeated"
    )
    command.add_argument(
        "--last-frame-alone",
        action="store_true",
        help="beside each model with its window, the same model on every frame by itself: what it gains from time",
    )


def center_for(args: argparse.Namespace, dataset):
    """The center baseline: of the training split's fixations, unless that split is missing or itself scored."""
    from ..data import DataError, load
    from ..evaluation import Center

    try:
        training = load(args.dataset, args.data_dir, "train", skip_invalid=args.skip_invalid)
    except DataError:
        return Center(source="the dataset's folder has no training split that can be loaded")
    # A single table of stills is any split that is asked for, so names do not tell.
    if not row_keys(training).isdisjoint(row_keys(dataset)):
        return Center(source="the training split is itself scored")
    return Center.fitted(training, "train", progress=None)


def row_keys(dataset) -> set:
    """What tells the rows of a dataset apart; names may be numbers that begin anew in every split."""
    if "video_id" in dataset.features:
        return set(zip(*(dataset[name] for name in ("video_id", "num_frames", "width", "height")), strict=True))
    return set(zip(dataset["image_id"], map(tuple, dataset["fixation_x"]), strict=True))


def models_for(names: Sequence[str], args: argparse.Namespace) -> list:
    """Each model with its window and, if that is asked for, on every frame by itself."""
    from ..evaluation import Model

    kinds = (False, True) if args.last_frame_alone else (False,)
    predictors = [(name, load_predictor(name, args)) for name in names]
    return [Model(name, predictor, alone) for name, predictor in predictors for alone in kinds]


def methods_for(args: argparse.Namespace, dataset) -> list:
    """What the command line names, in the order of models, predictions, baselines."""
    from ..evaluation import BASELINES, InterObserver, Predictions, SpectralResidual

    unknown = [name for name in args.baseline if name not in BASELINES]
    if unknown:
        raise UsageError(f"There is no baseline '{unknown[0]}'; take {', '.join(BASELINES)}.")
    if args.last_frame_alone and args.dataset == "stills":
        raise UsageError("A still is its last frame; leave out --last-frame-alone, or score a dataset of videos.")
    models = args.model or ([] if args.baseline or args.predictions else ["salfom"])
    if args.last_frame_alone and not models:
        raise UsageError("--last-frame-alone needs a --model to score so.")
    make = {
        "center": lambda: center_for(args, dataset),
        "spectral-residual": SpectralResidual,
        "inter-observer": InterObserver,
    }
    return [
        *models_for(models, args),
        *(Predictions(folder) for folder in args.predictions),
        *(make[name]() for name in args.baseline),
    ]


def default_split(args: argparse.Namespace) -> str:
    """The split that the dataset is usually scored on, unless its folder holds a single other one."""
    from ..data import DATASETS, splits_of

    usual, found = SPLITS.get(args.dataset, "test"), splits_of(args.dataset, args.data_dir)
    _, names = DATASETS[args.dataset].official_split(usual)
    return usual if len(found) != 1 or found == names else found[0]


def evaluate(args: argparse.Namespace) -> int:
    from .. import evaluation
    from ..data import load

    split = args.split or default_split(args)
    output = args.output or Path(f"evaluation_{args.dataset}_{split}")
    if args.overwrite:
        Inputs(args.data_dir, *args.predictions, *local(*args.model)).refuse(output)
    dataset = load(args.dataset, args.data_dir, split, skip_invalid=args.skip_invalid)
    about = {"dataset": args.dataset, "split": split}
    metrics = tuple(args.metrics or evaluation.DEFAULT_METRICS)
    try:
        protocol = evaluation.Protocol(metrics, args.blur, args.max_frames, args.seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    with in_one_sentence():
        evaluation.check_dataset(dataset)
        methods = methods_for(args, dataset)
        prior = None
        if "information_gain" in protocol.metrics:
            prior = next((method for method in methods if isinstance(method, evaluation.Center)), None)
            prior = prior or center_for(args, dataset)
        scores = evaluation.evaluate(
            dataset,
            methods,
            output,
            protocol,
            prior=prior,
            processes=args.processes,
            overwrite=args.overwrite,
            progress=None,
            about=about,
        )
        scores += evaluation.kept_scores(dataset, methods, output, protocol)

    stills = args.dataset == "stills"
    unit = ("image" if stills else "video") + ("" if len(dataset) == 1 else "s")
    title = f"{args.dataset}, split {split}: {len(dataset):,} {unit}"
    print(evaluation.table(scores, protocol, title, stills, prior))
    options = ("stride", "batch_size", "device", "dtype", "runtime", "processes")
    run = {"data_dir": str(args.data_dir), "options": {name: getattr(args, name) for name in options}}
    with in_one_sentence():
        evaluation.write_reports(output, scores, protocol, {**about, **run}, prior)
        if evaluation.has_changed(output, "frames.png"):
            named = scores[: len(methods)]
            sheet = evaluation.picture(evaluation.Scorer(dataset, protocol, prior), methods, named)
            if sheet is not None:
                evaluation.save_picture(sheet, output)
    print(f"\n{output} holds {', '.join(name for name in evaluation.REPORTS if (output / name).is_file())}.")
    return 0


def steadiness(args: argparse.Namespace) -> int:
    from ..evaluation import steadiness

    skipped = Skipped()
    videos = list(dict.fromkeys(video for path in args.videos for video in sources(path, skipped)))
    skipped.say()
    if args.output is not None:
        check_suffix(args.output, (".json",), "a JSON file")
        check_free(args.output, args.overwrite, inputs_of(videos, *local(*args.model)))
    values = {}
    with in_one_sentence():
        for model in models_for(args.model or ["salfom"], args):
            values[model.name] = []
            for video in videos:
                maps = model.maps_of_video(video, args.start, args.duration)
                with progress_bar(None, f"{model.name}: {video.name}", maps) as bar:
                    values[model.name].append(steadiness.steadiness(bar))
    names = [str(video) for video in videos]
    print(steadiness.steadiness_table(names, values))
    if args.output is not None:
        options = ("stride", "batch_size", "device", "dtype", "runtime", "start", "duration")
        about = {"options": {name: getattr(args, name) for name in options}}
        steadiness.write_steadiness(args.output, names, values, about, args.overwrite)
    return 0


def submit(args: argparse.Namespace) -> int:
    from ..data import load
    from ..evaluation import Model, check_submission, write_submission

    if args.check is None and args.overwrite:
        Inputs(args.data_dir, *local(args.model)).refuse(args.output)
    dataset = load("dhf1k", args.data_dir, args.split)
    folder = args.check or args.output
    frames = sum(dataset["num_frames"])
    with in_one_sentence():
        if args.check is None:
            method = Model(args.model, load_predictor(args.model, args))
            with progress_bar(frames, folder.name) as bar:
                write_submission(dataset, method, folder, overwrite=args.overwrite, advance=bar.update)
        with progress_bar(frames, "checking") as bar:
            print(check_submission(dataset, folder, bar.update))
    return 0


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Turn what may go wrong while scoring into a `UsageError`."""
    from ..evaluation import EvaluationError

    try:
        yield
    except EvaluationError as error:
        raise UsageError(str(error)) from error
    except (MemoryError, OSError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise UsageError("Out of memory; lower --batch-size or --processes, or use another --device.") from error
        if not isinstance(error, OSError):
            raise
        raise UsageError(f"{error}; {advice_for(error, 'try again')}.") from error


def progress_bar(frames: int | None, what: str, maps: Iterable | None = None) -> tqdm:
    return tqdm(maps, total=frames, unit="frame", desc=what, disable=None, dynamic_ncols=True)
