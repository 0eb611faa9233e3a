"""A [`GazeFolder`] from videos without gaze, labelled by an image model: Google's attention-center.

https://github.com/google/attention-center publishes it as a TensorFlow Lite file under the Apache License 2.0. Its
output is a point; what labels are made of is the saliency map inside.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from tqdm import tqdm

from ..errors import needs_extra, reason_of
from ..files import Inputs, atomic_output, check_free
from ..inference.blur import gaussian_blur
from ..video.reading import probe, read_frames
from .export import writing
from .features import DataError
from .recordings import find_videos, make_clip_folder, write_frame

POWER = 0.6
"""Power of the teacher's maps that densities begin as: on stills with recorded gaze the maps are far too peaked."""

SIGMA = 0.02
"""Standard deviation, as a share of the frame's width, that densities are blurred with."""

PRIOR_SIGMA = 0.25
"""Standard deviations, as shares of the frame's height and width, of the Gaussian in the middle of the frame that
densities are multiplied by: gaze on video keeps closer to the centre than gaze on the stills the teacher learned."""

FIXATIONS = 20
"""Points per frame that are drawn from the density."""

# The teacher's input and, within it, its saliency map.
_INPUT_NAME, _INPUT_SHAPE = "image", (1, 480, 640, 3)
_SALIENCY, _SALIENCY_SHAPE = 1583, (1, 480, 640)

_README = """# Pseudo-labels, not gaze

Nobody was recorded looking at these videos. `maps` were drawn by an image model, Google's attention-center
(https://github.com/google/attention-center, Apache License 2.0), and `fixation` holds points drawn at random from
those maps. Train on them if you like; never report scores on them, nor publish them as recordings of gaze.

- Made by: `salfom data pseudo-label`, {version}
- Teacher: {teacher}, SHA-256 {digest}
- Labelled by the teacher: one frame of {every}, and the last; in between, densities are interpolated linearly
- Density: the teacher's map to the power of {power}, blurred with a standard deviation of {sigma} of the frame's
  width, multiplied by a Gaussian in the middle of the frame with standard deviations of {prior} of its height and
  width, divided by its maximum
- Fixations: {fixations} points per frame, drawn from the density with the seed {seed}
- Frames: at most {frames} from the beginning of each video, the longest side at most {longest} pixels

| clip | video | frames |
| --- | --- | --- |
{rows}
"""


class AttentionCenter:
    """
    Google's attention-center model, of which only the saliency map is used.

    Args:
        path: the TensorFlow Lite file.

    Raises:
        ImportError: the package `ai-edge-litert` is not installed.
        DataError: there is no such file, or it is another model.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise DataError(f"There is no file {path}; name the attention-center model's .tflite file.")
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError as error:
            raise ImportError(needs_extra("The teacher", "train")) from error
        try:
            self._interpreter = Interpreter(
                str(path),
                # Inner tensors are kept, which delegates would not do.
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                experimental_preserve_all_tensors=True,
                num_threads=torch.get_num_threads(),
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise DataError(
                f"{path} is not a TensorFlow Lite model ({reason_of(error)}); copy or download it again."
            ) from error
        inputs = {
            details["index"]
            for details in self._interpreter.get_input_details()
            if details["name"].startswith(_INPUT_NAME) and tuple(details["shape"]) == _INPUT_SHAPE
        }
        tensors = {details["index"]: tuple(details["shape"]) for details in self._interpreter.get_tensor_details()}
        if len(inputs) != 1 or tensors.get(_SALIENCY) != _SALIENCY_SHAPE:
            raise DataError(
                f"{path} is not the attention-center model: its tensor {_SALIENCY} is no map of 480×640; "
                "take center.tflite from https://github.com/google/attention-center."
            )
        (self._input,) = inputs

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        """The saliency map, float32 `(480, 640)` in 0…1, of an image, uint8 `(height, width, 3)` of any size."""
        size = _INPUT_SHAPE[2:0:-1]
        resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR), np.float32)
        self._interpreter.set_tensor(self._input, resized[None])
        self._interpreter.invoke()
        return torch.tensor(self._interpreter.get_tensor(_SALIENCY)[0])


def pseudo_density(saliency: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """
    The density of gaze on a frame of video, as far as the teacher tells.

    Args:
        saliency: the teacher's map, float32 of any size.
        size: (height, width) of the frame.

    Returns:
        float32 `(height, width)`, with a maximum of 1.
    """
    density = F.interpolate(saliency[None, None], size, mode="bilinear", antialias=True)[0, 0].clamp_min(0) ** POWER
    density = gaussian_blur(density, SIGMA * size[1])
    y, x = ((torch.arange(length) + 0.5) / length - 0.5 for length in size)
    density = density * torch.exp(-0.5 * (y[:, None] ** 2 + x**2) / PRIOR_SIGMA**2)
    return (density / density.max()).numpy()


def reduced_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """(height, width) with the longest side at most so many pixels, in the same proportion."""
    factor = min(1.0, longest / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def with_densities(frames: Iterable[np.ndarray], label, every: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """
    Each frame and its density: `label(frame)` of every `every`-th one and of the last, interpolated linearly between.
    """
    before, between = None, []

    def labelled():
        after = label(between[-1])
        for step, frame in enumerate(between, 1):
            weight = step / len(between)
            yield frame, after if before is None else (1 - weight) * before + weight * after
        return after

    for number, frame in enumerate(frames):
        between.append(frame)
        if number % every == 0:
            before, between = (yield from labelled()), []
    if between:
        yield from labelled()


def draw_points(density: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """bool, of the density's shape: the pixels of so many points drawn from it; some may fall on the same."""
    cumulated = density.ravel().astype(np.float64).cumsum()
    # Zero is drawn too, and belongs to no pixel without density.
    drawn = (1 - rng.random(count)) * cumulated[-1]
    points = np.zeros(density.size, bool)
    points[cumulated.searchsorted(drawn)] = True
    return points.reshape(density.shape)


def pseudo_label(
    videos,
    folder,
    teacher,
    *,
    every: int = 5,
    frames: int = 400,
    longest: int = 448,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, int]:
    """
    Write videos and what an image model says of their frames as the folder that [`load_gazefolder`] reads, all of it
    in the split `"train"`, complete or not at all, with a progress bar.

    The densities are pseudo-labels, and the fixations are drawn from them: there is no recorded gaze, as `README.md`
    in the folder says.

    Args:
        videos: a folder of video files, or one file.
        folder: to make.
        teacher: the attention-center model, a `.tflite` file; see [`AttentionCenter`].
        every: the teacher labels one frame of so many, and the last one; between them labels are interpolated.
        frames: at most so many, from the beginning of each video.
        longest: the longest side of the frames written, in pixels; smaller ones are not enlarged.
        seed: of the fixations.
        overwrite: replace the folder if it is an earlier one.

    Returns:
        number of frames of each clip.

    Raises:
        ValueError: an argument is out of its range.
        ImportError: the package `ai-edge-litert` is not installed.
        DataError: there are no videos, or the teacher is missing or another model.
        VideoError: a video cannot be read, or the folder exists or cannot be written.
    """
    videos, folder, teacher = Path(videos), Path(folder), Path(teacher)
    if min(every, frames, longest) < 1 or seed < 0:
        raise ValueError("every, frames and longest must be at least 1, and seed at least 0.")
    found = find_videos(videos)
    check_free(folder, overwrite, Inputs(teacher, *found))
    infos = {video: probe(video) for video in found}
    model = AttentionCenter(teacher)
    made = {}
    total = sum(min(info.num_frames or frames, frames) for info in infos.values())
    with (
        atomic_output(folder, overwrite) as temporary,
        writing(folder),
        tqdm(total=total, unit="frame", desc=folder.name, disable=None, dynamic_ncols=True) as progress,
    ):
        for video, info in infos.items():
            size = reduced_size(info.height, info.width, longest)
            parts = make_clip_folder(temporary / "train" / video.stem, info)
            rng = np.random.default_rng((seed, zlib.crc32(video.stem.encode())))
            images = (frame.image for frame in islice(read_frames(video), frames))
            labelled = with_densities(images, lambda image, size=size: pseudo_density(model(image), size), every)
            for number, (image, density) in enumerate(labelled):
                picture = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
                write_frame(parts, number, picture, density, draw_points(density, FIXATIONS, rng))
                progress.update()
            made[video.stem] = number + 1
        names = {video.stem: video.name for video in infos}
        (temporary / "README.md").write_text(
            _readme(teacher, made, names, every=every, frames=frames, longest=longest, seed=seed), encoding="utf-8"
        )
    return made


def _readme(teacher: Path, made: dict[str, int], names: dict[str, str], **settings: int) -> str:
    from .. import __version__

    return _README.format(
        version=f"salfom-hf {__version__}",
        teacher=teacher.name,
        digest=hashlib.sha256(teacher.read_bytes()).hexdigest(),
        power=POWER,
        sigma=SIGMA,
        prior=PRIOR_SIGMA,
        fixations=FIXATIONS,
        rows="\n".join(f"| {clip} | {names[clip]} | {count} |" for clip, count in made.items()),
        **settings,
    )


__all__ = ["AttentionCenter", "pseudo_label"]
