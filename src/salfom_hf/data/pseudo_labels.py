"""A [`GazeFolder`] from videos without gaze, labelled by an image model: Google's attention-center.

https://github.com/google/attention-center publishes it as a TensorFlow Lite file under the Apache License 2.0. Its
output is a point; what labels are made of is the saliency map inside.
"""

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .. import __version__
from ..errors import needing, reason_of
from ..files import Inputs, check_free
from ..inference.results import smaller_size
from ..video.reading import frames_there, probe
from .augmentation import resized_density
from .features import DataError
from .recordings import Labelled, find_videos, new_gazefolder, write_clip
from .shots import video_density

POWER = 0.6  # of the teacher's maps, which are far more peaked than recorded gaze on stills
SIGMA, PRIOR_SIGMA = 0.02, 0.25  # of densities, see `video_density`
FIXATIONS = 20  # points per frame that are drawn from the density

# The teacher's input and, within it, its saliency map.
_INPUT_SHAPE = (1, 480, 640, 3)
_SALIENCY, _SALIENCY_SHAPE = 1583, (1, 480, 640)

_README = f"""# Pseudo-labels, not gaze

Nobody was recorded looking at these videos. `maps` were drawn by an image model, Google's attention-center
(https://github.com/google/attention-center, Apache License 2.0), and `fixation` holds points drawn at random from
those maps. Train on them if you like; never report scores on them, nor publish them as recordings of gaze.

- Made by: `salfom data pseudo-label`, {{version}}
- Teacher: {{teacher}}, SHA-256 {{digest}}
- Labelled by the teacher: one frame of {{every}}, and the last; in between, densities are interpolated linearly
- Density: the teacher's map to the power of {POWER}, blurred with a standard deviation of {SIGMA} of the frame's
  width, multiplied by a Gaussian in the middle of the frame with standard deviations of {PRIOR_SIGMA} of its height
  and width, divided by its maximum
- Fixations: {FIXATIONS} points per frame, drawn from the density with the seed {{seed}}
- Frames: at most {{frames}} from the beginning of each video, the longest side at most {{longest}} pixels

| clip | video | frames |
| --- | --- | --- |
{{rows}}
"""


class AttentionCenter:
    """Google's attention-center model, a TensorFlow Lite file, of which only the saliency map is used."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise DataError(f"There is no file {path}; name the attention-center model's .tflite file.")
        with needing("The teacher", "train"):
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
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
        shapes = {details["index"]: tuple(details["shape"]) for details in self._interpreter.get_tensor_details()}
        inputs = [details["index"] for details in self._interpreter.get_input_details()]
        inputs = [index for index in inputs if shapes[index] == _INPUT_SHAPE]
        if len(inputs) != 1 or shapes.get(_SALIENCY) != _SALIENCY_SHAPE:
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
    """The density of gaze on a frame of a size, as the teacher's map, of any size, tells; its maximum is 1."""
    return video_density(resized_density(saliency, size) ** POWER, SIGMA, PRIOR_SIGMA).numpy()


def with_labels(
    frames: Iterable[np.ndarray], teacher: AttentionCenter, size: tuple[int, int], every: int, rng: np.random.Generator
) -> Iterator[Labelled]:
    """Frames and labels as for `write_clip`: the teacher's of every so many and of the last, others interpolated."""
    frames, before, count = iter(frames), None, 1
    while between := list(islice(frames, count)):
        after = pseudo_density(teacher(between[-1]), size)
        for step, frame in enumerate(between, 1):
            weight = step / len(between)
            density = after if before is None else (1 - weight) * before + weight * after
            points = draw_points(density, FIXATIONS, rng)
            yield frame, partial(lambda *labels: labels, density, points)
        before, count = after, every


def draw_points(density: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """bool, of the density's shape: the pixels of so many points drawn from it; some may fall on the same."""
    cumulated = density.ravel().astype(np.float64).cumsum()
    # Zero is drawn too, and belongs to no pixel without density.
    drawn = (1 - rng.random(count)) * cumulated[-1]
    points = np.zeros(density.size, bool)
    points[cumulated.searchsorted(drawn)] = True
    return points.reshape(density.shape)


def pseudo_label(
    videos: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    teacher: str | os.PathLike[str],
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
        videos, folder, longest, overwrite: as for [`make_gazefolder`].
        teacher: the attention-center model, a `.tflite` file; see [`AttentionCenter`].
        every: the teacher labels one frame of so many, and the last one; between them labels are interpolated.
        frames: at most so many, from the beginning of each video.
        seed: of the fixations.

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
    with new_gazefolder(folder, overwrite, total) as (temporary, progress):
        for video, info in infos.items():
            size = smaller_size(info.height, info.width, longest)
            rng = np.random.default_rng((seed, zlib.crc32(video.stem.encode())))
            images = (frame.image for frame in islice(frames_there(video), frames))
            labelled = with_labels(images, model, size, every, rng)
            made[video.stem] = write_clip(temporary / "train" / video.stem, info, size, labelled, progress)
        readme = _README.format(
            version=f"salfom-hf {__version__}",
            teacher=teacher.name,
            digest=hashlib.sha256(teacher.read_bytes()).hexdigest(),
            every=every,
            frames=frames,
            longest=longest,
            seed=seed,
            rows="\n".join(f"| {video.stem} | {video.name} | {made[video.stem]} |" for video in infos),
        )
        (temporary / "README.md").write_text(readme, encoding="utf-8")
    return made
