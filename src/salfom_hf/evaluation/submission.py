"""The folder that the DHF1K server scores: one grey PNG per test frame, in a folder per video."""

import os
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm

from ..data.layout import examined_image
from ..data.samples import GazeVideo
from ..data.video_folders import DHF1K, split_of
from ..files import atomic_output
from ..video.drawing import png_of, to_gray
from .methods import EvaluationError, Method
from .running import claim

LISTED = 10  # problems of a kind that are named one by one


def write_submission(dataset: Dataset, method: Method, output: str | os.PathLike, *, overwrite: bool = False) -> int:
    """
    Write `output/VIDEO/FRAME.png`, each map scaled from its minimum…maximum to 0…255, at the size of the video. Each
    video appears when it is complete, and one that is there without fault is kept: a stopped run goes on.

    Args:
        dataset: rows of DHF1K; labels are not needed.
        method: what gives the maps.
        output: folder; how it was made is noted next to it, in a file of its name and .json.
        overwrite: write all videos again, and replace those there, of any model.

    Returns:
        Number of videos written.

    Raises:
        EvaluationError: the folder holds maps of another model or other options, or other files among maps that have
            to be written again; or a map holds NaN or infinity.
    """
    output = Path(output)
    # The note stands next to the folder: inside, it would be uploaded.
    note, videos = output.with_name(f"{output.name}.json"), [output / name for name in dataset["video_id"]]
    claim(output, note, {"model": method.fingerprint}, [method], overwrite, videos)
    written = 0
    with frame_bar(dataset, output.name) as bar:
        for sample in map(GazeVideo, dataset):
            folder = output / sample.id
            if not faults(sample, folder):
                bar.update(sample.num_frames)
                continue
            if others := strays(sample, folder):
                raise EvaluationError(
                    f"Move what is no map of the split elsewhere ({listed(others)}): the maps of {sample.id} have to "
                    "be written again."
                )
            with atomic_output(folder, overwrite=True) as temporary:
                temporary.mkdir()
                maps = method.finite_maps(sample, range(sample.num_frames))
                for name, saliency in zip(sample.frame_names, maps, strict=True):
                    (temporary / f"{name}.png").write_bytes(png_of(to_gray(saliency)))
                    bar.update()
            written += 1
    return written


def check_submission(dataset: Dataset, folder: str | os.PathLike) -> str:
    """
    Whether a folder, made by any program, holds one grey PNG of the right name and size for every frame of the split,
    and nothing else: in one line, or as an EvaluationError that says what is missing, wrong or too much.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EvaluationError(f"There is no folder {folder} to check; check the path.")
    wrong, expected = [], set(dataset["video_id"])
    surplus = [str(path) for path in sorted(folder.iterdir()) if path.name not in expected]
    with frame_bar(dataset, "checking") as bar:
        for sample in map(GazeVideo, dataset):
            wrong += faults(sample, folder / sample.id)
            surplus += strays(sample, folder / sample.id)
            bar.update(sample.num_frames)
    todo = [f"remove what is no map of the split ({listed(surplus)})"] if surplus else []
    todo += [f"write again what is wrong ({listed(wrong)})"] if wrong else []
    if todo:
        raise EvaluationError(f"{folder} is not fit to be submitted: {', and '.join(todo)}.")
    frames = sum(dataset["num_frames"])
    tests, wanted = sum(split_of(int(name)) == "test" for name in expected), DHF1K.OFFICIAL["test"]
    if tests == wanted:
        return f"{folder} is complete: {tests} test videos, {frames:,} grey maps."
    return (
        f"{folder} holds {frames:,} grey maps without fault, but {tests} of {wanted} test videos; the server wants "
        "them all."
    )


def frame_bar(dataset: Dataset, what: str) -> tqdm:
    return tqdm(total=sum(dataset["num_frames"]), unit="frame", desc=what, disable=None, dynamic_ncols=True)


def strays(sample: GazeVideo, folder: Path) -> list[str]:
    """The other files in the folder of a video."""
    own = {f"{name}.png" for name in sample.frame_names}
    return [str(path) for path in sorted(folder.iterdir()) if path.name not in own] if folder.is_dir() else []


def listed(problems: list[str]) -> str:
    more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
    return "; ".join(problems[:LISTED]) + more


def faults(sample: GazeVideo, folder: Path) -> list[str]:
    """What is wrong with the maps of one video, in words."""
    if not folder.is_dir():
        return [f"the folder {folder.name} is missing"]
    (height, width), problems = sample.size, []
    files = [folder / f"{name}.png" for name in sample.frame_names]
    if missing := [file.name for file in files if not file.exists()]:
        problems.append(f"{folder.name} lacks {len(missing)} of {sample.num_frames} maps, the first is {missing[0]}")
    for file in filter(Path.exists, files):
        try:
            image = examined_image(file, decode=True)
        except OSError as error:
            problems.append(f"{folder.name}/{file.name} cannot be read ({error})")
            continue
        if (image.format, image.mode, image.size) != ("PNG", "L", (width, height)):
            problems.append(
                f"{folder.name}/{file.name} is {image.format} {image.mode} {image.width}x{image.height} instead of "
                f"PNG L {width}x{height}"
            )
    return problems
