"""Predict saliency for many videos, shared out over processes, GPUs and machines.

    accelerate launch -m salfom_hf.predict LIST_OR_FOLDER OUT [--format maps] [--OPTION VALUE …]

An output that is there is done: the same command goes on where a run was stopped.
"""

import argparse
import codecs
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import distributed
from tqdm import tqdm

from .errors import needs_extra, reason_of

try:
    import psutil
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list, gather_object, get_int_from_env, parse_flag_from_env
except ImportError as error:
    needed = needs_extra("Sharing videos out", "train")
    if __name__ == "__main__":
        sys.exit(f"salfom: {needed}")
    raise ImportError(needed) from error

from .cli.common import FAILURE, CommandParser, UsageError, at_least_one, in_words, load_predictor, report, some_path
from .cli.predict import RESULT, Skipped, add_options, failing_alone, input_names, sources
from .errors import VideoError, refuse_pipe, reported
from .files import check_free, is_taken, may_be_folder, remove_unfinished
from .inference.predictor import SaliencyFrame
from .inference.processes import OtherProcessError, all_or_none, lost_connection
from .inference.results import default_output, inputs_of, write
from .models.names import local
from .video.reading import READ_IMAGES, VIDEO_SUFFIXES, probe

# Until a process that waits takes the others for lost though they are still connected: some videos take days.
PATIENCE = timedelta(days=20)
TOLD_EVERY = 0.5  # seconds, of progress

LOST = "Another process of this run has ended unexpectedly; run the same command again to go on."
STOPPED = "stopped; finished videos are kept: run the same command again to go on."

Job = tuple[Path, Path]  # a video and its output


def parser() -> argparse.ArgumentParser:
    command = CommandParser(
        prog="salfom_hf.predict",
        description="Predict saliency for many videos, shared out over the processes that accelerate launch starts. "
        "Videos whose output exists are left out: the same command goes on where it was stopped.",
    )
    command.add_argument(
        "videos",
        type=some_path,
        metavar="LIST_OR_FOLDER",
        help="a text file with a path per line, a folder that is searched with all that is in it, or one video",
    )
    # A text, which may end in a slash.
    command.add_argument("output", metavar="OUT", help="folder of the outputs, with the videos' subfolders")
    add_options(command)
    command.add_argument(
        "--threads",
        type=at_least_one,
        help="of each process; default: OMP_NUM_THREADS or, as launchers set that to 1, its share of the cores",
    )
    return command


def encoding_of(data: bytes) -> str | None:
    """How the beginning of a text file is encoded: UTF-16, as Windows may write it, or UTF-8; `None` for no text."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" not in data:
        return "utf-8-sig"
    # Paths are for the most part of characters whose other byte is 0.
    evens, odds = data[::2].count(0), data[1::2].count(0)
    return None if min(evens, odds) or max(evens, odds) < len(data) / 4 else "utf-16-le" if odds else "utf-16-be"


def is_list(path: Path) -> bool:
    """Whether a file is text rather than a video."""
    if not os.path.exists(path) or path.suffix.lower() in VIDEO_SUFFIXES | READ_IMAGES:
        return False
    refuse_pipe(path)
    with reported(f"Cannot read {path}"), path.open("rb") as file:
        return encoding_of(file.read(4096)) is not None


def listed(path: Path) -> list[Path]:
    """
    The paths that a text file names, one per line, relative to its own folder; `#` begins a comment line.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        data = path.read_bytes()
        lines = [line.strip() for line in data.decode(encoding_of(data[:4096])).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"Cannot read the list {path} ({reason_of(error)}); give a text file in UTF-8 or UTF-16."
        ) from error
    return [path.parent / line for line in lines if line and not line.startswith("#")]


def is_folder_of_maps(folder: Path) -> bool:
    """Whether a folder is what a run with `--format maps` writes: grey pictures 0001.png, 0002.png, and so on."""
    if not folder.name.endswith("_maps"):
        return False
    with suppress(OSError):
        names = {name for name in os.listdir(folder) if not name.startswith(".")}
        if names and names == {f"{number:04d}.png" for number in range(1, len(names) + 1)}:
            with Image.open(folder / "0001.png") as image:
                return image.mode == "L"
    return False


def videos_under(folder: Path, output: Path, skipped: Skipped) -> Iterator[Path | UsageError]:
    """The videos (folders of images among them) of a folder and all below; what cannot be looked into is an error."""
    unread: list[OSError] = []
    places, inputs = [], set()
    for place, names, files in os.walk(folder, onerror=unread.append):
        # Hidden folders hold unfinished outputs, and finished ones, such as pictures of maps, are no inputs.
        below = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        below = [path for path in below if os.path.abspath(path) != os.path.abspath(output)]
        made = [path for path in below if is_folder_of_maps(path)]
        if made:
            skipped[RESULT] += made
        names[:] = [path.name for path in below if path not in made]
        places.append(Path(place))
        inputs |= input_names(places[-1], [Path(name) for name in files if not name.startswith(".")])
    for place in places:
        try:
            yield from sources(place, skipped, inputs)
        except UsageError:
            continue  # Nothing to predict at this level.
    for error in unread:
        yield UsageError(f"Cannot read the folder {error.filename} ({reason_of(error)}); check its permissions.")


def find(given: Path, output: Path, skipped: Skipped) -> Iterator[tuple[Path, Path] | UsageError]:
    """
    The videos that an argument stands for, each with the subfolder of its output; and what cannot be found.

    Subfolders are those below the folder or the list; of a path elsewhere, all its folders: they do not depend on
    what else is asked for.
    """
    if given.is_dir() or not is_list(given):
        root, named = given if given.is_dir() else given.parent, [given]
    else:
        root, named = given.parent, listed(given)
    for path in named:
        for video in videos_under(path, output, skipped) if path.is_dir() else [path]:
            if isinstance(video, UsageError):
                yield video
                continue
            # A folder of images that was itself named has no folder within.
            folder = Path() if video == root else Path(os.path.relpath(video, root)).parent
            if ".." in folder.parts:
                folder = Path(os.path.abspath(video)).parent
                folder = folder.relative_to(folder.anchor)
            yield video, folder


def plan(args: argparse.Namespace) -> tuple[list[Job], list[str], int]:
    """
    What is to be done, the largest videos first; what cannot be done; and how many outputs are there already.

    Raises:
        UsageError: there are no videos, or the outputs have no place.
    """
    output = Path(args.output)
    if not may_be_folder(args.output):
        raise UsageError(f"The outputs go to a folder, which {args.output} is not; name another.")
    if not args.videos.exists():
        raise UsageError(f"There is no list, folder or video {args.videos}; check the path.")
    found: dict[Path, Path] = {}
    failures: list[str] = []
    done, skipped = 0, Skipped()
    for each in find(args.videos, output, skipped):
        if isinstance(each, UsageError):
            failures.append(str(each))
            continue
        video, folder = each
        place = output / folder / default_output(video, args.format).name
        other = found.setdefault(place, video)
        if other is not video and os.path.abspath(other) != os.path.abspath(video):
            failures.append(f"{other} and {video} would both be written to {place}; rename one of them.")
    skipped.say()
    if not found and not failures:
        raise UsageError(f"{args.videos} names no videos and no images; give another list or folder.")
    jobs = []
    inputs = inputs_of([*found.values(), *([] if args.videos.is_dir() else [args.videos])], *local(args.model))
    for place, video in found.items():
        if not args.overwrite and is_taken(place):
            done += 1
            continue
        try:
            check_free(place, args.overwrite, inputs)
            jobs.append((video, place))
        except VideoError as error:
            failures.append(str(error))
    # Bytes are about in proportion to frames, and known without opening thousands of files.
    return sorted(jobs, key=lambda job: -size_of(job[0])), failures, done


def size_of(video: Path) -> int:
    """Bytes of a video file, or of all images of a folder."""
    try:
        return sum(file.stat().st_size for file in (video.iterdir() if video.is_dir() else [video]))
    except OSError:
        return 0  # Whoever is to predict it says so.


def start_processes(args: argparse.Namespace) -> PartialState:
    """Connect with the other processes of the run, if there are any; choose this one's device and threads."""
    launched = get_int_from_env(["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"], 1) > 1
    kind = torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"
    # accelerate itself would not connect processes that find no accelerator, or Apple's.
    cpu = "cpu" in (kind, args.device) or parse_flag_from_env("ACCELERATE_USE_CPU") or (launched and kind == "mps")
    # Nothing but small Python objects goes from process to process, and with gloo the end of one is noticed by all.
    state = PartialState(cpu=cpu, **({"backend": "gloo", "timeout": PATIENCE} if launched else {}))
    if args.runtime == "torch":
        args.device = args.device or str(state.device)
    on_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if args.threads or (on_machine > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1"):
        torch.set_num_threads(args.threads or max(1, num_cores() // on_machine))
    return state


def num_cores() -> int:
    """Cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(psutil.cpu_count(logical=False) or allowed, allowed)


def shared_store(state: PartialState) -> distributed.Store:
    """Numbers that all processes of a run count in; the main process keeps them."""
    if state.num_processes == 1:
        return distributed.HashStore()
    connect = partial(distributed.TCPStore, os.environ["MASTER_ADDR"], wait_for_workers=False)
    store = connect(0, is_master=True) if state.is_main_process else None
    (port,) = broadcast_object_list([store and store.port])
    return store or connect(port, is_master=False)


def claimed(jobs: list[Job], store: distributed.Store) -> Iterator[Job]:
    """
    The jobs that this process is to do.

    Each process takes the next one from a common counter when it is free, so none idles however they differ in speed,
    as with shares fixed beforehand. Unlike claims that are files, a crash leaves none behind.
    """
    while (number := store.add("claimed", 1) - 1) < len(jobs):
        yield jobs[number]
        store.add("videos", 1)


def counted(frames: Iterable[SaliencyFrame], store: distributed.Store) -> Iterator[SaliencyFrame]:
    """The frames, counted in the store, which over a network is not asked for every one."""
    fresh, told = 0, time.monotonic()
    for frame in frames:
        yield frame
        fresh += 1
        if time.monotonic() - told > TOLD_EVERY:
            store.add("frames", fresh)
            fresh, told = 0, time.monotonic()
    store.add("frames", fresh)


@contextmanager
def progress(store: distributed.Store, videos: int, shown: bool) -> Iterator[None]:
    """A bar of the videos and frames that all processes together have done."""
    ended = threading.Event()

    def follow(bar: tqdm) -> None:
        last = bar.disable
        while not last:
            last = ended.wait(TOLD_EVERY)
            bar.n = store.add("videos", 0)
            bar.set_postfix_str(f"{store.add('frames', 0):,} frames")

    with tqdm(total=videos, unit="video", disable=None if shown else True, dynamic_ncols=True) as bar:
        # Of its own, for the main process may be at work on its own videos, or wait for the others.
        thread = threading.Thread(target=follow, args=(bar,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def predict_all(jobs: list[Job], predictor, store: distributed.Store, args: argparse.Namespace) -> list[str]:
    """
    Predict this process's part of the videos.

    Returns:
        What went wrong, a sentence for each video that has no output.
    """
    failures = []
    for video, output in claimed(jobs, store):
        try:
            with failing_alone(video), closing(predictor.stream(video, args.start, args.duration)) as stream:
                info, frames = probe(video), counted(stream, store)
                write(frames, output, args.format, info, args.colormap, args.start, args.duration, args.overwrite)
            with tqdm.external_write_mode():
                print(f"{video} -> {output}", flush=True)
        except VideoError as error:
            with tqdm.external_write_mode():
                report(error)
            failures.append(str(error))
    return failures


def predict(args: argparse.Namespace) -> int:
    """
    Returns:
        2 if a video could not be predicted, in the main process.

    Raises:
        UsageError: nothing can be predicted.
        OtherProcessError: another process of the run failed.
    """
    state = start_processes(args)
    planned = [None]
    with all_or_none(state):
        if state.is_main_process:
            jobs, failures, done = plan(args)
            for failure in failures:
                report(UsageError(failure))
            if done:
                there = f"{done:,} of {done + len(jobs):,} outputs exist already"
                print(f"{there} and are kept; --overwrite makes them anew.", flush=True)
            for folder in {output.parent for _, output in jobs}:
                remove_unfinished(folder)
            planned = [(jobs, failures)]
    ((jobs, failures),) = broadcast_object_list(planned)
    if jobs:
        with all_or_none(state):
            predictor = load_predictor(args.model, args)
        store = shared_store(state)
        begin = time.monotonic()
        with progress(store, len(jobs), state.is_main_process):
            failed = predict_all(jobs, predictor, store, args)
            # Also where this process waits for the others: launchers end all when the first one ends with an error.
            failed = gather_object(failed)
    if not state.is_main_process:
        return 0  # Without another look at the store, which ends with the main process.
    if jobs:
        failures += failed
        seconds, num_frames = time.monotonic() - begin, store.add("frames", 0)
        if num_frames:
            rate = num_frames / seconds
            print(f"{num_frames:,} frames in {seconds:.1f} s: {rate:.1f} frames per second", flush=True)
    if failures:
        sentences = "".join(f"\n  {' '.join(failure.split())}" for failure in failures)
        print(f"salfom: {len(failures):,} failed:{sentences}", file=sys.stderr)
    return FAILURE if failures else 0


def stop(number: int, _) -> None:
    """End as with Ctrl-C, so that unfinished outputs are removed; what launchers send after that is too much."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 when anything failed, 130 or 143 when stopped."""
    args = parser().parse_args(arguments)
    # Of what all processes of a machine find out alike, one speaks.
    speaks = os.environ.get("LOCAL_RANK", "0") == "0"
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)
    try:
        return predict(args)
    except OtherProcessError as error:
        if not str(error):
            return 0  # The other one's own message says why, and its exit code that.
        report(UsageError(LOST))
        return FAILURE
    except Exception as error:
        lost = isinstance(error, RuntimeError) and (isinstance(error, distributed.DistError) or lost_connection(error))
        report(UsageError(LOST) if lost else in_words(error))
        return FAILURE
    except KeyboardInterrupt as stopped:
        if speaks:
            print(f"salfom: {STOPPED}", file=sys.stderr)
        return 128 + stopped.args[0]


if __name__ == "__main__":
    sys.exit(main())
