"""The folder that the DHF1K server scores: one grey PNG per test frame, in a folder per video."""

import os
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm

from ..data.layout import examined_image
from ..data.report import amount
from ..data.samples import GazeVideo
from ..data.video_folders import DHF1K, split_of
from ..errors import described
from ..files import atomic_output, is_taken
from ..video.drawing import png_of, to_gray
from .methods import EvaluationError, Method
from .running import claim, frame_bar

LISTED = 10  # faults that are named one by one


def write_submission(dataset: Dataset, method: Method, output: str | os.PathLike, *, overwrite: bool = False) -> int:
    """
    Write `output/VIDEO/FRAME.png`, each map scaled from its minimum…maximum to 0…255, at the size of the video. Each
    video appears when it is complete, and one that is there is kept: a stopped run goes on.

    Args:
        dataset: rows of DHF1K; labels are not needed.
        method: what gives the maps.
        output: folder; how it was made is noted next to it, in a file of its name and .json.
        overwrite: write all videos again, and replace those there, of any model.

    Returns:
        Number of videos written.

    Raises:
        EvaluationError: the folder holds maps of another model or other options, or a map holds NaN or infinity.
    """
    output = Path(output)
    # The note stands next to the folder: inside, it would be uploaded.
    note, videos = output.with_name(f"{output.name}.json"), [output / name for name in dataset["video_id"]]
    claim(output, note, {"model": method.fingerprint}, [method], overwrite, videos)
    written = 0
    with frame_bar(sum(dataset["num_frames"]), what="written") as bar:
        for sample in map(GazeVideo, dataset):
            if is_taken(output / sample.id):
                bar.update(sample.num_frames)
                continue
            with atomic_output(output / sample.id) as temporary:
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
    samples = [GazeVideo(row) for row in dataset]
    there = [sample for sample in samples if (folder / sample.id).is_dir()]
    expected = {f"{sample.id}/{name}.png": sample.size for sample in there for name in sample.frame_names}
    files = [*folder.glob("*/*"), *filter(Path.is_file, folder.iterdir())]
    found = {file.relative_to(folder).as_posix() for file in files}
    wrong = [f"the folder {sample.id} is missing" for sample in samples if sample not in there]
    wrong += [f"{name} is no map of the split" for name in sorted(found - expected.keys())]
    wrong += [f"{name} is missing" for name in sorted(expected.keys() - found)]
    for name in tqdm(sorted(expected.keys() & found), "checking", unit="map", disable=None, dynamic_ncols=True):
        height, width = expected[name]
        try:
            image = examined_image(folder / name, decode=True)
        except OSError as error:
            wrong.append(f"{name} cannot be read ({described(error)})")
            continue
        kind, wanted = f"{image.format} {image.mode} {image.width}x{image.height}", f"PNG L {width}x{height}"
        if kind != wanted:
            wrong.append(f"{name} is {kind} instead of {wanted}")
    if wrong:
        raise EvaluationError(
            f"{folder} is not fit to be submitted ({amount(len(wrong), 'fault')}: {'; '.join(wrong[:LISTED])}): "
            "delete what is no map of the split and the folder of each video with other faults, and write these again."
        )
    frames = sum(dataset["num_frames"])
    tests, official = sum(split_of(int(sample.id)) == "test" for sample in samples), DHF1K.OFFICIAL["test"]
    if tests == official:
        return f"{folder} is complete: {tests} test videos, {frames:,} grey maps."
    return (
        f"{folder} holds {frames:,} grey maps without fault, but {tests} of {official} test videos; the server wants "
        "them all."
    )
