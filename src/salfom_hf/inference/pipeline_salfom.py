"""The transformers pipeline `video-saliency-prediction`: videos to maps with their times.

It goes with published models: this file and what it imports is all the code that they need.
"""

import os
from collections.abc import Iterator, Sized
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import Pipeline
from transformers.dynamic_module_utils import custom_object_save
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from ..errors import VideoError
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.video_processing_salfom import SalFoMVideoProcessor, frames_of, is_one_video, pixels_of, resize_map
from ..video.reading import Frame
from .cuts import shots
from .sliding_window import is_still, still_maps, window_maps

TASK = "video-saliency-prediction"


class VideoSaliencyPipeline(Pipeline):
    """
    Saliency of every frame of videos, by a causal sliding window.

    A video's frames and maps are held in memory.

    Args:
        batch_size: videos per step.
        windows: windows of a video per call of the network.
        num_workers: processes that decode the next videos of a list meanwhile.
        stride: every how many frames the network runs; maps between are interpolated. 1 as in the paper.
        start, duration: part of each video, in seconds.
    """

    # transformers has no annotations of these, and takes any class of video processors.
    _load_processor = _load_image_processor = _load_feature_extractor = _load_tokenizer = False  # type: ignore[assignment]
    _load_video_processor = True  # type: ignore[assignment]
    video_processor: SalFoMVideoProcessor  # type: ignore[assignment]
    model: SalFoMForVideoSaliencyPrediction
    PREPROCESSING: tuple[str, ...] = ("start", "duration")
    FORWARD = ("stride", "windows")

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict, dict, dict]:
        if unknown := sorted(set(parameters).difference(self.PREPROCESSING, self.FORWARD)):
            raise TypeError(f"{type(self).__name__} has no parameter '{unknown[0]}'.")
        preprocessing = {name: value for name, value in parameters.items() if name in self.PREPROCESSING}
        return preprocessing, {name: parameters[name] for name in parameters.keys() - preprocessing}, {}

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """
        Args:
            inputs: one video: the path of a video or image, a folder of images, a uint8 array or tensor
                `(frames, height, width, 3)`, or a list of images. Or several: a list of those, or a dataset or
                generator, whose results come one by one.
            kwargs: see the class.

        Returns:
            For one video a dictionary of `maps`, float32 `(frames, height, width)` at the frames' size with values in
            0…1, and `timestamps`, float64 `(frames,)` in seconds. For several a list, or an iterator, of those.

        Raises:
            VideoError: a video cannot be read.
            ValueError: frames are not images of one size.
        """
        listed = isinstance(inputs, (list, tuple, np.ndarray, torch.Tensor))
        if isinstance(inputs, (str, os.PathLike, Image.Image)) or (listed and is_one_video(inputs)):
            return super().__call__([inputs], **kwargs)[0]
        return super().__call__(list(inputs) if listed else inputs, **kwargs)

    def get_iterator(
        self, inputs: Any, num_workers: int, batch_size: int, preprocess_params: dict, forward_params: dict, *_: Any
    ) -> Iterator[dict]:
        # As in transformers, but videos differ in length and shape: a batch is a list of them.
        sized = isinstance(inputs, Sized)
        videos = (PipelineDataset if sized else PipelineIterator)(inputs, self.preprocess, preprocess_params)
        workers = num_workers if sized else min(num_workers, 1)
        loader = DataLoader(videos, batch_size=batch_size, num_workers=workers, collate_fn=list)
        for batch in PipelineIterator(loader, self.forward, forward_params):
            yield from batch

    def frames(self, video: Any, start: float = 0.0, duration: float | None = None) -> list[Frame]:
        return list(frames_of(video, start, duration))

    def preprocess(self, video: Any, **options: Any) -> dict:
        try:
            frames = self.frames(video, **options)
        except (VideoError, ValueError) as error:
            # Raised later: from another process, the sentence would arrive inside a traceback.
            return {"error": error}
        return {
            "frames": [frame.image for frame in frames],
            "timestamps": np.array([float(frame.timestamp) for frame in frames]),
        }

    def _forward(self, videos: list[dict], stride: int = 1, windows: int = 4) -> list[dict]:
        if errors := [video["error"] for video in videos if "error" in video]:
            raise errors[0]
        return [
            {"maps": self.predict(video["frames"], stride, windows), "timestamps": video["timestamps"]}
            for video in videos
        ]

    def predict(self, frames: list[np.ndarray], stride: int, windows: int) -> np.ndarray:
        """The maps `(frames, height, width)` of frames `(height, width, 3)`, uint8."""
        still, all_frames = is_still(frames)

        def prepared(frame: np.ndarray) -> torch.Tensor:
            # Resized on the CPU, as by `SaliencyPredictor`.
            pixels = self.video_processor.prepare_frames(pixels_of(frame), still=still)[0]
            return pixels.to(self.model.device, self.model.dtype)

        maps = chain.from_iterable(
            still_maps(self.model, prepared(next(shot))[None])
            if still
            else window_maps(self.model, map(prepared, shot), stride, windows, after_cut=number > 0)
            for number, shot in enumerate(shots(all_frames, lambda frame: frame))
        )
        return np.stack([resize_map(saliency, frames[0].shape[:2]).clamp(0, 1).cpu().numpy() for saliency in maps])

    def postprocess(self, outputs: dict) -> dict:
        return outputs

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model and processor, and the code where they came with some: a folder for `pipeline`."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.video_processor.save_pretrained(save_directory, **kwargs)
        if type(self).__module__.startswith("transformers_modules."):
            custom_object_save(self, save_directory)
