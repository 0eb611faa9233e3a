"""Scoring of a whole dataset: in units that are kept as soon as they are done, in one process or several."""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from tqdm import tqdm

from ..data.clips import LazyList, lazy_row
from ..files import atomic_output
from ..inference.sliding_window import batched
from .baselines import Center
from .methods import EvaluationError, Method
from .scoring import VERSION, Protocol, Scorer, Scores, chosen_frames, frame_counts

STILLS_AT_ONCE = 10  # images per unit of work

SETTINGS = "settings.json"
REPORTS = ("results.json", "videos.csv", "frames.png")  # beside the scores of each video


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
    if len(unlabelled) == len(dataset):
        raise EvaluationError(
            "This split comes without density and fixation maps, so it cannot be scored here; write its maps for the "
            "DHF1K server with `salfom submit`, or name another split."
        )
    if unlabelled:
        raise EvaluationError(
            f"{len(unlabelled)} of {len(dataset)} videos lack density or fixation maps, such as {unlabelled[0]}; name "
            "a split that has them for every frame."
        )


def light_rows(dataset: Dataset, columns: list[str]) -> Iterator[dict]:
    """Some columns of all rows; lists of files, which may be held in the rows, are not read until they are used."""
    light = dataset.select_columns(columns).with_format("arrow")
    return (lazy_row(light[index]) for index in range(len(light)))


@dataclass(frozen=True)
class Job:
    """Rows that the method of this name is scored on, and the file for their records."""

    method: str
    rows: list[int]
    path: Path
    frames: int


def evaluate(
    dataset: Dataset,
    methods: Sequence[Method],
    output: str | os.PathLike,
    protocol: Protocol | None = None,
    *,
    prior: Center | None = None,
    processes: int = 1,
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
        processes: how many work at once, sharing PyTorch's threads.
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
    repeated = [name for name, count in Counter(method.name for method in methods).items() if count > 1]
    if repeated:
        raise EvaluationError(f"Two methods are called {repeated[0]}; name each once.")
    if "information_gain" in protocol.metrics and prior is None:
        raise EvaluationError("Information gain needs a prior to be measured over; name the center.")
    check_dataset(dataset)
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
    claim(output, settings, methods, overwrite)

    jobs = list(planned(dataset, [method.name for method in methods], protocol, output))
    waiting = [job for job in jobs if not job.path.is_file()]
    total = sum(job.frames for job in jobs)
    done = total - sum(job.frames for job in waiting)
    by_name = {method.name: method for method in methods}
    with tqdm(total=total, initial=done, unit="frame", disable=None, dynamic_ncols=True) as bar:
        if processes == 1:
            scorer = Scorer(dataset, protocol, prior)
            for job in waiting:
                score(job, scorer, by_name, bar.update)
        elif waiting:
            run_in_processes(waiting, (dataset, protocol, prior), by_name, min(processes, len(waiting)), bar)
    return [scores_of(method.name, jobs, method.description, method.fingerprint) for method in methods]


def scores_of(name: str, jobs: Sequence[Job], description: str, fingerprint: str) -> Scores:
    records = [record for job in jobs if job.method == name for record in read_json(job.path)]
    return Scores(name, description, fingerprint, records)


def kept_scores(
    dataset: Dataset, methods: Sequence[Method], output: str | os.PathLike, protocol: Protocol
) -> list[Scores]:
    """
    The scores of the other methods in a folder of results: those of earlier runs that are complete.

    Args:
        dataset, methods, output, protocol: as [`evaluate`] was just called with.
    """
    noted_methods = read_json(Path(output, SETTINGS))["methods"]
    jobs = list(planned(dataset, list(noted_methods), protocol, Path(output)))
    left = {method.name for method in methods} | {job.method for job in jobs if not job.path.is_file()}
    return [scores_of(name, jobs, **about) for name, about in noted_methods.items() if name not in left]


def planned(dataset: Dataset, methods: Sequence[str], protocol: Protocol, output: Path) -> Iterator[Job]:
    """The units of work, one video or some stills each, for methods of these names."""
    frames = [len(chosen) for chosen in chosen_frames(frame_counts(dataset), protocol)]
    size = 1 if "num_frames" in dataset.features else STILLS_AT_ONCE
    for name in methods:
        for rows in batched(range(len(dataset)), size):
            path = output / "videos" / folder_name(name) / f"{rows[0]:06d}.json"
            yield Job(name, rows, path, sum(frames[row] for row in rows))


def folder_name(name: str) -> str:
    plain = re.sub(r"[^\w.-]+", "_", name).strip("._")
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def claim(output: Path, settings: dict, methods: Sequence[Method], overwrite: bool) -> None:
    """Note the settings in the folder. Raise an EvaluationError if it holds results of others, or other files."""
    maps = {m.name: {"description": m.description, "fingerprint": m.fingerprint} for m in methods}
    earlier = noted(output / SETTINGS, "methods")
    if earlier and overwrite:
        shutil.rmtree(output / "videos", ignore_errors=True)
        for name in REPORTS:
            (output / name).unlink(missing_ok=True)
    elif earlier:
        earlier_maps = earlier.pop("methods")
        changed = [name for name in {**earlier, **settings} if earlier.get(name) != settings.get(name)]
        changed += [f"the maps of {name}" for name in maps if earlier_maps.get(name, maps[name]) != maps[name]]
        if changed:
            raise EvaluationError(
                f"{output} holds results of other settings ({', '.join(changed)}); choose another --output or pass "
                "--overwrite."
            )
        maps = {**earlier_maps, **maps}
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise EvaluationError(f"{output} holds other files; choose a new folder for the results.")
    write_json(output / SETTINGS, {**settings, "methods": maps})


def digest_of(dataset: Dataset) -> str:
    """
    Text that changes with what is scored against: names and sizes of all rows, and the fixations of stills or, of
    videos, the files of three frames. Where these lie does not matter: a run may be resumed on another machine.
    """
    stills = ["image_id", "width", "height", "fixation_x", "fixation_y", "observer"]
    videos = ["video_id", "width", "height", "num_frames", "frames", "maps", "fixations"]
    digest = hashlib.sha256()
    for row in light_rows(dataset, videos if "video_id" in dataset.features else stills):
        files = [row.pop(name) for name in ("frames", "maps", "fixations") if name in row]
        digest.update(repr([list(value) if isinstance(value, LazyList) else value for value in row.values()]).encode())
        for part in files:
            for frame in sorted({0, len(part) // 2, len(part) - 1}) if part else ():
                file = part[frame]
                digest.update(Path(file["path"]).read_bytes() if file["bytes"] is None else file["bytes"])
    return digest.hexdigest()[:16]


def noted(path: Path, key: str) -> dict | None:
    """What an earlier run has noted in a file, with this key; None for other files."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and key in content else None


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    with atomic_output(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def score(job: Job, scorer: Scorer, methods: dict[str, Method], advance: Callable[[int], None]) -> None:
    write_json(job.path, [scorer.score(methods[job.method], row, advance) for row in job.rows])


def run_in_processes(
    jobs: Sequence[Job], to_score: tuple, methods: dict[str, Method], processes: int, bar: tqdm
) -> None:
    threads = max(1, torch.get_num_threads() // processes)
    # Long videos first: the processes then finish at about the same time.
    jobs = sorted(jobs, key=lambda job: -job.frames)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, start_process, (to_score, methods, threads)) as pool:
        running = {pool.submit(score_in_process, job): job for job in jobs}
        try:
            for future in as_completed(running):
                future.result()
                bar.update(running[future].frames)
        except BrokenProcessPool as error:
            raise EvaluationError(
                "A process was ended, perhaps because memory ran out; run it again with fewer --processes, to "
                "go on where it stopped."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


# What this process, if it is one of several, scores with.
_scorer: Scorer
_methods: dict[str, Method]


def start_process(to_score: tuple, methods: dict[str, Method], threads: int) -> None:
    global _scorer, _methods
    _scorer, _methods = Scorer(*to_score), methods
    torch.set_num_threads(threads)
    # Each process loads the model anew; its bars would run across that of the whole.
    transformers.logging.disable_progress_bar()
    # Or it would outlive a parent that is killed.
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def score_in_process(job: Job) -> None:
    score(job, _scorer, _methods, lambda frames: None)
