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
    """Of a network or an exported one: clips `(batch, frames, 3, height, width)` to maps `(batch, height, width)`."""

    def __init__(self, model: Callable):
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


def export(
    kind: str,
    model: SalFoMForVideoSaliencyPrediction,
    processor: SalFoMVideoProcessor,
    output: Path,
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> float:
    """
    Trace a model for windows in batches of any size, write that, and compare its maps with the model's.

    Args:
        kind: `"onnx"`, or `"torch-export"` for a program, of which `torch.export.load(output).module()` takes float32
            `(batch, frames, 3, height, width)` and gives maps `(batch, height, width)`.
        model: on the CPU, in float32.
        processor: the processor saved with it.
        output: folder to make, of a program the file `.pt2`.
        size: (height, width) of the frames. Without it any, where the encoder allows it, else the model's.
        overwrite: replace an existing output.

    Returns:
        The largest difference of its maps from PyTorch's, values in 0…1.

    Raises:
        GraphError: the model cannot be exported so, its maps differ by more than 1e-4 from PyTorch's, or packages are
            missing.
        VideoError: the output exists or cannot be written.
    """
    if (onnx := kind == "onnx") and find_spec("onnxscript") is None:
        raise GraphError(needs_extra("ONNX", "onnx"))
    check_free(output, overwrite)
    encoder, length, free = model.eval().salfom.encoder.config, model.config.num_frames, {0: torch.export.Dim("batch")}
    any_size, stride = size is None and encoder.model_type in ANY_SIZE, model.config.encoder_stride
    height, width = size or model.config.image_height_width
    if any(side < 1 or side % stride for side in (height, width)):
        raise GraphError(f"The size {height} {width} does not fit this model; give multiples of {stride}.")
    if any_size:
        free |= {3: stride * torch.export.Dim("height"), 4: stride * torch.export.Dim("width")}
    else:
        processor = copy.deepcopy(processor)
        processor.fix_size(height, width)
    shown = "salfom: {desc} ({n} of {total}), {elapsed}"
    with (
        atomic_output(output, overwrite) as path,
        reported(f"Cannot write {output}"),
        tqdm(total=3, disable=None, leave=False, bar_format=shown) as bar,
    ):

        def tell(step: str) -> None:
            bar.n += 1
            bar.set_description_str(step)

        tell("tracing the network")
        shapes, example = {"pixel_values_videos": free}, torch.zeros(2, length, 3, height, width)
        with exporting():
            program = torch.export.export(Window(model).eval(), (example,), dynamic_shapes=shapes, strict=False)
            tell("writing it")
            if onnx:
                path.mkdir()
                model.config.save_pretrained(path)
                processor.save_pretrained(path)
                torch.onnx.export(
                    program,
                    f=path / GRAPH,
                    input_names=["pixel_values_videos"],
                    output_names=["saliency"],
                    opset_version=OPSET,
                    external_data=sum(weight.nbytes for weight in model.parameters()) > LARGEST_WITHIN,
                    verbose=False,
                )
            else:
                content = io.BytesIO()  # Where PyTorch itself finds the disk full, it ends the process.
                torch.export.save(program, content)
                path.write_bytes(content.getbuffer())
        tell("comparing maps")
        exported = Window(OnnxModel(path)) if onnx else torch.export.load(path).module()
        images = (frame.image for frame in islice(read_frames(EXAMPLE), 3 * length))
        clips = torch.cat([processor.prepare_frames(pixels_of(image)) for image in images]).unflatten(0, (3, length))
        batches = [clips[1:2], clips, clips[1:2].transpose(-1, -2).contiguous()]  # The last lies on its side.
        with torch.inference_mode():
            pairs = [(exported(batch), model(batch).saliency) for batch in batches[: 2 + any_size]]
        # Unlike Python's, this maximum lets no NaN pass.
        difference = float(torch.stack([(one - other).abs().max() for one, other in pairs]).max())
        if not difference <= TOLERANCE:
            raise GraphError(
                f"The maps of {GRAPH if onnx else output.name} differ from PyTorch's by {difference:.1e}, "
                f"more than {TOLERANCE:.0e}; nothing was written: please report this with the model's config.json."
            )
    return difference
