"""Saliency by onnxruntime, on the CPU, from what `salfom export onnx` writes (see [`salfom_hf.export.onnx`])."""

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from ..errors import is_out_of_memory, needs_extra
from ..inference.predictor import SaliencyPredictor
from ..models.configuration_salfom import SalFoMConfig
from ..models.loading import LoadError, loading
from ..models.modeling_salfom import SalFoMOutput
from ..models.video_processing_salfom import SalFoMVideoProcessor

# Files of an export; those for streams are there if the encoder sees single frames.
WINDOW = "model.onnx"

ENCODER, FIRST, NEXT = STREAM = ("encoder.onnx", "first.onnx", "next.onnx")

# Between the name of a value that the decoder keeps, and how many frames before the last one it was made.
BACK = ".back"


class GraphError(ValueError):
    """A network cannot be exported, or an export cannot be run; the message is one sentence that says what to do."""


def required(name: str) -> ModuleType:
    """
    A module of the extra `onnx`.

    Raises:
        GraphError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise GraphError(needs_extra("ONNX", "onnx")) from error


class Graph:
    """
    One ONNX file, ready to run on PyTorch's number of threads.

    Raises:
        GraphError: it cannot be loaded.
    """

    def __init__(self, path: Path):
        onnxruntime = required("onnxruntime")
        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # Errors.
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # Those of onnxruntime have no class in common.
            raise GraphError(f"Cannot load the ONNX model {path} ({first_line(error)}); export it anew.") from error
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """
        Raises:
            GraphError: the inputs do not fit.
        """
        try:
            feeds = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
            return dict(zip(self.outputs, self.session.run(self.outputs, feeds), strict=True))
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(first_line(error)) from error
            raise GraphError(
                f"{self.path} cannot be run on this input ({first_line(error)}); give it frames of the size it was "
                "exported for."
            ) from error


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class OnnxStreamingDecoder:
    """
    [`StreamingDecoder`][salfom_hf.inference.shared_windows.StreamingDecoder] as graphs: one for the first frame of a
    stream, one for all others, which reads what it gave for earlier frames.
    """

    def __init__(self, first: Graph, following: Graph):
        self.first, self.following = first, following
        lengths: dict[str, int] = {}
        for name in following.inputs:
            value, back, number = name.rpartition(BACK)
            if back:
                lengths[value] = max(lengths.get(value, 0), int(number) + 1)
        self.kept = {name: deque(maxlen=length) for name, length in lengths.items()}  # The newest first.
        self.num_frames = 0
        self.made: dict[int, np.ndarray] = {}

    def feeds(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs of the graph for the next frame, whose features are `(1, channels, rows, columns)`."""
        feeds = {"features": features}
        if self.num_frames:
            for name in self.following.inputs:
                value, back, number = name.rpartition(BACK)
                if back:
                    feeds[name] = self.kept[value][int(number)]
        return feeds

    def add_frame(self, features: torch.Tensor) -> None:
        """The next frame's features `(channels, rows, columns)`."""
        graph = self.following if self.num_frames else self.first
        outputs = graph(self.feeds(features.unsqueeze(0).numpy()))
        for name, values in self.kept.items():
            # Before the first frame stand copies of it.
            values.extendleft([outputs[name]] * (1 if values else values.maxlen))
        self.made[self.num_frames] = outputs["saliency"]
        self.num_frames += 1

    def maps(self, times: Sequence[int]) -> torch.Tensor:
        """
        The maps of some frames that have been added since the last call.

        Returns:
            float32 `(maps, height, width)`, values in 0…1.
        """
        maps = torch.cat([torch.from_numpy(self.made[time]) for time in times])
        self.made.clear()
        return maps


class OnnxModel:
    """
    What a [`SaliencyPredictor`] asks of a network, computed by onnxruntime.

    Args:
        path: folder that `salfom export onnx` wrote; or an `.onnx` file in such a folder, which is then run on each
            window by itself.

    Attributes:
        streams: whether frames are encoded one by one, and what windows share is computed once.

    Raises:
        GraphError: there is no such model, or onnxruntime is not installed.
    """

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, path: str | os.PathLike):
        path = Path(path)
        folder, window = (path.parent, path) if path.is_file() else (path, path / WINDOW)
        if not window.is_file():
            raise GraphError(f"There is no ONNX model at {path}; write one with `salfom export onnx`.")
        self.folder = folder
        self.streams = path.is_dir() and all((folder / name).is_file() for name in STREAM)
        if not (folder / "config.json").is_file():
            raise GraphError(f"Beside {window} there is no config.json of its model; export it anew.")
        try:
            with loading(folder):
                self.config = SalFoMConfig.from_pretrained(folder)
        except LoadError as error:
            raise GraphError(str(error)) from error
        self.graphs = [Graph(folder / name) for name in STREAM] if self.streams else [Graph(window)]

    def encode_frames(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(frames, 3, height, width)` to `(frames, channels, rows, columns)`; only if the model streams."""
        return torch.from_numpy(self.graphs[0]({"pixel_values": pixel_values.numpy()})["features"])

    def open_stream(self) -> tuple[Callable[[torch.Tensor], torch.Tensor], OnnxStreamingDecoder] | None:
        """What encodes and what decodes one stream of frames; `None` if the model does not stream."""
        return (self.encode_frames, OnnxStreamingDecoder(*self.graphs[1:])) if self.streams else None

    def __call__(self, pixel_values_videos: torch.Tensor) -> SalFoMOutput:
        """
        Clips to maps, as of the network.

        Args:
            pixel_values_videos: float32 `(batch, frames, 3, height, width)`; one frame stands for a still.
        """
        if self.streams:
            maps = torch.cat([self.last_map(clip) for clip in pixel_values_videos])
        else:
            clips = pixel_values_videos.expand(-1, self.config.num_frames, -1, -1, -1)
            maps = torch.from_numpy(self.graphs[0]({"pixel_values_videos": clips.numpy()})["saliency"])
        return SalFoMOutput(saliency=maps)

    def last_map(self, clip: torch.Tensor) -> torch.Tensor:
        """The map `(1, height, width)` of the last frame of a clip `(frames, 3, height, width)`."""
        encode, decoder = self.open_stream()
        for features in encode(clip):
            decoder.add_frame(features)
        return decoder.maps([len(clip) - 1])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The files that are run, uint8 `(bytes,)` each: for those who want to know whether the maps may change."""
        stems = {graph.path.name for graph in self.graphs}
        files = [file for file in sorted(self.folder.iterdir()) if file.name.removesuffix(".data") in stems]
        return {file.name: torch.from_numpy(np.fromfile(file, np.uint8)) for file in files}


class OnnxPredictor(SaliencyPredictor):
    """
    A [`SaliencyPredictor`] that runs on onnxruntime, on the CPU and in float32.

    Args:
        model: what computes.
        processor: the processor beside it.
        stride: every how many frames a map is computed; those between are interpolated. For a model that streams,
            this saves no time.
        batch_size: windows per call, or frames per call of the encoder.
    """

    def __init__(self, model: OnnxModel, processor: SalFoMVideoProcessor, stride: int = 1, batch_size: int = 4):
        self.model, self.processor = model, processor
        self.stride, self.batch_size = stride, batch_size

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        stride: int = 1,
        batch_size: int = 4,
    ) -> "OnnxPredictor":
        """
        Load what `salfom export onnx` wrote.

        Args:
            name: as [`OnnxModel`] takes it.
            device, dtype: there is no choice; they are for those who pass them to any predictor.
            stride, batch_size: see the class.

        Raises:
            GraphError: it cannot be loaded, or device or dtype are others.
        """
        if str(device) != str(OnnxModel.device) or dtype != OnnxModel.dtype:
            raise GraphError("onnxruntime computes on the CPU and in float32 here; leave out --device and --dtype.")
        model = OnnxModel(name)
        try:
            with loading(model.folder):
                processor = SalFoMVideoProcessor.from_pretrained(model.folder)
        except LoadError as error:
            raise GraphError(str(error)) from error
        return cls(model, processor, stride, batch_size)


__all__ = ["GraphError", "OnnxModel", "OnnxPredictor"]
