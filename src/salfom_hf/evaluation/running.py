"""Scoring of a whole dataset: in units that are kept as soon as they are done, in one process or several."""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from tqdm import tqdm

from ..data.clips import LazyList, lazy_row
from ..files import atomic_output, is_taken
from ..inference.cpu import allowed_cores, keep_freed_memory
from ..inference.sliding_window import batched
from .baselines import Center
from .methods import EvaluationError, Method
from .scoring import RECORD, VERSION, FrameScores, Protocol, Scorer, Scores

# Starting a process takes seconds, in which as many frames are scored.
FRAMES_PER_PROCESS = 500
SECONDS = 15  # from line to line of progress, where there is no terminal

SETTINGS = "settings.json"
REPORTS = ("results.json", "videos.csv", "frames.csv", "frames.png")  # next to the scores of each video


class Job(NamedTuple):
    """Rows, one video or some stills, that the method of this name is scored on, and the file for their records."""

    method: str
    rows: list[int]
    path: Path
    frames: int


def check_dataset(dataset: Dataset) -> None:
    """Raise an EvaluationError if there is nothing to score against."""
    if not len(dataset):
        raise EvaluationError("The dataset has no videos; name another split.")
    if "maps" not in dataset.features:
        return
    unlabelled = [
        row["video_id"]
        for row in light_rows(dataset, ["video_id", "num_frames", "maps", "fixations"])
        if min(len(row[labels] or ()) for labels in ("maps", "fixations")) < row["num_frames"]
    ]
    if unlabelled:
        raise EvaluationError(
            f"{len(unlabelled)} of {len(dataset)} videos lack density or fixation maps, such as {unlabelled[0]}; name "
            "a split that has them for every frame, or write maps for the DHF1K server with `salfom submit`."
        )


def light_rows(dataset: Dataset, columns: list[str]) -> Iterator[dict]:
    """Some columns of all rows; lists of files, which may be held in the rows, are not read until they are used."""
    light = dataset.select_columns(columns).with_format("arrow")
    return (lazy_row(light[index]) for index in range(len(light)))


def evaluate(
    dataset: Dataset,
    methods: Sequence[Method],
    output: str | os.PathLike,
    protocol: Protocol | None = None,
    *,
    prior: Center | None = None,
    processes: int | None = 1,
    overwrite: bool = False,
    about: dict | None = None,
) -> list[Scores]:
    """
    Score methods on a dataset. Each video's scores are kept in `output`, where a stopped run goes on.

    Args:
        dataset: rows of a gaze dataset with labels, such as `load_dhf1k(folder, "val")`.
        methods: what to score; their names differ.
        output: folder of the results; it may hold those of an earlier run with the same settings, of any methods.
        protocol: how to score; the default is [`Protocol`]'s.
        prior: the center that information gain is measured over.
        processes: how many score at once, while models predict in this one; with 1, all is done here. None for one
            per core, or fewer if there is little to score. They import the main module: call from `if __name__ ==
            "__main__"` there.
        overwrite: forget what `output` holds.
        about: more settings that results depend on, such as the name of the dataset.

    Returns:
        One [`Scores`] per method, in order.

    Raises:
        EvaluationError: the dataset has no labels, a method has no maps for it, or `output` holds other results.

    Example:

    ```python
    >>> from salfom_hf import SaliencyPredictor
    >>> from salfom_hf.data import load_dhf1k
    >>> from salfom_hf.evaluation import Center, Model, evaluate
    >>> model = Model("salfom", SaliencyPredictor.from_pretrained("salfom"))
    >>> scores = evaluate(load_dhf1k("DHF1K", split="val"), [model, Center()], "results")
    >>> print(scores[0].mean_over_frames("nss"))
    ```
    """
    protocol, output = protocol or Protocol(), Path(output)
    names = Counter(method.name for method in methods)
    if repeated := [name for name, count in names.items() if count > 1]:
        raise EvaluationError(f"Two methods are called {repeated[0]}; name each once.")
    if "information_gain" in protocol.metrics and prior is None:
        raise EvaluationError("Information gain needs a prior to be measured over; name the center.")
    check_dataset(dataset)
    scorer = Scorer(dataset, protocol, prior)
    if not any(scorer.chosen):
        raise EvaluationError(f"No video has a frame {protocol.first}; choose an earlier one, from 0, as first.")
    for method in methods:
        method.check(dataset)
    settings = {
        **(about or {}),
        "scoring": VERSION,
        "videos": digest_of(dataset),
        **asdict(protocol),
        "metrics": list(protocol.metrics),
        "prior": prior and prior.fingerprint,
    }
    results = [output / name for name in ("videos", *REPORTS)]
    claim(output, output / SETTINGS, settings, methods, overwrite, results)

    jobs = planned(scorer, names, output)
    waiting = [job for job in jobs if not job.path.is_file()]
    total, left = (sum(job.frames for job in some) for some in (jobs, waiting))
    if processes is None:
        processes = min(allowed_cores(), left // FRAMES_PER_PROCESS)
    with frame_bar(total, total - left) as bar:
        run(waiting, methods, scorer, processes, bar.update)
    return [scores_of(jobs, method.name, method.description, method.fingerprint) for method in methods]


def planned(scorer: Scorer, methods: Iterable[str], output: Path) -> list[Job]:
    """The units of work for methods of these names."""
    units = list(batched(range(len(scorer.chosen)), scorer.rows_at_once))
    frames = [sum(len(scorer.chosen[row]) for row in rows) for rows in units]
    return [
        Job(name, rows, output / "videos" / folder_name(name) / f"{rows[0]:06d}.json", count)
        for name in methods
        for rows, count in zip(units, frames, strict=True)
    ]


def folder_name(name: str) -> str:
    plain = re.sub(r"[^\w.-]+", "_", name).strip("._")
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def scores_of(jobs: Sequence[Job], name: str, description: str, fingerprint: str) -> Scores:
    records = []
    for path in (job.path for job in jobs if job.method == name):
        try:
            records += [{key: record[key] for key in RECORD} for record in read_json(path)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvaluationError(f"{path} is damaged; delete it, and run the same command again.") from error
    return Scores(name, description, fingerprint, records)


def kept_scores(
    dataset: Dataset, methods: Sequence[Method], output: str | os.PathLike, protocol: Protocol
) -> list[Scores]:
    """The scores that earlier runs have completed of other methods than those [`evaluate`] was just called with."""
    others = read_json(Path(output, SETTINGS))["methods"]
    jobs = planned(Scorer(dataset, protocol), others, Path(output))
    left = {method.name for method in methods} | {job.method for job in jobs if not job.path.is_file()}
    return [scores_of(jobs, name, **about) for name, about in others.items() if name not in left]


# ------------------------------------------------------------------------------------------- what the folder holds
def claim(
    output: Path, note: Path, settings: dict, methods: Sequence[Method], overwrite: bool, results: Iterable[Path]
) -> None:
    """
    Note in a file what the results in a folder depend on; to overwrite, remove these. Raise an EvaluationError if the
    folder holds results of other settings, or other files.
    """
    maps = {m.name: {"description": m.description, "fingerprint": m.fingerprint} for m in methods}
    earlier = noted(note)
    if earlier is None:
        if other := next(filter(is_taken, (note, output)), None):
            raise EvaluationError(f"{other} is not of an earlier run; choose a new folder as --output.")
    elif overwrite:
        for path in results:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    elif is_taken(output):
        earlier_maps = earlier.pop("methods")
        changed = [name for name in {**earlier, **settings} if earlier.get(name) != settings.get(name)]
        changed += [f"the maps of {name}" for name in maps if earlier_maps.get(name, maps[name]) != maps[name]]
        if changed:
            raise EvaluationError(
                f"{output} holds results of other settings ({', '.join(changed)}); choose another --output or pass "
                "--overwrite."
            )
        maps = {**earlier_maps, **maps}
    write_json(note, {**settings, "methods": maps})


def digest_of(dataset: Dataset) -> str:
    """
    Text that changes with what is scored against: names, sizes and blur of all rows, and the fixations of stills or,
    of videos, the files of three frames. Where these lie does not matter: a run may be resumed on another machine.
    """
    stills = ["image_id", "width", "height", "fixation_x", "fixation_y", "observer"]
    videos = ["sigma"] if "sigma" in dataset.features else []
    videos += ["video_id", "width", "height", "num_frames", "frames", "maps", "fixations"]
    digest = hashlib.sha256()
    for row in light_rows(dataset, videos if "video_id" in dataset.features else stills):
        files = [row.pop(name) for name in videos[-3:] if name in row]
        known = (value for value in row.values() if value is not None)
        digest.update(repr([list(value) if isinstance(value, LazyList) else value for value in known]).encode())
        for part in filter(None, files):
            for frame in sorted({0, len(part) // 2, len(part) - 1}):
                file = part[frame]
                digest.update(Path(file["path"]).read_bytes() if file["bytes"] is None else file["bytes"])
    return digest.hexdigest()[:16]


def noted(path: Path) -> dict | None:
    """What an earlier run has noted in a file; None for other files."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("methods"), dict) else None


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    with atomic_output(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ----------------------------------------------------------------------------------------------- the work itself
def frame_bar(total: int, done: int = 0, what: str = "scored") -> tqdm:
    """Of so many frames: a bar on a terminal; elsewhere, such as in a log, a line now and then."""
    lines = f"salfom: {{n_fmt}} of {{total_fmt}} frames {what}, {{elapsed}}\n"
    times = dict.fromkeys(("delay", "mininterval", "maxinterval"), SECONDS)
    log = {} if sys.stderr.isatty() else {"bar_format": lines, **times}
    return tqdm(total=total, initial=done, desc=what, unit="frame", dynamic_ncols=True, **log)


# A row and what gives scores of frames of it; after all of a job, the job.
Part = tuple[int, Callable[[], FrameScores]]


def run(
    jobs: Sequence[Job], methods: Sequence[Method], scorer: Scorer, processes: int, advance: Callable[[int], Any]
) -> None:
    """
    Score, and write the records of each job when all its frames are scored.

    Models predict in this process, with its threads, frame by frame; a pool of processes scores these maps at the same
    time and, when they are done, whatever needs no model, a video at a time. With one process all is done in this one.
    """
    by_name = {method.name: method for method in methods}
    # Long videos first: the processes then finish at about the same time.
    jobs = sorted(jobs, key=lambda job: (not by_name[job.method].in_main, -job.frames))
    found: defaultdict[int, FrameScores] = defaultdict(dict)
    with ExitStack() as stack:
        pool = None
        if processes > 1 and jobs:
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(processes, context, start_process, (scorer.to_score, by_name))
            stack.callback(pool.shutdown, cancel_futures=True)
        try:
            for part in ahead(parts(jobs, by_name, scorer, pool), 2 * processes if pool else 0):
                if isinstance(part, Job):
                    write_json(part.path, [scorer.record(row, found.pop(row, {})) for row in part.rows])
                else:
                    row, score = part
                    scores = score()
                    found[row] |= scores
                    advance(len(scores))
        except BrokenProcessPool as error:
            raise EvaluationError(
                "A process was ended, perhaps because memory ran out; run it again with fewer --processes, to "
                "go on where it stopped."
            ) from error


def parts(
    jobs: Sequence[Job], methods: dict[str, Method], scorer: Scorer, pool: ProcessPoolExecutor | None
) -> Iterator[Part | Job]:
    for job in jobs:
        method = methods[job.method]
        for row in job.rows:
            sample = scorer.sample(row)
            indices = method.available(sample, scorer.chosen[row])
            if pool and indices and not method.in_main:
                yield row, pool.submit(score_in_process, method.name, row, indices).result
            elif indices:
                for index, saliency in zip(indices, method.finite_maps(sample, indices), strict=True):
                    given = row, [index], [saliency]
                    if pool:
                        yield row, pool.submit(score_in_process, method.name, *given).result
                    else:
                        yield row, partial(scorer.score_frames, method, *given)
        yield job


def ahead(items: Iterable[Part | Job], size: int) -> Iterator[Part | Job]:
    """The items, each taken from where they come when `size` more have been."""
    queue: deque[Part | Job] = deque()
    for item in items:
        queue.append(item)
        if len(queue) > size:
            yield queue.popleft()
    yield from queue


# What this process, one of several, scores with.
_scorer: Scorer
_methods: dict[str, Method]


def start_process(to_score: tuple, methods: dict[str, Method]) -> None:
    global _scorer, _methods
    _scorer, _methods = Scorer(*to_score), methods
    torch.set_num_threads(1)
    keep_freed_memory()
    # Ctrl-C is for the parent, whose end ends this process, too: or it would outlive one that is killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def score_in_process(method: str, *given: Any) -> FrameScores:
    return _scorer.score_frames(_methods[method], *given)
