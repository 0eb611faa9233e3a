"""
A network for other programs: as a graph of ONNX, checked by onnxruntime, and as a program of `torch.export`.

Both are the whole network: windows in, maps out. Next to `model.onnx` stand the configurations of model and processor.
"""

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm
from transformers.image_utils import SizeDict

from ..errors import described, is_out_of_memory, needs_extra, reported
from ..files import atomic_output, check_free
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.names import EXAMPLE
from ..models.video_processing_salfom import SalFoMVideoProcessor, pixels_of
from ..video.reading import read_frames
from .onnx_runtime import GRAPH, GraphError, OnnxModel

# What a map of an export may differ by from PyTorch's.
TOLERANCE = 1e-4

# The first that has all operators the networks need.
OPSET = 18

# Larger weights stand in a file next to the graph, which cannot hold more than 2 GiB.
LARGEST_WITHIN = 2**30

# Encoders whose graph holds for frames of any size; that of others is for one size.
ANY_SIZE = ("efficientnet_lite",)


class Window(nn.Module):
    """Clips `(batch, frames, 3, height, width)` to maps `(batch, height, width)`."""

    def __init__(self, model: SalFoMForVideoSaliencyPrediction):
        super().__init__()
        self.model = model

    def forward(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values_videos).saliency


@contextmanager
def exporting() -> Iterator[None]:
    """Keep what PyTorch tells of its passes from the user, and turn its errors into a `GraphError`."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # Theirs have no class in common.
        if isinstance(error, OSError) or is_out_of_memory(error):  # That says nothing about the model.
            raise
        raise GraphError(
            f"This model cannot be exported ({described(error)}); those with the encoders umt and efficientnet_lite "
            "can."
        ) from error
    finally:
        logging.disable(before)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Gives a function that takes what begins now, and shows it with the time that has passed, on a terminal."""
    with tqdm(total=3, disable=None, leave=False, bar_format="{desc} ({n} of {total}), {elapsed}") as bar:

        def tell(step: str) -> None:
            bar.n += 1
            bar.set_description_str(f"salfom: {step}")

        yield tell


class Export:
    """What both kinds of export do with a model: trace it for a size that fits, and compare the result with it."""

    def __init__(
        self, model: SalFoMForVideoSaliencyPrediction, processor: SalFoMVideoProcessor, size: tuple[int, int] | None
    ):
        self.model, self.processor = model.eval(), copy.deepcopy(processor)
        self.any_size = size is None and model.salfom.encoder.config.model_type in ANY_SIZE
        self.size = height, width = size or model.config.image_height_width
        self.stride = model.salfom.adapter.stride(model.salfom.encoder.config)
        if any(side < 1 or side % self.stride for side in self.size):
            raise GraphError(f"The size {height} {width} does not fit this model; give multiples of {self.stride}.")
        if not self.any_size:
            self.processor.size, self.processor.still_size = SizeDict(height=height, width=width), None
            self.processor.keep_aspect_ratio = False

    def program(self) -> torch.export.ExportedProgram:
        """The traced network, for batches of any size."""
        free = {0: torch.export.Dim("batch")}
        if self.any_size:
            free |= {3: self.stride * torch.export.Dim("height"), 4: self.stride * torch.export.Dim("width")}
        clips = torch.zeros(2, self.model.config.num_frames, 3, *self.size)
        with exporting():
            return torch.export.export(
                Window(self.model).eval(), (clips,), dynamic_shapes={"pixel_values_videos": free}, strict=False
            )

    def batches(self) -> Iterator[torch.Tensor]:
        """Clips of the package's example: one, three at once, and, if the size is free, one on its side."""
        length = self.model.config.num_frames
        images = (frame.image for frame in islice(read_frames(EXAMPLE), 3 * length))
        frames = [self.processor.prepare_frames(pixels_of(image)) for image in images]
        clips = torch.cat(frames).unflatten(0, (3, length))
        yield clips[1:2]
        yield clips
        if self.any_size:
            yield clips[1:2].transpose(-1, -2).contiguous()

    @torch.inference_mode()
    def check(self, exported: Callable[[torch.Tensor], torch.Tensor], file: str) -> float:
        """The largest difference of the maps that an export gives from the model's; it must be within `TOLERANCE`."""
        differences = [(exported(clips) - self.model(clips).saliency).abs().max() for clips in self.batches()]
        difference = float(torch.stack(differences).max())  # Unlike Python's, this maximum lets no NaN pass.
        if not difference <= TOLERANCE:
            raise GraphError(
                f"The maps of {file} differ from PyTorch's by {difference:.1e}, more than {TOLERANCE:.0e}; nothing "
                "was written: please report this with the model's config.json."
            )
        return difference


def export_onnx(
    model: SalFoMForVideoSaliencyPrediction,
    processor: SalFoMVideoProcessor,
    output: Path,
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> float:
    """
    Write a model as an ONNX graph, for windows in batches of any size, and check it.

    Args:
        model: on the CPU, in float32.
        processor: the processor saved with it.
        output: folder to make.
        size: (height, width) of the frames. Without it any, where the encoder allows it, else the model's.
        overwrite: replace an existing folder.

    Returns:
        The largest difference of its maps from PyTorch's, values in 0…1.

    Raises:
        GraphError: the model cannot be exported so, its maps differ by more than 1e-4 from PyTorch's, or packages are
            missing.
        VideoError: the output exists or cannot be written.
    """
    if find_spec("onnxscript") is None:
        raise GraphError(needs_extra("ONNX", "onnx"))
    check_free(output, overwrite)
    export = Export(model, processor, size)
    weights = sum(weight.nbytes for weight in model.parameters())
    with atomic_output(output, overwrite) as folder, reported(f"Cannot write {output}"), progress() as tell:
        folder.mkdir()
        model.config.save_pretrained(folder)
        export.processor.save_pretrained(folder)
        tell("tracing the network")
        program = export.program()
        tell("writing the graph")
        with exporting():
            torch.onnx.export(
                program,
                f=folder / GRAPH,
                input_names=["pixel_values_videos"],
                output_names=["saliency"],
                opset_version=OPSET,
                external_data=weights > LARGEST_WITHIN,
                verbose=False,
            )
        tell("comparing maps")
        graph = OnnxModel(folder)
        return export.check(lambda clips: graph(clips)["saliency"], GRAPH)


def export_program(
    model: SalFoMForVideoSaliencyPrediction,
    processor: SalFoMVideoProcessor,
    output: Path,
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> float:
    """
    Write a model as a program of `torch.export`, for windows in batches of any size, and check it.

    Args:
        output: file `.pt2`; `torch.export.load(output).module()` takes float32 `(batch, frames, 3, height, width)` and
            gives maps `(batch, height, width)`.
        model, processor, size, overwrite: as for [`export_onnx`].

    Returns:
        As of [`export_onnx`].

    Raises:
        GraphError: the output's name does not fit, or the maps differ by more than 1e-4 from the model's.
        VideoError: the output exists or cannot be written.
    """
    if output.suffix != ".pt2":
        raise GraphError(f"A program of torch.export is a file .pt2, which {output} is not; choose another output.")
    check_free(output, overwrite)
    export = Export(model, processor, size)
    with atomic_output(output, overwrite) as path, reported(f"Cannot write {output}"), progress() as tell:
        tell("tracing the network")
        program = export.program()
        content = io.BytesIO()  # Where PyTorch itself finds the disk full, it ends the process.
        tell("writing the program")
        torch.export.save(program, content)
        path.write_bytes(content.getbuffer())
        tell("comparing maps")
        return export.check(torch.export.load(path).module(), output.name)
