"""The pipeline of `pipeline_salfom` as the package has it: fast on a CPU, and it fetches what lies at an address."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import torch
import transformers
from transformers import Pipeline

from ..errors import VideoError, reason_of
from ..files import temporary_folder
from ..video.pictures import READ_IMAGES
from ..video.reading import VIDEO_SUFFIXES, Frame
from .pipeline_salfom import TASK
from .pipeline_salfom import VideoSaliencyPipeline as PlainPipeline
from .predictor import SaliencyPredictor

MAX_DOWNLOAD = 512 * 2**20  # bytes
DOWNLOAD_TIME = 300.0  # seconds
AS_IT_IS = {"Accept-Encoding": "identity"}
SILENCE = 20.0  # seconds without a byte after which a server counts as gone


def download(url: str, path: Path, max_bytes: int, seconds: float) -> None:
    """
    Write what an http or https address holds into a file; a `VideoError` if it takes more than so many bytes or
    seconds.
    """
    if urlsplit(url).scheme.lower() not in ("http", "https"):
        raise VideoError(f"Cannot download {url}; give an address that begins with http:// or https://, or a path.")
    end, size = time.monotonic() + seconds, 0
    # httpx follows redirections to http and https only.
    options: dict[str, Any] = {"headers": AS_IT_IS, "follow_redirects": True, "timeout": min(SILENCE, seconds)}
    try:
        with httpx.stream("GET", url, **options) as response, open(path, "wb") as file:
            response.raise_for_status()
            announced = int(response.headers.get("Content-Length", 0))
            for piece in response.iter_raw():
                size += len(piece)
                late = f"did not arrive within {seconds:g} s" if time.monotonic() > end else ""
                large = f"is larger than {max_bytes / 2**20:g} MiB" if max(size, announced) > max_bytes else ""
                if large or late:
                    raise VideoError(f"{url} {large or late}; download it yourself and give its path.")
                file.write(piece)
    except (OSError, ValueError, httpx.HTTPError, httpx.InvalidURL) as error:
        reason = " ".join(reason_of(error).split())
        raise VideoError(f"Cannot download {url} ({reason}); check the address and the network.") from error


@contextmanager
def fetched(video: Any, max_bytes: int, seconds: float) -> Iterator:
    """The video itself or, for an address, the path of a copy that is gone afterwards."""
    if not (isinstance(video, str) and "://" in video):
        yield video
        return
    suffix = Path(urlsplit(video).path).suffix.lower()
    with temporary_folder() as folder:
        path = folder / f"video{suffix if suffix in READ_IMAGES | VIDEO_SUFFIXES else ''}"
        download(video, path, max_bytes, seconds)
        try:
            yield path
        except VideoError as error:
            raise VideoError(str(error).replace(str(path), video)) from error


class VideoSaliencyPipeline(PlainPipeline):
    """
    Saliency of every frame of videos, by a causal sliding window; [`SaliencyPredictor`] as a transformers pipeline.

    A video's frames and maps are held in memory; for hours of video take [`SaliencyPredictor.stream`]. It takes paths,
    and addresses (http and https).

    Args:
        batch_size, windows, num_workers, stride, start, duration: see [`PlainPipeline`].
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

    PREPROCESSING = ("start", "duration", "max_download", "download_time")

    def frames(
        self,
        video: Any,
        start: float = 0.0,
        duration: float | None = None,
        max_download: int = MAX_DOWNLOAD,
        download_time: float = DOWNLOAD_TIME,
    ) -> list[Frame]:
        with fetched(video, max_download, download_time) as source:
            return super().frames(source, start, duration)

    def predict(self, frames: list[np.ndarray], stride: int, windows: int) -> np.ndarray:
        return SaliencyPredictor(self.model, self.video_processor, stride, windows).predict(frames)


def pipeline(
    task: str = TASK, model: Any = "salfom", dtype: torch.dtype | str = torch.float32, **kwargs: Any
) -> Pipeline:
    """
    `transformers.pipeline`, which also takes the package's own names of models (`"salfom"`, `"salfom-large"`) and
    needs no network for them.

    Args:
        task: the only one of this package.
        model: name, folder, or a model on the Hub; or a loaded model, along with `video_processor`.
        dtype: precision to compute in; maps are float32 whatever it is.
        kwargs: those of `transformers.pipeline` and of [`VideoSaliencyPipeline`].
    """
    # transformers' annotations name its own tasks alone.
    return transformers.pipeline(task, model=model, dtype=dtype, **kwargs)  # type: ignore[call-overload]
