"""Video processor: frames in any common form to what SalFoM reads, and its maps back to the source's size."""

import math
import os
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import get_size_dict
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ChannelDimension, SizeDict
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoMetadata, make_batched_metadata

from ..video.pictures import IMAGE_RATE, rgb_of
from ..video.reading import Frame, exact_part, probe, read_frames
from .losses import gaussian_blur
from .names import takes_names

# Standard deviation of the Gaussian that the maps of stills are blurred with, as a share of their width.
STILL_BLUR = 0.012

MOST_PIXELS, MOST_AREA = 4096, 2**22  # of a side, and in all, of what frames are resized to

# Options of transformers' video processors that have one value here.
FIXED = {
    "do_convert_rgb": True,
    "do_center_crop": False,
    "crop_size": None,
    "do_pad": False,
    "pad_size": None,
    "resample": Image.Resampling.BILINEAR,
    "data_format": ChannelDimension.FIRST,
}
WHOLE = ("num_frames", "size_divisor")  # numbers, that have a limit
NUMBERS = (*WHOLE, "fps", "rescale_factor", "image_mean", "image_std")


class SalFoMVideosKwargs(VideosKwargs, total=False):
    """See [`SalFoMVideoProcessor`]; `pad_size` is known to some image processors and refused here."""

    keep_aspect_ratio: bool | None
    size_divisor: int | None
    still_size: dict[str, int] | None
    pad_size: dict[str, int] | None


def check_options(options: Mapping[str, Any]) -> None:
    """Raise a ValueError for a value that this processor cannot honour."""
    for name, value in options.items():
        if value is None:
            continue
        if name in FIXED and value != FIXED[name]:
            raise ValueError(f"SalFoMVideoProcessor does not support {name}={value}; leave {name} out.")
        if (name.startswith("do_") or name == "keep_aspect_ratio") and not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, not {value!r}.")
        if name in NUMBERS:
            values, most = np.ravel(np.array(value, object)), MOST_PIXELS + 1 if name in WHOLE else math.inf
            counts, what = ((1, 3), "one number or three") if name.startswith("image_") else ((1,), "a number")
            if len(values) not in counts or not all(isinstance(n, Real) and abs(float(n)) < most for n in values):
                raise ValueError(f"{name} must be {what} below {most}, not {value!r}.")
            if name != "image_mean" and min(values) <= 0:
                raise ValueError(f"{name} must be above 0, not {value}.")
        if name in ("size", "still_size") and isinstance(value, (dict, SizeDict)):
            sides = dict(value)
            fine = [isinstance(side, Integral) and 0 < int(side) <= MOST_PIXELS for side in sides.values()]
            if set(sides) != {"height", "width"} or not all(fine) or math.prod(sides.values()) > MOST_AREA:
                limits = f"in 1…{MOST_PIXELS}, of at most {MOST_AREA:,} pixels, and nothing else"
                raise ValueError(f"{name} needs a height and a width {limits}, not {sides}.")


def is_one_video(videos: Any) -> bool:
    """Whether this is a single video (or image) rather than several."""
    if isinstance(videos, (str, os.PathLike, Image.Image)):
        return True
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        return videos.ndim <= 4
    if not isinstance(videos, (list, tuple)):
        raise TypeError(f"A video is a path, a list of images, an array or a tensor, not {type(videos).__name__}.")
    if not videos:
        raise ValueError("There are no frames to process.")
    first = videos[0]
    return isinstance(first, Image.Image) or (isinstance(first, (np.ndarray, torch.Tensor)) and first.ndim <= 3)


def each_video(videos: Any) -> list:
    """The videos of an argument that may be one, a batch, or lists in lists."""
    if is_one_video(videos):
        return [videos]
    if isinstance(videos, (list, tuple)):
        return [video for part in videos for video in each_video(part)]
    return list(videos)


def check_floats(frames: torch.Tensor, rescaled: bool) -> None:
    """Refuse floats that are not finite or, if they will be `rescaled` from 0…255, seem not to be in that range."""
    low, high = (float(value) for value in frames.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("These frames hold values that are infinite or not a number; replace them.")
    if rescaled and (low < 0 or high > 255):
        raise ValueError(f"Frames of floats need values in 0…255, and these are in {low:g}…{high:g}; scale them.")
    # A little above 1 is what resizing leaves; a dark frame of 0…255 has whole numbers.
    if rescaled and 0 < high <= 2 and (high <= 1 or bool((frames != frames.round()).any())):
        raise ValueError("These frames seem to hold floats in 0…1, not in 0…255; multiply them by 255.")


def plain_tensor(pixels: Any) -> torch.Tensor:
    if isinstance(pixels, Image.Image):
        return torch.from_numpy(rgb_of(pixels))
    if isinstance(pixels, np.ndarray) and (not pixels.flags.writeable or min(pixels.strides, default=0) < 0):
        pixels = pixels.copy()  # Torch takes neither reversed axes, as of BGR made RGB, nor read-only memory.
    return torch.as_tensor(pixels)


def uint8_or_float(frames: torch.Tensor) -> torch.Tensor:
    """Frames of any dtype as uint8, where that loses nothing, or as the floats that they are; refused if in doubt."""
    if frames.dtype == torch.uint8 or frames.is_floating_point():
        return frames
    if frames.dtype == torch.bool:
        return frames.to(torch.uint8) * 255
    if frames.dtype == torch.uint16:
        raise ValueError("Frames of uint16 may have any number of bits; scale them to 0…255 and make them uint8.")
    if frames.is_complex():
        raise ValueError(f"Frames need values in 0…255, not {frames.dtype}.")
    frames = frames.to(torch.int64)
    low, high = frames.aminmax()
    if low < 0 or high > 255 or high == 1:
        raise ValueError(f"Frames need values in 0…255, and these are in {low}…{high}; scale them.")
    return frames.to(torch.uint8)


def to_tensor(frames: Any, order: str | ChannelDimension | None = None) -> torch.Tensor:
    """
    One video (or image) as a tensor `(frames, 3, height, width)`, uint8 or float as it was; channels may come first or
    last, grey images may lack them, and transparency is put over black.

    Args:
        order: `"channels_first"` or `"channels_last"`, of arrays and tensors; found out if `None`.

    Raises:
        ValueError: the argument is no video, or it is not certain what its values mean.
    """
    if isinstance(frames, (Image.Image, list, tuple)):
        images = [frames] if isinstance(frames, Image.Image) else frames
        if not images:
            raise ValueError("There are no frames to process.")
        if isinstance(images[0], Image.Image):
            order = ChannelDimension.LAST
        tensors = [plain_tensor(image) for image in images]
        if len({(image.shape, image.dtype) for image in tensors}) > 1:
            raise ValueError("All frames of a video must have one size and dtype; resize them to the first one's.")
        frames = torch.stack(tensors)
        if frames.ndim == 3:  # Grey images.
            frames, order = frames.unsqueeze(-1), ChannelDimension.LAST
    frames = plain_tensor(frames)
    shape = tuple(frames.shape)
    if len(shape) == 2:
        frames, order = frames[None, ..., None], ChannelDimension.LAST
    elif len(shape) == 3:
        if order is None and shape[0] not in (1, 3) and shape[-1] not in (1, 3, 4):
            raise ValueError(
                f"An array of shape {shape} is no picture; a grey video needs (frames, height, width, 1)."
            )
        frames = frames.unsqueeze(0)
    shape = tuple(frames.shape)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(f"A video needs the shape (frames, height, width, 3), not {shape}.")
    first = shape[1] in (1, 3) or shape[-1] not in (1, 3, 4)
    if first if order is None else ChannelDimension(order) is ChannelDimension.FIRST:
        frames = frames.movedim(1, -1)
    if frames.shape[-1] not in (1, 3, 4):
        raise ValueError(f"A video needs 3 colour channels, first or last; this one is {shape}.")
    frames = uint8_or_float(frames)
    if frames.shape[-1] == 4:
        rgb, alpha = frames[..., :3], frames[..., 3:]
        if frames.is_floating_point():  # In 0…255, or rescaled already.
            frames = rgb * (alpha / (255 if alpha.max() > 1 else 1))
        else:
            frames = ((rgb.to(torch.int32) * alpha + 127) // 255).to(torch.uint8)
    return frames.movedim(-1, 1).expand(-1, 3, -1, -1)


def pixels_of(image: np.ndarray) -> torch.Tensor:
    """A frame `(height, width, 3)`, as it is read, in the network's layout: `(1, 3, height, width)`."""
    return torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)


def frames_of(video: Any, start: float = 0.0, duration: float | None = None) -> Generator[Frame]:
    """Frames of a file, a folder of images, an array, or an iterable of images (at 25 frames per second)."""
    if isinstance(video, (str, os.PathLike)):
        yield from read_frames(video, start, duration)
        return
    if isinstance(video, (Image.Image, np.ndarray, torch.Tensor)):
        video = to_tensor(video)
    first, length = exact_part(start, duration)
    end = math.inf if length is None else first + length
    for index, image in enumerate(video):
        timestamp = index / IMAGE_RATE
        if timestamp >= end:
            return
        if timestamp + 1 / IMAGE_RATE > first:  # As in a file, a part begins with the frame on screen.
            pixels = to_tensor(image)[0].permute(1, 2, 0)
            if pixels.dtype != torch.uint8:
                raise ValueError(f"Frames must hold uint8 values in 0…255, not {pixels.dtype}.")
            yield Frame(np.ascontiguousarray(pixels.cpu().numpy()), max(timestamp, first))


def last_frames(path: Path, num_frames: int | None, fps: float | None) -> tuple[torch.Tensor, VideoMetadata]:
    """A file as [`to_tensor`]: all its frames, or the last ones if no more are needed for `num_frames` at `fps`."""
    info = probe(path)
    rate, total = float(info.frame_rate), 0
    needed = num_frames if num_frames is None or fps is None else math.ceil(num_frames * rate / fps)
    images: deque[np.ndarray] = deque(maxlen=needed)
    for frame in read_frames(path):
        images.append(frame.image)
        total += 1
    metadata = VideoMetadata(total, rate, info.width, info.height, total / rate, "pyav")
    return to_tensor(np.stack(images), ChannelDimension.LAST), metadata


def resize_map(saliency: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """One map `(height, width)`, resized bilinearly to `size`."""
    return F.interpolate(saliency[None, None], size=tuple(size), mode="bilinear", align_corners=False)[0, 0]


def mirror_averaged(maps: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """The mean of the maps of stills and of their mirror images, `(stills, height, width)` each, slightly blurred."""
    maps = (maps.float() + mirrored.float().flip(-1)) / 2
    return gaussian_blur(maps, STILL_BLUR * maps.shape[-1], "reflect")


@takes_names
class SalFoMVideoProcessor(VideoProcessorMixin):
    r"""
    Prepares videos for SalFoM: the last `num_frames` frames of each (shorter ones padded in front with their first
    frame), resized bilinearly with antialiasing as PIL does, scaled and normalised. A still, which is a video of one
    frame, stays one.

    Args:
        size (`dict`, defaults to `{"height": 224, "width": 224}`): size of the frames for the model.
        keep_aspect_ratio (`bool`, defaults to `False`): resize to about the area of `size` in the video's own shape.
        size_divisor (`int`, defaults to 16): with `keep_aspect_ratio`, both sides become multiples of it.
        still_size (`dict`, *optional*): what counts for stills in place of `size`. A still is predicted once, and may
            take more time than a frame of a video.
        num_frames (`int`, defaults to 16): frames of the window.
        fps (`float`, *optional*): frames per second to sample at, up to the last frame; `None` takes every frame. In a
            call without `num_frames`, all frames at this rate are taken.
        do_sample_frames (`bool`, defaults to `True`): whether to take the last window; else all frames are kept.
        do_resize, do_rescale, do_normalize (`bool`, default to `True`): which steps are done.
        rescale_factor (`float`, defaults to 1/255): pixel values are multiplied by it.
        image_mean, image_std (three `float`, default to ImageNet's): of the rescaled pixels.

    Of the other options of transformers' video processors, `device`, `input_data_format`, `return_metadata`,
    `return_tensors` and `video_metadata` are for calls; those that change which part of the picture the model sees, or
    how it is resized, raise a ValueError.

    Pixels are in 0…255, of any dtype but uint16, which may have any number of bits. Unless `do_rescale=False` is
    given, floats in 0…1 are refused: they would become almost black.
    """

    valid_kwargs = SalFoMVideosKwargs
    resample = Image.Resampling.BILINEAR
    size: dict[str, int] | SizeDict = {"height": 224, "width": 224}  # noqa: RUF012
    keep_aspect_ratio = False
    size_divisor = 16
    still_size: dict[str, int] | None = None
    num_frames = 16
    fps: float | None = None
    input_data_format: str | ChannelDimension | None = None
    do_sample_frames = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    rescale_factor = 1 / 255
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD

    def __init__(self, **kwargs: Unpack[SalFoMVideosKwargs]) -> None:
        # A null in a file of settings is the default.
        options: dict[str, Any] = {name: value for name, value in kwargs.items() if value is not None}
        check_options(options)
        super().__init__(**options)
        self._set_attributes(**options)

    def _standardize_kwargs(self, **kwargs: Any) -> dict:
        kwargs = super()._standardize_kwargs(**kwargs)
        check_options(kwargs)  # Of a size that was one number, or a list.
        return kwargs

    def preprocess(self, videos: Any, **kwargs: Unpack[SalFoMVideosKwargs]) -> BatchFeature:
        """
        Args:
            videos: a video (path, list of images, array or tensor of up to four dimensions), or a list or batch of
                them.
            kwargs: options for this call; see the class.

        Returns:
            `pixel_values_videos`: float32 `(videos, frames, 3, height, width)`, of stills one frame; without
            `return_tensors`, and where shapes differ, a list of tensors. With `return_metadata`, also
            `video_metadata`, one per video.

        Raises:
            TypeError: an option is unknown.
            ValueError: an option cannot be honoured, or the pixels are not as the class says.
            VideoError: a file cannot be read.
        """
        given: dict[str, Any] = {name: value for name, value in kwargs.items() if value is not None}
        check_options(given)
        if "still_size" in given:
            raise ValueError("still_size is an option of the processor, not of a call; give size for this one.")
        if "size" in given:
            kwargs["still_size"] = dict(get_size_dict(given["size"], default_to_square=True))
        if not self.option("do_sample_frames", given) and given.keys() & {"fps", "num_frames"}:
            raise ValueError(
                "fps and num_frames say which frames are sampled; leave them out or do_sample_frames=False."
            )
        if "fps" in given:
            kwargs.setdefault("num_frames", None)
        order = self.option("input_data_format", given)
        videos = [
            video if isinstance(video, (str, os.PathLike)) else to_tensor(video, order) for video in each_video(videos)
        ]
        return super().preprocess(videos, **kwargs)

    def sample_frames(
        self, metadata: VideoMetadata, num_frames: int | None = None, fps: float | None = None, **kwargs: Any
    ) -> np.ndarray:
        """
        Which frames of a video are taken, int `(frames,)` from 0, not decreasing, up to the last frame: the last
        `num_frames` of those that `fps` leaves.

        Args:
            metadata: `total_num_frames` and, with `fps`, the video's own `fps`.
            num_frames: how many; the first one is repeated in front where there are fewer, unless it is a still.
                `None` takes all if `fps` is given, else the processor's own number.
            fps: frames per second, counted back from the last frame; `None` takes the processor's own rate.

        Raises:
            ValueError: the video's own rate is unknown, or lower than `fps`.
        """
        if fps is None:
            num_frames, fps = num_frames or self.num_frames, self.fps
        total = metadata.total_num_frames
        indices = np.arange(total)
        if fps is not None:
            if metadata.fps is None or metadata.fps < fps:
                raise ValueError(
                    f"Cannot take {fps:g} frames per second of a video of {metadata.fps or 'unknown'} frames per "
                    "second; give video_metadata with a higher fps, or leave fps out."
                )
            step = metadata.fps / fps
            # Rates such as 29.97 are no exact numbers: a product just below a whole one is that one.
            back = np.arange(max(1, int(total / step + 1e-6))) * step + 1e-6
            indices = total - 1 - back.astype(int)[::-1]
        if num_frames is None or total == 1:
            return indices
        indices = indices[-num_frames:]
        return np.concatenate([indices[:1].repeat(num_frames - len(indices)), indices])

    def _decode_and_sample_videos(
        self, videos: list, video_metadata: Any = None, sample_indices_fn: Any = None, **kwargs: Any
    ) -> tuple[list[tuple[torch.Tensor, bool]], list[VideoMetadata]]:
        """The clips, each with whether it is a still, and what they are of; all frames without `sample_indices_fn`."""
        clips, sampled = [], []
        all_metadata = make_batched_metadata(videos, video_metadata or [None] * len(videos))
        for clip, metadata in zip(videos, all_metadata, strict=True):
            if isinstance(clip, (str, os.PathLike)):
                options = sample_indices_fn.keywords if sample_indices_fn else {}
                clip, metadata = last_frames(Path(clip), options.get("num_frames"), options.get("fps"))
            elif metadata is None:
                metadata = VideoMetadata(len(clip), height=clip.shape[2], width=clip.shape[3])
            elif sample_indices_fn and metadata.total_num_frames != len(clip):
                raise ValueError(
                    f"video_metadata says {metadata.total_num_frames} frames of a video that has {len(clip)}; "
                    "correct it, or pass do_sample_frames=False."
                )
            total = metadata.total_num_frames
            indices = np.arange(total)
            if sample_indices_fn:
                indices = sample_indices_fn(metadata=metadata)
                clip = clip[torch.from_numpy(indices - (total - len(clip)))]
            clips.append((clip, len(clip) == total == 1))
            sampled.append(replace(metadata, frames_indices=indices.tolist()))
        return clips, sampled

    def _prepare_input_videos(self, videos: list, device: Any = None, **kwargs: Any) -> list:
        return videos if device is None else [(clip.to(device), still) for clip, still in videos]

    def option(self, name: str, options: Mapping[str, Any]) -> Any:
        """An option of a call or, where that does not give it, the processor's own."""
        return getattr(self, name) if options.get(name) is None else options[name]

    def target_size(self, height: int, width: int, still: bool = False, **options: Any) -> tuple[int, int]:
        """The (height, width) in pixels to which frames of a given size are resized; see [`prepare_frames`]."""
        size = options.get("size") or (still and self.still_size) or self.size
        if not self.option("keep_aspect_ratio", options):
            return size["height"], size["width"]
        scale = (size["height"] * size["width"] / (height * width)) ** 0.5
        divisor = self.option("size_divisor", options)
        height, width = (max(1, round(side * scale / divisor)) * divisor for side in (height, width))
        return height, width

    def fix_size(self, height: int, width: int) -> None:
        """From now on, resize all frames to this size, those of stills too."""
        self.size, self.still_size, self.keep_aspect_ratio = SizeDict(height=height, width=width), None, False

    def prepare_frames(self, frames: torch.Tensor, still: bool = False, **options: Any) -> torch.Tensor:
        """
        Resize, rescale and normalise frames: to float32 `(frames, 3, height', width')`.

        Args:
            frames: uint8 or float `(frames, 3, height, width)`, values in 0…255.
            still: each is a still rather than a frame of a video.
            options: `do_resize`, `size`, `keep_aspect_ratio`, `size_divisor`, `do_rescale`, `rescale_factor`,
                `do_normalize`, `image_mean`, `image_std`; those not given are the processor's own.
        """
        if self.option("do_resize", options):
            height, width = frames.shape[-2:]
            target = self.target_size(height, width, still, **options)
            if (height, width) != target:
                # Only the CPU resizes uint8; there the result is rounded as PIL rounds it.
                was_uint8 = frames.dtype == torch.uint8
                frames = frames if was_uint8 and frames.device.type == "cpu" else frames.float()
                frames = F.interpolate(frames, size=target, mode="bilinear", align_corners=False, antialias=True)
                if was_uint8 and frames.dtype != torch.uint8:
                    frames = frames.round().clamp(0, 255)
        frames = frames.float()
        if self.option("do_rescale", options):
            frames = frames * self.option("rescale_factor", options)
        if self.option("do_normalize", options):
            mean, std = (self.option(name, options) for name in ("image_mean", "image_std"))
            frames = (frames - frames.new_tensor(mean).view(-1, 1, 1)) / frames.new_tensor(std).view(-1, 1, 1)
        return frames

    def _preprocess(self, videos: list, return_tensors: Any = None, **kwargs: Any) -> BatchFeature:
        clips = []
        for video, still in videos:
            if video.is_floating_point():
                check_floats(video, rescaled=kwargs["do_rescale"] and kwargs["rescale_factor"] < 1)
            size = (still and kwargs["still_size"]) or kwargs["size"]
            clips.append(self.prepare_frames(video, **{**kwargs, "size": size}))
        one_shape = len({clip.shape for clip in clips}) == 1
        if not one_shape and return_tensors is not None:
            raise ValueError("Videos of different shapes cannot be one batch; process them one by one.")
        pixels = torch.stack(clips) if one_shape else clips
        return BatchFeature({"pixel_values_videos": pixels}, tensor_type=return_tensors)

    def post_process_saliency(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None, mirrored: Any = None
    ) -> list[torch.Tensor]:
        """
        Saliency maps at the size of the source: float32 `(height, width)` each, values in 0…1, resized bilinearly.

        Args:
            outputs: what the model returned; its `saliency` is `(batch, height, width)`.
            target_sizes: one (height, width) per map; `None` keeps the model's size.
            mirrored: what it returned for the mirror images of stills, `pixel_values_videos.flip(-1)`. Then the maps
                are the means of both, slightly blurred, as [`SaliencyPredictor`] predicts stills.

        Raises:
            ValueError: not one size per map.
        """
        maps = outputs.saliency.float() if mirrored is None else mirror_averaged(outputs.saliency, mirrored.saliency)
        if target_sizes is None:
            return list(maps)
        if len(target_sizes) != len(maps):
            raise ValueError(f"{len(maps)} maps need {len(maps)} target_sizes, not {len(target_sizes)}.")
        return [resize_map(saliency, size) for saliency, size in zip(maps, target_sizes, strict=True)]
