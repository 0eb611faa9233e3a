"""`python -m salfom_hf.predict`: many videos, spread over processes, GPUs and machines.

An output that is there is done: the same command continues where a run was stopped.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from accelerate.utils import broadcast_object_list, gather_object
from torch import distributed
from tqdm import tqdm

from ..errors import VideoError
from ..files import on_signals, remove_unfinished, stop
from ..inference.many import Job, plan
from ..inference.predictor import SaliencyPredictor
from ..inference.processes import OtherProcessError, all_or_none, connect, lost_connection, share_cores, shared_store
from ..models.names import local
from ..video.reading import probe
from .common import FAILURE, CommandParser, UsageError, at_least_one, error_in_words, load_predictor, report, some_path
from .predict import add_options, check_options, failing_alone, write_predicted

TOLD_EVERY = 0.5  # seconds, of progress

LOST = "Another process of this run has ended unexpectedly; run the same command again to go on."
STOPPED = "stopped; finished videos are kept: run the same command again to go on."


def parser() -> argparse.ArgumentParser:
    command = CommandParser(
        prog="salfom_hf.predict",
        description="Predict where people look in many videos, spread over the processes that accelerate launch "
        "starts. Videos whose output exists are left out: the same command continues where it was stopped.",
        example="python -m salfom_hf.predict videos/ results/ --format csv\n"
        "accelerate launch -m salfom_hf.predict list.txt results/ --format maps",
    )
    option = command.add_argument
    videos = "a text file with a path per line, a folder that is searched with all that is in it, or one video"
    option("videos", type=some_path, metavar="LIST_OR_FOLDER", help=videos)
    # A text, which may end in a slash.
    option("output", metavar="OUT", help="folder of the outputs, with the videos' subfolders")
    add_options(command)
    threads = "of each process; default: OMP_NUM_THREADS or, as launchers set that to 1, its share of the cores"
    option("--threads", type=at_least_one, metavar="N", help=threads)
    return command


def predict_own(
    jobs: list[Job], predictor: SaliencyPredictor, store: distributed.Store, bar: tqdm, args: argparse.Namespace
) -> list[str]:
    """Predict this process's part of the videos; a sentence for each that has no output."""

    fresh, told, failures = 0, time.monotonic(), []

    def counted() -> None:
        """Count in the store, which over a network is not asked for every frame; the bar tells all counts."""
        nonlocal fresh, told
        fresh += 1
        if time.monotonic() - told > TOLD_EVERY:
            bar.set_postfix_str(f"{store.add('frames', fresh):,} frames", refresh=False)
            bar.n = store.add("videos", 0)
            bar.refresh()
            fresh, told = 0, time.monotonic()

    # Each process takes the next one from a common counter when it is free, so none idles however they differ in
    # speed. Unlike claims that are files, a crash leaves none behind.
    while (number := store.add("claimed", 1) - 1) < len(jobs):
        video, output = jobs[number]
        try:
            with failing_alone(video):
                write_predicted(predictor, probe(video), output, args, counted)
            with tqdm.external_write_mode():
                print(f"{video} -> {output}", flush=True)
        except VideoError as error:
            with tqdm.external_write_mode():
                report(error)
            failures.append(str(error))
        bar.n = store.add("videos", 1)
        bar.refresh()
    store.add("frames", fresh)
    return failures


def predict(args: argparse.Namespace) -> int:
    """The exit code: 2 in the main process if a video could not be predicted."""
    check_options(args)
    state = connect(args.device)
    if args.runtime == "torch":
        args.device = args.device or str(state.device)
    share_cores(args.threads)
    jobs, failures = list[Job](), list[str]()
    with all_or_none(state):
        if state.is_main_process:
            jobs, failures, done = plan(
                args.videos, args.output, args.format, args.overwrite, local(args.model), args.at is not None
            )
            for failure in failures:
                report(UsageError(failure))
            if done:
                there = f"{done:,} of {done + len(jobs):,} outputs exist already"
                print(f"{there} and are kept; --overwrite makes them again.", flush=True)
            remove_unfinished(Path(args.output), below=True)
    (jobs,) = broadcast_object_list([jobs])
    if jobs:
        with all_or_none(state):
            predictor = load_predictor(args.model, args)
        store = shared_store(state)
        begin = time.monotonic()
        shown = None if state.is_main_process else True  # In a terminal only.
        with tqdm(total=len(jobs), unit="video", disable=shown, dynamic_ncols=True) as bar:
            failed = predict_own(jobs, predictor, store, bar, args)
            # Also where this process waits for the others: launchers end all when the first one ends with an error.
            failed = gather_object(failed)
            bar.n = len(jobs)
        if not state.is_main_process:
            return 0  # Without another look at the store, which ends with the main process.
        failures += failed
        seconds, num_frames = time.monotonic() - begin, store.add("frames", 0)
        if num_frames:
            rate = num_frames / seconds
            print(f"{num_frames:,} frames in {seconds:.1f} s: {rate:.1f} frames per second", flush=True)
    if failures:
        sentences = "".join(f"\n  {' '.join(failure.split())}" for failure in failures)
        print(f"salfom: {len(failures):,} failed:{sentences}", file=sys.stderr)
    return FAILURE if failures else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 when anything failed, 128 + the signal when stopped."""
    args = parser().parse_args(arguments)
    try:
        with on_signals(stop):
            return predict(args)
    except Exception as error:
        if isinstance(error, OtherProcessError) and not str(error):
            return 0  # The other one's own message says why, and its exit code that.
        lost = isinstance(error, (OtherProcessError, distributed.DistError)) or (
            isinstance(error, RuntimeError) and lost_connection(error)
        )
        report(UsageError(LOST) if lost else error_in_words(error))
        return FAILURE
    except KeyboardInterrupt as stopped:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # Of all that find it out on a machine, one speaks.
            print(f"salfom: {STOPPED}", file=sys.stderr)
        return 128 + stopped.args[0]
