"""
A network for other programs: as graphs of ONNX, checked by onnxruntime, and as a program of `torch.export`.

An ONNX export is a folder. `model.onnx` is the whole network: windows in, maps out. Where the encoder sees single
frames, three more graphs do the same for a stream, at a fraction of the cost (see
[`salfom_hf.inference.shared_windows`]):
`encoder.onnx` for frames; `first.onnx` and `next.onnx` for the features of one frame of the stream, which give its
map and what later frames need. What `next.onnx` reads as `NAME.backK` is the output NAME of K + 1 frames ago, or that
of the first frame where there are not so many. Configurations of model and processor stand beside them.
"""

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from transformers.image_utils import SizeDict

from ..errors import is_out_of_memory
from ..files import atomic_output, check_free
from ..inference.predictor import frames_of, saliency_maps
from ..inference.shared_windows import StreamingDecoder, can_stream
from ..models.losses import correlation
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction, SalFoMOutput
from ..models.video_processing_salfom import SalFoMVideoProcessor
from .onnx_runtime import BACK, ENCODER, FIRST, NEXT, STREAM, WINDOW, GraphError, OnnxModel, first_line, required

EXAMPLE = Path(__file__).parents[1] / "assets" / "example.mp4"

# What a map of an export may differ by from PyTorch's.
TOLERANCE = 1e-4

# The first that has all operators the networks need.
OPSET = 18

# Larger weights stand in a file beside the graph, which cannot hold more than 2 GiB.
LARGEST_WITHIN = 2**30

# Encoders whose graph holds for frames of any size; that of others is for one size.
ANY_SIZE = ("efficientnet_lite",)

# Frames of each video that int8 is calibrated on, and of the example that its maps are compared on.
CALIBRATION_FRAMES = 64


class Report(NamedTuple):
    """
    What the check of an export found.

    Attributes:
        differences: file to the largest difference of its maps from PyTorch's; of int8, before quantisation.
        correlations: of int8, those with the float32 maps of the example clip, one per frame.
    """

    differences: dict[str, float]
    correlations: list[float]


class Window(nn.Module):
    """Clips `(batch, frames, 3, height, width)` to maps `(batch, height, width)`."""

    def __init__(self, model: SalFoMForVideoSaliencyPrediction):
        super().__init__()
        self.model = model

    def forward(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values_videos).saliency


class FrameFeatures(nn.Module):
    """Frames `(batch, 3, height, width)` to features `(batch, channels, rows, columns)`."""

    def __init__(self, model: SalFoMForVideoSaliencyPrediction):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model.encode_frames(pixel_values)


class Kept(NamedTuple):
    """A value of a streaming decoder: of its layer number `layer`, made `age` frames ago; `shape` for 2×2 features."""

    layer: int
    pattern: int
    age: int
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"layer{self.layer}.{self.pattern}"


class Recording(dict):
    """Values of a layer that notes which of them are read."""

    def __init__(self, values: dict):
        super().__init__(values)
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)


@torch.inference_mode()
def kept_values(model: SalFoMForVideoSaliencyPrediction) -> tuple[list[Kept], list[Kept]]:
    """What a streaming decoder, within a stream, reads of earlier frames, and what it makes for later ones."""
    decoder = StreamingDecoder(model, (2, 2))
    layers = list(decoder.layers)
    last = 3 * model.config.num_frames  # No window reaches the beginning any more.
    for time in range(last + 1):
        if time == last:
            for layer in layers:
                layer.values = Recording(layer.values)
            before = [set(layer.values) for layer in layers]
        decoder.add_frame(torch.zeros(model.config.feature_channels, 2, 2))
        decoder.maps([time])
    reads, makes = [], []
    for index, (layer, old) in enumerate(zip(layers, before, strict=True)):
        made = dict(set(layer.values) - old)
        read = sorted(key for key in layer.values.read if key in old)
        for pattern in sorted({pattern for pattern, _ in read}):
            shape = tuple(layer.values[pattern, made[pattern]].shape)
            makes.append(Kept(index, pattern, last - made[pattern], shape))
            reads += [Kept(index, pattern, last - time, shape) for found, time in read if found == pattern]
    return reads, makes


class Step(nn.Module):
    """
    One frame of a stream: its features `(1, channels, rows, columns)` and what earlier frames made, to its map
    `(1, height, width)` and what it makes for later ones.

    Args:
        scale: pixels per row and column of the features.
        reads, makes: see [`kept_values`]; the first frame reads nothing.
    """

    def __init__(
        self, model: SalFoMForVideoSaliencyPrediction, scale: int, reads: Sequence[Kept], makes: Sequence[Kept]
    ):
        super().__init__()
        self.model, self.scale, self.reads, self.makes = model, scale, reads, makes
        self.time = 3 * model.config.num_frames if reads else 0

    def forward(self, features: torch.Tensor, kept: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        rows, columns = features.shape[-2:]
        # Here, so that its weights are those of the exported program.
        decoder = StreamingDecoder(self.model, (self.scale * rows, self.scale * columns))
        layers = list(decoder.layers)
        for place, value in zip(self.reads, kept, strict=True):
            layers[place.layer].values[place.pattern, self.time - place.age] = value
        decoder.num_frames = self.time
        decoder.add_frame(features[0])
        saliency = decoder.maps([self.time])
        made = [layers[place.layer].values[place.pattern, max(self.time - place.age, 0)] for place in self.makes]
        return saliency, *made


@contextmanager
def exporting() -> Iterator[None]:
    """
    Keep what PyTorch and onnxruntime tell of their passes from the user, and turn their errors into one sentence.

    Raises:
        GraphError: a pass failed.
    """
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
            f"This model cannot be exported ({first_line(error)}); those with the encoders umt and efficientnet_lite "
            "can."
        ) from error
    finally:
        logging.disable(before)


def exported(module: nn.Module, inputs: tuple, dynamic_shapes: dict) -> torch.export.ExportedProgram:
    with exporting():
        return torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic_shapes, strict=False)


def write_onnx(
    path: Path, module: nn.Module, inputs: tuple, dynamic_shapes: dict, names: Sequence[str], outputs: Sequence[str]
) -> None:
    program = exported(module, inputs, dynamic_shapes)
    size = sum(weight.nbytes for weight in module.parameters())
    with exporting():
        torch.onnx.export(
            program,
            f=path,
            input_names=list(names),
            output_names=list(outputs),
            opset_version=OPSET,
            external_data=size > LARGEST_WITHIN,
            verbose=False,
        )


class Sides:
    """Height and width of an export: numbers, or any multiples of the encoder's stride."""

    def __init__(self, model: SalFoMForVideoSaliencyPrediction, size: tuple[int, int] | None):
        config = model.config
        self.stride = model.salfom.adapter.stride(config.encoder_config)
        self.any = size is None and config.encoder_config.model_type in ANY_SIZE
        self.size = size or config.image_height_width
        if any(side < 1 or side % self.stride for side in self.size):
            raise GraphError(
                f"The size {self.size[0]} {self.size[1]} does not fit this model; give multiples of {self.stride}."
            )

    def dynamic(self, first: int, over: int = 1) -> dict:
        """Which dimensions are free, if height and width, divided by `over`, are those from number `first` on."""
        if not self.any:
            return {}
        names = ("height", "width")
        return {first + i: self.stride // over * torch.export.Dim(name) for i, name in enumerate(names)}


def window_inputs(model: SalFoMForVideoSaliencyPrediction, sides: Sides) -> tuple[tuple, dict]:
    """An example of what a [`Window`] takes, and what of its shape is free."""
    clips = torch.zeros(2, model.config.num_frames, 3, *sides.size)
    return (clips,), {"pixel_values_videos": {0: torch.export.Dim("batch"), **sides.dynamic(3)}}


def write_stream(folder: Path, model: SalFoMForVideoSaliencyPrediction, sides: Sides) -> None:
    """Write the graphs for a stream of frames."""
    frames = torch.zeros(2, 3, *sides.size)
    dynamic = {"pixel_values": {0: torch.export.Dim("batch"), **sides.dynamic(2)}}
    write_onnx(folder / ENCODER, FrameFeatures(model), (frames,), dynamic, ["pixel_values"], ["features"])

    with torch.no_grad():
        features = model.encode_frames(frames[:1])
    rows, columns = features.shape[-2:]
    scale = sides.size[0] // rows
    reads, makes = kept_values(model)
    outputs = ["saliency", *(place.name for place in makes)]
    ages = {place.name: place.age for place in makes}
    for file, places in ((FIRST, []), (NEXT, reads)):
        kept, free = [], []
        for place in places:
            factor = place.shape[-1] // 2 if len(place.shape) == 4 else 0
            kept.append(torch.zeros(*place.shape[:2], factor * rows, factor * columns) if factor else torch.zeros(1))
            free.append(sides.dynamic(2, scale // factor) if factor else {})
        names = ["features", *(f"{place.name}{BACK}{place.age - 1 - ages[place.name]}" for place in places)]
        dynamic = {"features": sides.dynamic(2, scale), "kept": free}
        write_onnx(folder / file, Step(model, scale, places, makes), (features, kept), dynamic, names, outputs)


def resizing(processor: SalFoMVideoProcessor, sides: Sides) -> SalFoMVideoProcessor:
    """The processor of a model, for the sizes that are exported."""
    processor = copy.deepcopy(processor)
    if not sides.any:
        height, width = sides.size
        processor.size, processor.still_size = SizeDict(height=height, width=width), None
        processor.keep_aspect_ratio = False
    return processor


def prepared_frames(processor: SalFoMVideoProcessor, video: Path, limit: int) -> torch.Tensor:
    """The first frames of a video, an image or a folder of images: float32 `(frames, 3, height, width)`."""
    images = [frame.image for frame in islice(frames_of(video, 0.0, None), limit)]
    pixels = (torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0) for image in images)
    return torch.cat([processor.prepare_frames(one, still=len(images) == 1) for one in pixels])


def example_batches(model: SalFoMForVideoSaliencyPrediction, frames: torch.Tensor, sides: Sides) -> Iterator:
    """Clips of the example: one, three at once, and, if the size is free, one on its side."""
    length = model.config.num_frames
    clips = frames[: 3 * length].unflatten(0, (3, length))
    yield clips[1:2]
    yield clips
    if sides.any:
        yield clips[1:2].transpose(-1, -2).contiguous()


def check(difference: float, file: str) -> float:
    """
    Raises:
        GraphError: maps differ too much from PyTorch's.
    """
    if not difference <= TOLERANCE:
        raise GraphError(
            f"The maps of {file} differ from PyTorch's by {difference:.1e}, more than {TOLERANCE:.0e}; nothing was "
            "written: please report this with the model's config.json."
        )
    return difference


@torch.inference_mode()
def largest_difference(model: SalFoMForVideoSaliencyPrediction, other, batches: Iterable[torch.Tensor]) -> float:
    """Of the maps that another model gives for batches of clips, from this one's."""
    differences = [(other(clips).saliency - model(clips).saliency).abs().max() for clips in batches]
    return float(torch.stack(differences).max())  # Unlike Python's, this maximum lets no NaN pass.


def calibration_feeds(model: OnnxModel, videos: Sequence[torch.Tensor], file: str) -> Iterator[dict[str, np.ndarray]]:
    """What a graph of an export reads while prepared videos are predicted."""
    length = model.config.num_frames
    for frames in videos:
        if file == WINDOW:
            for clip in frames.split(length):
                # As often as a clip has frames: a still, or the end of a video.
                clip = torch.cat([clip[:1].expand(length - len(clip), -1, -1, -1), clip])
                yield {"pixel_values_videos": clip.unsqueeze(0).numpy()}
            continue
        encode, decoder = model.open_stream()
        # A still is as good as a video of two frames that are equal.
        for pixels in frames if len(frames) > 1 else frames.expand(2, -1, -1, -1):
            if file == ENCODER:
                yield {"pixel_values": pixels.unsqueeze(0).numpy()}
                continue
            features = encode(pixels.unsqueeze(0))
            if (file == FIRST) == (decoder.num_frames == 0):
                yield decoder.feeds(features.numpy())
            if file == FIRST:
                break
            decoder.add_frame(features[0])


def write_int8(source: Path, target: Path, feeds: Iterator[dict[str, np.ndarray]]) -> None:
    """
    Quantise the convolutions of a graph, weights by output channel.

    Args:
        source, target: the graph, and where to write the new one.
        feeds: inputs whose activations set the ranges.
    """
    required("onnx")
    quantization = required("onnxruntime.quantization")
    shape_inference = required("onnxruntime.quantization.shape_inference")

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):
            return next(feeds, None)

    # What is constant, such as weights laid out anew, must be so before weights are looked for.
    folded = target.with_suffix(".folded.onnx")
    with exporting():
        shape_inference.quant_pre_process(source, folded, skip_symbolic_shape=True)
        quantization.quantize_static(
            folded,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu", "Clip"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    folded.unlink()


def maps_of(model, frames: torch.Tensor) -> torch.Tensor:
    return torch.stack(list(saliency_maps(model, iter(frames), batch_size=4)))


def export_onnx(
    model: SalFoMForVideoSaliencyPrediction,
    processor: SalFoMVideoProcessor,
    output: Path,
    size: tuple[int, int] | None = None,
    int8: bool = False,
    calibration: Sequence[Path] = (),
    overwrite: bool = False,
) -> Report:
    """
    Write a model as ONNX graphs, and check them.

    Args:
        model: on the CPU, in float32.
        processor: the processor saved with it.
        output: folder to make.
        size: (height, width) of the frames. Without it any, where the encoder allows it, else the model's.
        int8: quantise convolutions; only for models with a frame-wise encoder.
        calibration: videos, images or folders of images that set the ranges of int8; default: the package's example.
        overwrite: replace an existing folder.

    Raises:
        GraphError: the model cannot be exported so, its maps differ by more than 1e-4 from PyTorch's, or packages are
            missing.
        VideoError: the output exists or cannot be written, or a video cannot be read.
    """
    for package in ("onnx", "onnxruntime", "onnxscript"):
        required(package)
    check_free(output, overwrite)
    model, sides = model.eval(), Sides(model, size)
    processor, streams = resizing(processor, sides), can_stream(model)
    if int8 and not streams:
        raise GraphError("int8 is for models with a frame-wise encoder, such as salfom; leave out --int8.")
    videos = []
    if int8:
        videos = [prepared_frames(processor, video, CALIBRATION_FRAMES) for video in calibration or [EXAMPLE]]
    example = prepared_frames(processor, EXAMPLE, max(CALIBRATION_FRAMES, 3 * model.config.num_frames))

    with atomic_output(output, overwrite) as folder, ExitStack() as stack:
        folder.mkdir()
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        graphs = folder
        if int8:
            graphs = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder.parent)))
            model.config.save_pretrained(graphs)
        inputs, dynamic = window_inputs(model, sides)
        write_onnx(graphs / WINDOW, Window(model), inputs, dynamic, ["pixel_values_videos"], ["saliency"])
        batches = example_batches(model, example, sides)
        difference = largest_difference(model, OnnxModel(graphs / WINDOW), batches)
        differences, correlations = {WINDOW: check(difference, WINDOW)}, []
        if streams:
            write_stream(graphs, model, sides)
            stream = OnnxModel(graphs)
            frames = example[: model.config.num_frames + 8]
            files = " and ".join((", ".join(STREAM[:-1]), NEXT))
            difference = float((maps_of(stream, frames) - maps_of(model, frames)).abs().max())
            differences[files] = check(difference, files)
            if int8:
                for file in (WINDOW, *STREAM):
                    write_int8(graphs / file, folder / file, calibration_feeds(stream, videos, file))
                rounded, exact = (maps_of(found, example) for found in (OnnxModel(folder), stream))
                correlations = correlation(rounded, exact).tolist()
    return Report(differences, correlations)


def export_program(
    model: SalFoMForVideoSaliencyPrediction,
    processor: SalFoMVideoProcessor,
    output: Path,
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> Report:
    """
    Write a model as a program of `torch.export`, for windows in batches of any size, and check it.

    Args:
        output: file `.pt2`; `torch.export.load(output).module()` takes float32 `(batch, frames, 3, height, width)` and
            gives maps `(batch, height, width)`.
        model, processor, size, overwrite: as for [`export_onnx`].

    Raises:
        GraphError: the output's name does not fit, or the maps differ by more than 1e-4 from the model's.
        VideoError: the output exists or cannot be written.
    """
    if output.suffix != ".pt2":
        raise GraphError(f"A program of torch.export is a file .pt2, which {output} is not; choose another output.")
    check_free(output, overwrite)
    model, sides = model.eval(), Sides(model, size)
    processor = resizing(processor, sides)
    with atomic_output(output, overwrite) as path:
        torch.export.save(exported(Window(model), *window_inputs(model, sides)), path)
        program = torch.export.load(path).module()

        def loaded(clips: torch.Tensor) -> SalFoMOutput:
            return SalFoMOutput(saliency=program(clips))

        example = prepared_frames(processor, EXAMPLE, 3 * model.config.num_frames)
        difference = largest_difference(model, loaded, example_batches(model, example, sides))
        return Report({output.name: check(difference, output.name)}, [])


__all__ = ["TOLERANCE", "Report", "export_onnx", "export_program"]
