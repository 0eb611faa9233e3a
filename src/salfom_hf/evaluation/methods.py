"""What gives maps to score: a model, a folder of another model's predictions, and baselines."""

import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from ..data.features import DataError
from ..data.layout import FRAME_TOLERANCE, natural_key
from ..data.samples import GazeStill, GazeVideo, open_sample, read_map
from ..errors import check_file
from ..inference.blur import gaussian_blur
from ..inference.predictor import SaliencyPredictor, frames_of
from ..inference.sliding_window import batched, sees_stills, still_maps
from ..models.video_processing_salfom import resize_map
from ..video.reading import IMAGE_SUFFIXES, VIDEO_SUFFIXES

BASELINES = ("center", "spectral-residual", "inter-observer")
MAP_SUFFIXES = (".png", ".jpg", ".jpeg", ".npy")

CENTER_SIGMA = 0.22  # of each side
KDE_SIGMA = 24 / 512  # of the width
KDE_WIDTH = 512  # pixels
RUN_GAP = 16  # frames that are rather decoded than skipped by seeking
KDE_FRAMES = 20  # per video: neighbouring frames share most of their fixations

Sample = GazeVideo | GazeStill


class EvaluationError(Exception):
    """What the user asked for cannot be scored; the message is one sentence that says what to do."""


class Method:
    """
    Gives a map for any frame of a sample. Objects are sent to other processes, so they pickle.

    Attributes:
        name: in tables.
        description: what exactly it is, in one line.
        fingerprint: text that changes when the maps may change.
    """

    name: str
    description: str
    fingerprint: str

    def check(self, dataset) -> None:
        """
        Raises:
            EvaluationError: the method has no maps for the dataset.
        """

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """
        The maps of some frames.

        Args:
            sample: a video or a still.
            indices: of the frames, ascending.

        Yields:
            float `(height, width)` of any size and scale, one per index.
        """
        raise NotImplementedError

    def finite_maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """
        What [`maps`] yields, checked.

        Raises:
            EvaluationError: a map holds NaN or infinity; on `next`.
        """
        for index, saliency in zip(indices, self.maps(sample, indices), strict=True):
            if not np.isfinite(saliency).all():
                raise not_finite(self.name, sample.frame_names[index], sample.id)
            yield saliency

    def truth(self, sample: Sample, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What a frame's map is scored against: fixations, bool, and density, float32, each `(height, width)`."""
        return sample.fixations(index), sample.density(index)


def not_finite(method: str, frame: str | int, video: str | Path) -> EvaluationError:
    return EvaluationError(
        f"The map of {method} for frame {frame} of {video} holds NaN or infinity; repair what makes it, or compute it "
        "in float32."
    )


class Model(Method):
    """
    A SalFoM model with its causal sliding window; a still is a clip of one frame.

    Args:
        name: what `from_pretrained` of the predictor's class takes; other processes load it again.
        predictor: the model, loaded.
        last_frame_alone: predict every frame of a video by itself, as a still. What the window does better than that
            is what the model gains from time.
    """

    def __init__(self, name: str, predictor: SaliencyPredictor, last_frame_alone: bool = False):
        self.name = f"{name}, last frame alone" if last_frame_alone else name
        self._source, self._predictor, self._last_frame_alone = name, predictor, last_frame_alone
        self._load = type(predictor).from_pretrained
        self._options = {
            "device": str(predictor.model.device),
            "dtype": predictor.model.dtype,
            "stride": predictor.stride,
            "batch_size": predictor.batch_size,
        }
        if last_frame_alone:
            self.description = "every frame by itself, as a still"
        else:
            self.description = f"causal sliding window of {predictor.model.config.num_frames} frames"
            if predictor.stride > 1:
                self.description += f", maps between every {predictor.stride}th frame interpolated"
        if sees_stills(predictor.model):
            self.description += (
                "; of stills, the mean of the maps of the image and of its mirror image, blurred by 1.2 % of the width"
            )
        self.fingerprint = self._hash()

    def _hash(self) -> str:
        model, digest = self.predictor.model, hashlib.sha256()
        for name, weight in model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        config = {**model.config.to_dict(), "_name_or_path": None, "transformers_version": None}
        digest.update(repr((self.description, str(model.dtype), config)).encode())
        digest.update(self.predictor.processor.to_json_string().encode())
        return digest.hexdigest()[:16]

    @property
    def predictor(self) -> SaliencyPredictor:
        if self._predictor is None:
            self._predictor = self._load(self._source, **self._options)
        return self._predictor

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_predictor": None}

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        if self._last_frame_alone or isinstance(sample, GazeStill):
            yield from maps_of_stills(self.predictor, frames_at(sample, indices))
            return
        window, stride = self.predictor.model.config.num_frames, self.predictor.stride
        # A map depends on its window alone: with gaps longer than that, what lies between is not computed.
        for run in runs(indices, window) if stride == 1 else [indices]:
            wanted = set(run)
            first = max(0, run[0] - window + 1) if stride == 1 else 0
            # Maps between two key frames need the second one.
            stop = min(sample.num_frames, run[-1] + stride)
            for index, frame in enumerate(self.predictor.stream(sample.frames(first, stop)), first):
                if index in wanted:
                    yield frame.saliency

    def maps_of_video(self, video, start: float = 0.0, duration: float | None = None) -> Iterator[np.ndarray]:
        """
        The maps of all frames of a video that is no sample of a dataset.

        Args:
            video, start, duration: as for `SaliencyPredictor.stream`.

        Yields:
            float32 `(height, width)`, values in 0…1.

        Raises:
            VideoError: the file cannot be read; on `next`.
            EvaluationError: a map holds NaN or infinity; on `next`.
        """
        if self._last_frame_alone:
            maps = maps_of_stills(self.predictor, (frame.image for frame in frames_of(video, start, duration)))
        else:
            maps = (frame.saliency for frame in self.predictor.stream(video, start, duration))
        for number, saliency in enumerate(maps, 1):
            if not np.isfinite(saliency).all():
                raise not_finite(self.name, number, video)
            yield saliency


@torch.inference_mode()
def maps_of_stills(predictor: SaliencyPredictor, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """
    The map of each image by itself.

    Args:
        images: uint8 `(height, width, 3)`, all of one size.

    Yields:
        float32 `(height, width)`, values in 0…1.
    """
    model = predictor.model
    for batch in batched(images, predictor.batch_size):
        pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).to(model.device)
        for saliency in still_maps(model, predictor.processor.prepare_frames(pixels, still=True).to(model.dtype)):
            yield resize_map(saliency, batch[0].shape[:2]).clamp(0, 1).cpu().numpy()


def frames_at(sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Some frames of a sample: uint8 `(height, width, 3)`."""
    for run in runs(indices, RUN_GAP):
        wanted = set(run)
        for index, image in enumerate(sample.frames(run[0], run[-1] + 1), run[0]):
            if index in wanted:
                yield image


def runs(indices: Sequence[int], gap: int) -> list[list[int]]:
    """Ascending indices in groups with steps of at most `gap`."""
    groups: list[list[int]] = []
    for index in indices:
        if groups and index - groups[-1][-1] <= gap:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


class Predictions(Method):
    """
    Maps that another model has written: `FOLDER/VIDEO/FRAME.png` (or .jpg, .npy), `FOLDER/VIDEO.npz` with the array
    `maps` `(frames, height, width)`, or for stills `FOLDER/IMAGE.png`; or as `salfom predict` writes them,
    `FOLDER/VIDEO_maps/0001.png` and so on, or `FOLDER/VIDEO_npz.npz`.

    Args:
        folder: of the maps, which may have any size; pictures are grey of 8 or 16 bits.

    Raises:
        EvaluationError: there is no such folder. On [`check`] and [`maps`]: maps are missing, may be those of other
            frames, are in colour or cannot be read.
    """

    description = "maps read from this folder"

    def __init__(self, folder: str | Path):
        self.folder, self.name = Path(folder), str(folder)
        if not self.folder.is_dir():
            raise EvaluationError(f"There is no folder {folder} with predictions; check the path.")
        digest = hashlib.sha256()
        for file in sorted(self.folder.rglob("*")):
            name, stat = file.relative_to(self.folder), file.stat()
            if any(part.startswith(".") for part in name.parts):  # Such as .DS_Store, which comes by itself.
                continue
            digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        self.fingerprint = digest.hexdigest()[:16]

    def check(self, dataset) -> None:
        missing, expected, owners = [], 0, {}
        for row in dataset:
            sample = open_sample(row)
            expected += sample.num_frames
            archives, frames = places(sample)
            found = [name for name in dict.fromkeys([*archives, *frames[0]]) if (self.folder / name).is_file()]
            if len(found) > 1:
                raise EvaluationError(
                    f"{self.folder} holds maps of {sample.id} twice, {found[0]} and {found[1]}; remove the wrong ones."
                )
            for name in found:
                if name in owners:
                    raise EvaluationError(
                        f"{self.folder / name} is the map of both {owners[name]} and {sample.id}; name each map by "
                        f"the whole name of its image, such as {sample.id}.png."
                    )
                owners[name] = sample.id
                if not isinstance(sample, GazeStill) and name not in archives:
                    check_numbers(self.folder / name, sample)
            if self._existing(archives) is None:
                missing += [self.folder / names[0] for names in frames if self._existing(names) is None]
        if missing:
            raise EvaluationError(
                f"{len(missing)} of {expected} predictions are missing, the first of them {missing[0]} "
                "(.png, .jpg and .npy are read, and an .npz with `maps` per video); add them, or score another split."
            )

    def _existing(self, names: list[str]) -> Path | None:
        """The first of some places where there is a file."""
        return next((self.folder / name for name in names if (self.folder / name).is_file()), None)

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        archives, frames = places(sample)
        archive = self._existing(archives)
        if archive is None:
            files = (self._existing(frames[index]) or self.folder / frames[index][0] for index in indices)
            read = ((file, read_prediction(file)) for file in files)
        else:
            read = ((archive, saliency) for saliency in read_archive(archive, sample.num_frames, indices))
        for file, saliency in read:
            if saliency.ndim != 2 or not np.isfinite(saliency).all():
                raise EvaluationError(f"{file} must hold one map of finite numbers, not shape {saliency.shape}.")
            if saliency.shape == sample.size[::-1] != sample.size:
                raise EvaluationError(
                    f"The maps in {file} have the frame's width as their height; transpose them to (height, width)."
                )
            yield saliency


def places(sample: Sample) -> tuple[list[str], list[list[str]]]:
    """Where maps may be in a folder: in archives of the whole sample; frame by frame. The usual place is first."""
    names = list(dict.fromkeys(name for own in (sample.id, sample.file_name) for name in spellings(own)))
    archives = [f"{name}{end}" for name in names for end in (".npz", "_npz.npz")]
    frames = []
    for number, frame in enumerate(sample.frame_names, 1):
        stems = names
        if not isinstance(sample, GazeStill):
            stems = [f"{name}/{stem}" for name in names for stem in spellings(frame)]
        files = [f"{stem}{suffix}" for stem in stems for suffix in MAP_SUFFIXES]
        frames.append(files + [f"{name}_maps/{number:04d}.png" for name in names])
    return archives, frames


def check_numbers(first: Path, sample: Sample) -> None:
    """
    Raises:
        EvaluationError: beside the map of the first frame are maps of frames that the video lacks, before that one or
            more than the one or two at the end that `salfom predict` may write, so that numbers differ from frames'.
    """
    if natural_key(first.stem) == natural_key(sample.frame_names[0]):
        frames = {natural_key(name) for name in sample.frame_names}
    else:
        frames = {natural_key(f"{number}") for number in range(1, sample.num_frames + 1)}
    start = min(frames)
    keys = {natural_key(file.stem): file.name for file in first.parent.iterdir() if file.suffix in MAP_SUFFIXES}
    # Files of other names, such as pictures of the same maps, are no maps of frames.
    others = sorted(key for key in keys.keys() - frames if key[::2] == start[::2])
    if others and (others[0] < start or len(others) > FRAME_TOLERANCE):
        raise EvaluationError(
            f"{first.parent} has {len(others)} maps that are of no frame of {sample.id}, such as {keys[others[0]]}; "
            f"its {sample.num_frames} frames begin with {sample.frame_names[0]}: name each map as its frame."
        )


def spellings(name: str) -> list[str]:
    """How others may have written a name: without its suffix, or DHF1K's numbers with 3 digits instead of 4."""
    names = [name]
    if Path(name).suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES):
        names.append(Path(name).stem)
    if name.isdecimal():
        names.append(f"{int(name):03d}")
    return names


def read_prediction(path: Path) -> np.ndarray:
    """
    One map from a grey picture or .npy, float32 `(height, width)`.

    Raises:
        EvaluationError: it cannot be read.
    """
    try:
        check_file(path)
        if path.suffix.lower() == ".npy":
            return np.load(path, allow_pickle=False).astype(np.float32)
        return read_map(path, str(path))[0]
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, DataError):
            raise EvaluationError(str(error)) from error
        raise EvaluationError(f"Cannot read the prediction {path} ({error}); write it anew.") from error


def read_archive(path: Path, num_frames: int, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """
    Some maps of an .npz, read one by one: float32 `(height, width)`.

    Raises:
        EvaluationError: it cannot be read, or does not hold `num_frames` maps (or one or two more).
    """
    try:
        check_file(path)
        with zipfile.ZipFile(path) as archive, archive.open("maps.npy") as entry:
            version = np.lib.format.read_magic(entry)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0}.get(version)
            shape, fortran, dtype = (read_header or np.lib.format.read_array_header_2_0)(entry)
            # Of a video whose last frames have no gaze, `salfom predict` writes maps all the same.
            surplus = shape[0] - num_frames if len(shape) == 3 else -1
            if not 0 <= surplus <= FRAME_TOLERANCE or fortran or dtype.hasobject:
                raise EvaluationError(
                    f"`maps` in {path} has the shape {shape}, the video has {num_frames} frames; "
                    "write one map (height, width) per frame."
                )
            size = shape[1] * shape[2] * dtype.itemsize
            wanted = set(indices)
            for index in range(max(indices) + 1):
                data = entry.read(size)
                if len(data) < size:
                    raise EOFError("it breaks off")
                if index in wanted:
                    yield np.frombuffer(data, dtype).reshape(shape[1:]).astype(np.float32)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise EvaluationError(f"Cannot read the predictions {path} ({error}); write them anew.") from error


class Center(Method):
    """
    One map for all frames, whatever they show.

    Args:
        prior: float `(height, width)` to be resized to each frame; `None` for a Gaussian in the middle whose standard
            deviations are .22 of the width and of the height.
        source: what the prior was made of.
    """

    name = "center"

    def __init__(self, prior: np.ndarray | None = None, source: str = ""):
        self.prior = prior
        if prior is None:
            self.description = f"Gaussian in the middle, sigma {CENTER_SIGMA} of each side{source and f' ({source})'}"
        else:
            self.description = f"density of {source}, blurred with sigma 24/512 of the width"
        data = self.description.encode() if prior is None else prior.tobytes()
        self.fingerprint = hashlib.sha256(data).hexdigest()[:16]

    @classmethod
    def fitted(cls, dataset, split: str, progress: bool | None = False) -> "Center":
        """
        The density of all fixations of a dataset, in coordinates relative to the frame; one more is spread evenly.

        Args:
            dataset: with labels; of each video up to 20 frames are read, evenly spaced.
            split: its name.
            progress: whether to show a progress bar; `None` shows it in a terminal.
        """
        stills = "fixation_x" in dataset.features
        shape = dataset.select_columns(["width", "height"])[:]
        aspect = float(np.median(np.array(shape["height"]) / np.array(shape["width"])))
        height = max(1, round(KDE_WIDTH * aspect))
        counts = np.zeros((height, KDE_WIDTH))
        if stills:
            dataset = dataset.select_columns(["width", "height", "fixation_x", "fixation_y"])
        disable = None if progress is None else not progress
        for row in tqdm(dataset, desc="center", unit="row", disable=disable, dynamic_ncols=True):
            for y, x in relative_stills(row) if stills else relative_fixations(open_sample(row)):
                rows = np.clip(np.floor(y * height), 0, height - 1).astype(int)
                columns = np.clip(np.floor(x * KDE_WIDTH), 0, KDE_WIDTH - 1).astype(int)
                np.add.at(counts, (rows, columns), 1)
        prior = gaussian_blur(torch.from_numpy(counts), KDE_SIGMA * KDE_WIDTH).numpy()
        # Without one more, spread evenly, few fixations would leave places where no one is ever expected to look.
        prior += 1 / prior.size
        frames = "all images" if stills else f"up to {KDE_FRAMES} frames per video"
        return cls(prior / prior.sum(), f"the fixations of the split {split} ({frames})")

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        height, width = sample.size
        if self.prior is None:
            y, x = ((np.arange(side) + 0.5) / side - 0.5 for side in (height, width))
            saliency = np.exp(-0.5 * ((y[:, None] / CENTER_SIGMA) ** 2 + (x / CENTER_SIGMA) ** 2))
        else:
            saliency = resized_antialiased(self.prior, (height, width))
        for _ in indices:
            yield saliency


def relative_stills(row: dict) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The fixations of a still, (y, x) in 0…1 of the image."""
    yield np.asarray(row["fixation_y"]) / row["height"], np.asarray(row["fixation_x"]) / row["width"]


def relative_fixations(sample: GazeVideo) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The fixations of evenly spaced frames, (y, x) in 0…1 of the frame."""
    count = min(KDE_FRAMES, sample.num_frames)
    for index in np.linspace(0, sample.num_frames - 1, count).round().astype(int):
        fixations = sample.fixations(int(index))
        rows, columns = np.nonzero(fixations)
        yield (rows + 0.5) / fixations.shape[0], (columns + 0.5) / fixations.shape[1]


class SpectralResidual(Method):
    """Spectral residual saliency (Hou and Zhang, 2007) of each frame by itself."""

    name = "spectral-residual"
    description = "of the grey frame at a width of 64, blurred with sigma 3"
    fingerprint = description

    def maps(self, sample: Sample, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for image in frames_at(sample, indices):
            yield spectral_residual(image)


def spectral_residual(image: np.ndarray, working_width: int = 64, sigma: float = 3.0) -> np.ndarray:
    """
    Spectral residual saliency of one image.

    Args:
        image: uint8 `(height, width, 3)`.
        working_width: pixels to which the image is reduced.
        sigma: of the Gaussian blur, in pixels of the reduced image.

    Returns:
        Non-negative float64 `(height, width)`.
    """
    height, width = image.shape[:2]
    rows = max(1, (working_width * height + width // 2) // width)
    grey = resized_antialiased(image @ np.array([0.299, 0.587, 0.114]), (rows, working_width))
    spectrum = np.fft.fft2(grey)
    log_amplitude = np.log(np.abs(spectrum) + 1e-12)
    surroundings = torch.from_numpy(np.pad(log_amplitude, 1, mode="wrap"))[None, None]
    residual = log_amplitude - F.avg_pool2d(surroundings, 3, stride=1)[0, 0].numpy()
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    blurred = gaussian_blur(torch.from_numpy(saliency), sigma, border="reflect")
    return resized_antialiased(blurred, (height, width)).clip(min=0)


def resized_antialiased(saliency: np.ndarray | torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """One map, resized bilinearly: float64 of that (height, width)."""
    tensor = torch.as_tensor(saliency, dtype=torch.float64)[None, None]
    return F.interpolate(tensor, size=tuple(size), mode="bilinear", antialias=True)[0, 0].numpy()


class InterObserver(Method):
    """Every other observer of a still predicts the rest."""

    name = "inter-observer"
    description = "every other observer's density, scored against the other observers' fixations"
    fingerprint = description

    def check(self, dataset) -> None:
        if "observer" not in dataset.features or not any(len(set(ids)) > 1 for ids in dataset["observer"]):
            raise EvaluationError(
                "The baseline inter-observer needs to know who made each fixation, which this dataset does not tell; "
                "leave it out."
            )

    def maps(self, sample: GazeStill, indices: Sequence[int]) -> Iterator[np.ndarray]:
        for _ in indices:
            yield sample.density_of(np.unique(sample.observer)[::2])

    def truth(self, sample: GazeStill, index: int) -> tuple[np.ndarray, np.ndarray]:
        others = np.unique(sample.observer)[1::2]
        return sample.fixations_of(others), sample.density_of(others)


__all__ = [
    "BASELINES",
    "Center",
    "EvaluationError",
    "InterObserver",
    "Method",
    "Model",
    "Predictions",
    "SpectralResidual",
]
