"""Saliency by onnxruntime, on the CPU, from what `salfom export onnx` writes (see [`salfom_hf.export.onnx`])."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from ..errors import described, is_out_of_memory
from ..inference.predictor import SaliencyPredictor
from ..models.configuration_salfom import SalFoMConfig
from ..models.loading import loading
from ..models.modeling_salfom import SalFoMOutput
from ..models.video_processing_salfom import SalFoMVideoProcessor

GRAPH = "model.onnx"


class GraphError(ValueError):
    """A network cannot be exported, or an export cannot be run; the message is one sentence that says what to do."""


class OnnxModel:
    """
    What a [`SaliencyPredictor`] asks of a network, computed by onnxruntime on PyTorch's number of threads.

    Args:
        path: folder that `salfom export onnx` wrote, or an `.onnx` file in such a folder.

    Raises:
        GraphError: there is no such graph, or it cannot be loaded.
        LoadError: the configuration next to it cannot be loaded.
    """

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, path: str | os.PathLike):
        path = Path(path)
        self.path = path if path.is_file() else path / GRAPH
        self.folder = self.path.parent
        if not self.path.is_file():
            raise GraphError(f"There is no ONNX model at {path}; write one with `salfom export onnx`.")
        if not (self.folder / "config.json").is_file():
            raise GraphError(f"Next to {self.path} there is no config.json of its model; export it again.")
        with loading(self.folder):
            self.config = SalFoMConfig.from_pretrained(self.folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # Errors.
        try:
            self.session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # Those of onnxruntime have no class in common.
            raise GraphError(
                f"Cannot load the ONNX model {self.path} ({described(error)}); export it again."
            ) from error

    def __call__(self, pixel_values_videos: torch.Tensor) -> SalFoMOutput:
        """
        Clips float32 `(batch, frames, 3, height, width)` to maps, as of the network; one frame stands for a still.

        Raises:
            GraphError: the clips do not fit.
        """
        clips = pixel_values_videos.expand(-1, self.config.num_frames, -1, -1, -1).contiguous()
        try:
            (maps,) = self.session.run(["saliency"], {"pixel_values_videos": clips.numpy()})
        except Exception as error:
            if is_out_of_memory(error):
                raise MemoryError(described(error)) from error
            advice = "give it frames of the size it was exported for"
            raise GraphError(f"{self.path} cannot be run on this input ({described(error)}); {advice}.") from error
        return SalFoMOutput(saliency=torch.from_numpy(maps))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The files that are run, uint8 `(bytes,)` each: for those who want to know whether the maps may change."""
        files = [self.path, self.path.with_name(f"{self.path.name}.data")]
        return {file.name: torch.from_numpy(np.fromfile(file, np.uint8)) for file in files if file.is_file()}


class OnnxPredictor(SaliencyPredictor):
    """A [`SaliencyPredictor`] of an [`OnnxModel`]: onnxruntime computes on the CPU, in float32, window by window."""

    model: Any  # An OnnxModel is asked for the same as a network.

    def __init__(self, model: OnnxModel, processor: SalFoMVideoProcessor, stride: int = 1, batch_size: int = 4):
        self.model, self.processor, self.encoders = model, processor, {}
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
        Load what `salfom export onnx` wrote, by a name as [`OnnxModel`] takes it.

        Raises:
            GraphError, LoadError: it cannot be loaded, or device or dtype are others than those above.
        """
        if str(device) != str(OnnxModel.device) or dtype != OnnxModel.dtype:
            raise GraphError("onnxruntime computes on the CPU and in float32 here; leave out --device and --dtype.")
        model = OnnxModel(name)
        with loading(model.folder):
            processor = SalFoMVideoProcessor.from_pretrained(model.folder)
        return cls(model, processor, stride, batch_size)
