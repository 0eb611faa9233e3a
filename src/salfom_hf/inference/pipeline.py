"""The transformers pipeline `video-saliency-prediction`: videos from anywhere to maps with their times."""

import os
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import Pipeline

from ..errors import VideoError, reason_of
from ..models.video_processing_salfom import is_one_video
from ..video.reading import READ_IMAGES, VIDEO_SUFFIXES
from .predictor import SaliencyPredictor, frames_of
from .remote_code import TASK, add_remote_code

MAX_DOWNLOAD = 512 * 2**20  # bytes

DOWNLOAD_TIME = 300.0  # seconds

SILENCE = 20.0  # seconds without a byte after which a server counts as gone

PIECE = 2**16  # bytes


def is_url(video) -> bool:
    return isinstance(video, str) and "://" in video


def opener() -> urllib.request.OpenerDirector:
    """What opens http and https, and nothing else, wherever servers redirect to."""
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        director.add_handler(handler())
    return director


def download(url: str, path: Path, max_bytes: int = MAX_DOWNLOAD, seconds: float = DOWNLOAD_TIME) -> None:
    """
    Write what an address holds into a file.

    Raises:
        VideoError: it is no http or https address, cannot be fetched, or takes more than so many bytes or seconds.
    """
    if urlsplit(url).scheme.lower() not in ("http", "https"):
        raise VideoError(f"Cannot download {url}; give an address that begins with http:// or https://, or a path.")
    end, size = time.monotonic() + seconds, 0
    try:
        with opener().open(url, timeout=min(SILENCE, seconds)) as response, open(path, "wb") as file:
            announced = response.headers.get("Content-Length")
            # Unlike read, read1 gives what is there: a slow server cannot hold it beyond the end.
            while piece := response.read1(PIECE):
                size += len(piece)
                if max(size, int(announced or 0)) > max_bytes:
                    raise VideoError(
                        f"{url} is larger than {max_bytes / 2**20:g} MiB; download it yourself and give its path."
                    )
                if time.monotonic() > end:
                    raise VideoError(
                        f"{url} did not arrive within {seconds:g} s; download it yourself and give its path."
                    )
                file.write(piece)
            if announced is not None and size < int(announced):
                raise HTTPException(f"the connection broke off after {size} of {announced} bytes")
    except (OSError, HTTPException, ValueError) as error:
        reason = " ".join(reason_of(getattr(error, "reason", error)).split())
        raise VideoError(f"Cannot download {url} ({reason}); check the address and the network.") from error


@contextmanager
def local(video, max_bytes: int, seconds: float) -> Iterator:
    """The video itself or, for an address, the path of a copy that is gone afterwards."""
    if not is_url(video):
        yield video
        return
    suffix = Path(urlsplit(video).path).suffix.lower()
    with tempfile.TemporaryDirectory(prefix="salfom-") as folder:
        path = Path(folder) / f"video{suffix if suffix in READ_IMAGES | VIDEO_SUFFIXES else ''}"
        download(video, path, max_bytes, seconds)
        try:
            yield path
        except VideoError as error:
            raise VideoError(str(error).replace(str(path), video)) from error


class VideoSaliencyPipeline(Pipeline):
    """
    Saliency of every frame of videos, by a causal sliding window; [`SaliencyPredictor`] as a transformers pipeline.

    A video's frames and maps are held in memory; for hours of video take [`SaliencyPredictor.stream`].

    Args:
        batch_size: windows per call of the network.
        num_workers: processes that fetch and decode the next videos of a list meanwhile.
        stride: every how many frames the network runs; maps between are interpolated. 1 as in the paper.
        start, duration: part of each video, in seconds.
        max_download, download_time: bounds of a download, in bytes and seconds.

    Example:

    ```python
    >>> from salfom_hf import pipeline
    >>> pipe = pipeline("video-saliency-prediction", model="salfom")
    >>> result = pipe("video.mp4", stride=2)
    >>> result["maps"].shape  # float32 (frames, height, width), values in 0…1
    >>> result["timestamps"]  # float64 (frames,), seconds
    ```
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _load_video_processor = True

    def __init__(self, *args, batch_size: int = 4, **kwargs):
        super().__init__(*args, batch_size=batch_size, **kwargs)

    def _sanitize_parameters(self, **parameters):
        preprocessing = ("start", "duration", "max_download", "download_time")
        unknown = sorted(set(parameters) - {*preprocessing, "stride"})
        if unknown:
            raise TypeError(f"{type(self).__name__} has no parameter '{unknown[0]}'.")
        forward = {name: value for name, value in parameters.items() if name == "stride"}
        return {name: value for name, value in parameters.items() if name != "stride"}, forward, {}

    def __call__(self, inputs, **kwargs):
        """
        Args:
            inputs: one video: the path or http(s) address of a video or image, a folder of images, a uint8 array or
                tensor `(frames, height, width, 3)`, or a list of images. Or several: a list of those, or a dataset or
                generator, whose results come one by one.
            kwargs: see the class.

        Returns:
            For one video a dictionary of `maps`, float32 `(frames, height, width)` at the frames' size with values in
            0…1, and `timestamps`, float64 `(frames,)` in seconds. For several a list, or an iterator, of those.

        Raises:
            VideoError: a video cannot be fetched or read.
            ValueError: frames are not images of one size.
        """
        listed = isinstance(inputs, (list, tuple, np.ndarray, torch.Tensor))
        if isinstance(inputs, (str, os.PathLike, Image.Image)) or (listed and is_one_video(inputs)):
            return super().__call__([inputs], **kwargs)[0]
        return super().__call__(list(inputs) if listed else inputs, **kwargs)

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        # Videos differ in length and shape: what is batched are the windows of each.
        forward_params = {**forward_params, "batch_size": batch_size}
        return super().get_iterator(inputs, num_workers, 1, preprocess_params, forward_params, postprocess_params)

    def preprocess(
        self,
        video,
        start: float = 0.0,
        duration: float | None = None,
        max_download: int = MAX_DOWNLOAD,
        download_time: float = DOWNLOAD_TIME,
    ) -> dict:
        try:
            with local(video, max_download, download_time) as source:
                frames = list(frames_of(source, start, duration))
        except (VideoError, ValueError) as error:
            # Raised later: from another process, the sentence would arrive inside a traceback.
            return {"error": error}
        return {
            "frames": [frame.image for frame in frames],
            "timestamps": np.array([float(frame.timestamp) for frame in frames]),
        }

    def _forward(self, inputs: dict, stride: int = 1, batch_size: int = 1) -> dict:
        if "error" in inputs:
            raise inputs["error"]
        predictor = SaliencyPredictor(self.model, self.video_processor, stride, batch_size)
        return {"maps": predictor.predict(inputs["frames"]), "timestamps": inputs["timestamps"]}

    def postprocess(self, outputs: dict) -> dict:
        return outputs

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Save model, processor and code: a folder for `pipeline`, with this package or without it."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.video_processor.save_pretrained(save_directory, **kwargs)
        add_remote_code(Path(save_directory))


def pipeline(task: str = TASK, model="salfom", dtype=torch.float32, **kwargs) -> Pipeline:
    """
    `transformers.pipeline`, which also takes the package's own names of models (`"salfom"`, `"salfom-large"`) and
    needs no network for them.

    Args:
        task: the only one of this package.
        model: name, folder, or a model on the Hub; or a loaded model, along with `video_processor`.
        dtype: precision to compute in; maps are float32 whatever it is.
        kwargs: those of `transformers.pipeline` and of [`VideoSaliencyPipeline`].
    """
    return transformers.pipeline(task, model=model, dtype=dtype, **kwargs)


__all__ = ["VideoSaliencyPipeline", "download", "pipeline"]
