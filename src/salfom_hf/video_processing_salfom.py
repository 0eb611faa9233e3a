"""Video processor: frames in any common form to what SalFoM reads, and its maps back to the source's size."""

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.video_processing_utils import VideoProcessorMixin

from .pretrained import resolve
from .video import read_frames


class SalFoMVideosKwargs(VideosKwargs, total=False):
    """
    Attributes:
        keep_aspect_ratio (`bool`): resize to about the area of `size` in the video's own shape instead of to `size`.
        size_divisor (`int`): with `keep_aspect_ratio`, both sides become multiples of it.
        still_size (`dict`): what counts for stills in place of `size`.
    """

    keep_aspect_ratio: bool | None
    size_divisor: int | None
    still_size: dict[str, int] | None


def is_one_video(videos) -> bool:
    """Whether the argument is a single video (or image) rather than a list of them."""
    if isinstance(videos, (str, os.PathLike, Image.Image)):
        return True
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        return videos.ndim <= 4
    if not videos:
        raise ValueError("There are no frames to process.")
    first = videos[0]
    return isinstance(first, Image.Image) or (isinstance(first, (np.ndarray, torch.Tensor)) and first.ndim <= 3)


def plain_tensor(pixels) -> torch.Tensor:
    if isinstance(pixels, Image.Image):
        pixels = np.array(pixels.convert("RGB"))
    if isinstance(pixels, np.ndarray) and (not pixels.flags.writeable or min(pixels.strides, default=0) < 0):
        # Torch takes neither reversed axes, as where BGR was made RGB, nor read-only memory.
        pixels = pixels.copy()
    return torch.as_tensor(pixels)


def to_tensor(frames) -> torch.Tensor:
    """
    One video (or image) as a tensor `(frames, channels, height, width)` of its own dtype; channels may come first or
    last, grey images may lack them, transparency is dropped.

    Raises:
        ValueError: the argument is no video.
    """
    if isinstance(frames, Image.Image):
        frames = [frames]
    if isinstance(frames, (list, tuple)):
        if not frames:
            raise ValueError("There are no frames to process.")
        frames = [plain_tensor(frame) for frame in frames]
        if len({frame.shape for frame in frames}) > 1:
            raise ValueError("All frames of a video must have one size; resize them to the first one's.")
        frames = torch.stack(frames)
        if frames.ndim == 3:  # Grey images.
            frames = frames.unsqueeze(-1)
    frames = plain_tensor(frames)
    if frames.ndim == 2:
        frames = frames[None, None]
    elif frames.ndim == 3:
        if frames.shape[0] not in (1, 3) and frames.shape[-1] not in (1, 3, 4):
            shape = tuple(frames.shape)
            raise ValueError(
                f"An array of shape {shape} is no picture; a grey video needs (frames, height, width, 1)."
            )
        frames = frames.unsqueeze(0)
    if frames.ndim != 4 or 0 in frames.shape:
        raise ValueError(f"A video needs the shape (frames, height, width, 3), not {tuple(frames.shape)}.")
    if frames.shape[-1] in (1, 3, 4) and frames.shape[1] not in (1, 3):
        frames = frames.permute(0, 3, 1, 2)
    if frames.shape[1] not in (1, 3, 4):
        raise ValueError(f"A video needs 3 colour channels, first or last; this one is {tuple(frames.shape)}.")
    return frames[:, :3].expand(-1, 3, -1, -1)


class SalFoMVideoProcessor(VideoProcessorMixin):
    r"""
    Prepares videos for SalFoM: the last `num_frames` frames of each (shorter ones padded in front with their first
    frame), resized bilinearly with antialiasing as PIL does, scaled and normalised.

    Args:
        size (`dict`, defaults to `{"height": 224, "width": 224}`): size of the frames for the model.
        keep_aspect_ratio (`bool`, defaults to `False`): resize to about the area of `size` in the video's own shape.
        size_divisor (`int`, defaults to 16): with `keep_aspect_ratio`, both sides become multiples of it.
        still_size (`dict`, *optional*): what counts for stills in place of `size`. A still is predicted once, and may
            take more time than a frame of a video.
        num_frames (`int`, defaults to 16): frames of the window.
        do_sample_frames (`bool`, defaults to `True`): whether to take the last window; else all frames are kept.
        do_resize, do_rescale, do_normalize (`bool`, default to `True`): which steps are done.
        rescale_factor (`float`, defaults to 1/255): pixel values are multiplied by it.
        image_mean, image_std (three `float`, default to ImageNet's): of the rescaled pixels.
    """

    valid_kwargs = SalFoMVideosKwargs
    model_input_names = ["pixel_values_videos"]  # noqa: RUF012
    resample = PILImageResampling.BILINEAR
    size = {"height": 224, "width": 224}  # noqa: RUF012
    default_to_square = True
    keep_aspect_ratio = False
    size_divisor = 16
    still_size = None
    num_frames = 16
    do_sample_frames = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    rescale_factor = 1 / 255
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD

    def __init__(self, **kwargs: Unpack[SalFoMVideosKwargs]):
        super().__init__(**kwargs)
        self._set_attributes(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in transformers; also accepts the package's own names (`salfom_hf.pretrained`)."""
        return super().from_pretrained(resolve(pretrained_model_name_or_path), *args, **kwargs)

    def sample_frames(self, frames: Sequence, num_frames: int | None = None, **kwargs) -> list:
        """The last `num_frames` of a sequence of frames, the first one repeated in front where there are fewer."""
        length = num_frames or self.num_frames
        window = list(frames[-length:])
        return [window[0]] * (length - len(window)) + window

    def _decode_and_sample_videos(self, videos, video_metadata=None, do_sample_frames=None, sample_indices_fn=None):
        videos = [videos] if is_one_video(videos) else list(videos)
        clips = []
        for video in videos:
            if isinstance(video, (str, os.PathLike)):
                # Only the window is needed, so no more of a long file is held.
                keep = sample_indices_fn.keywords["num_frames"] if do_sample_frames else None
                frames = deque((frame.image for frame in read_frames(Path(video))), maxlen=keep)
                video = np.stack(frames)
            clip = to_tensor(video)
            if do_sample_frames:
                clip = torch.stack(sample_indices_fn(clip))
            clips.append(clip)
        return clips, video_metadata

    def _prepare_input_videos(self, videos, device=None, **kwargs) -> list[torch.Tensor]:
        return [video.to(device) if device is not None else video for video in videos]

    def target_size(
        self,
        height: int,
        width: int,
        size: SizeDict | None = None,
        keep_aspect_ratio: bool | None = None,
        size_divisor: int | None = None,
        still: bool = False,
    ) -> tuple[int, int]:
        """The (height, width) in pixels to which frames of a given size are resized; `still` if it is the only one."""
        if size is None:
            size = SizeDict(**self.still_size) if still and self.still_size else self.size
        if not (self.keep_aspect_ratio if keep_aspect_ratio is None else keep_aspect_ratio):
            return size.height, size.width
        scale = (size.height * size.width / (height * width)) ** 0.5
        divisor = size_divisor or self.size_divisor
        return tuple(max(1, round(side * scale / divisor)) * divisor for side in (height, width))

    def prepare_frames(
        self,
        frames: torch.Tensor,
        do_resize: bool | None = None,
        size: SizeDict | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean=None,
        image_std=None,
        keep_aspect_ratio: bool | None = None,
        size_divisor: int | None = None,
        still: bool = False,
    ) -> torch.Tensor:
        """
        Resize, rescale and normalise frames; options not given are the processor's own.

        Args:
            frames: uint8 or float `(frames, 3, height, width)`, values in 0…255.
            still: each is a still rather than a frame of a video.

        Returns:
            float32 `(frames, 3, height', width')`.
        """

        def own(value, name):
            return getattr(self, name) if value is None else value

        if own(do_resize, "do_resize"):
            target = self.target_size(*frames.shape[-2:], size, keep_aspect_ratio, size_divisor, still)
            if tuple(frames.shape[-2:]) != target:
                # Only the CPU resizes uint8; there the result is rounded as PIL rounds it.
                was_uint8 = frames.dtype == torch.uint8
                frames = frames if was_uint8 and frames.device.type == "cpu" else frames.float()
                frames = F.interpolate(frames, size=target, mode="bilinear", align_corners=False, antialias=True)
                if was_uint8 and frames.dtype != torch.uint8:
                    frames = frames.round().clamp(0, 255)
        frames = frames.float()
        if own(do_rescale, "do_rescale"):
            frames = frames * own(rescale_factor, "rescale_factor")
        if own(do_normalize, "do_normalize"):
            mean = frames.new_tensor(own(image_mean, "image_mean")).view(-1, 1, 1)
            std = frames.new_tensor(own(image_std, "image_std")).view(-1, 1, 1)
            frames = (frames - mean) / std
        return frames

    def _preprocess(self, videos: list[torch.Tensor], return_tensors=None, **kwargs) -> BatchFeature:
        steps = (
            *("do_resize", "size", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
            *("keep_aspect_ratio", "size_divisor"),
        )
        clips = [self.prepare_frames(video, **{name: kwargs.get(name) for name in steps}) for video in videos]
        if len({clip.shape for clip in clips}) == 1:
            clips = torch.stack(clips)
        elif return_tensors is not None:
            raise ValueError("Videos of different shapes cannot be one batch; process them one by one.")
        return BatchFeature({"pixel_values_videos": clips}, tensor_type=return_tensors)

    def post_process_saliency(self, outputs, target_sizes: Sequence[tuple[int, int]] | None = None):
        """
        Saliency maps at the size of the source.

        Args:
            outputs: what the model returned; its `saliency` is `(batch, height, width)`.
            target_sizes: one (height, width) per map; `None` keeps the model's size.

        Returns:
            List of float32 `(height, width)` with values in 0…1, resized bilinearly.

        Raises:
            ValueError: not one size per map.
        """
        maps = outputs.saliency.float()
        if target_sizes is None:
            return list(maps)
        if len(target_sizes) != len(maps):
            raise ValueError(f"{len(maps)} maps need {len(maps)} target_sizes, not {len(target_sizes)}.")
        return [resize_map(saliency, size) for saliency, size in zip(maps, target_sizes, strict=True)]


def resize_map(saliency: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """One map `(height, width)`, resized bilinearly to `size`."""
    return F.interpolate(saliency[None, None], size=tuple(size), mode="bilinear", align_corners=False)[0, 0]


__all__ = ["SalFoMVideoProcessor"]
