"""Which engine computes the light model fastest on a CPU: its encoder, and a step of its streaming decoder.

    python benchmarks/engines.py --threads 1 -o docs/measured/engines.json

Needs the extra `onnx`, and takes OpenVINO along where it is installed. All engines take turns, one frame of 288×384 in
float32 at a time; ms are medians of wall-clock time, processor ms those of the time that all threads computed, which
other work on the machine disturbs less.

- PyTorch: the network's own modules
- PyTorch, packed: with batch norms folded, and weights in oneDNN's layout (`salfom_hf.inference.cpu`)
- onnxruntime: for the encoder as `SaliencyPredictor` does; the step of the decoder is exported, and what it keeps from
  frame to frame stays with onnxruntime
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnxruntime
import torch
from torch import nn

from measuring import circumstances, described, table, tell
from salfom_hf import SalFoMForVideoSaliencyPrediction
from salfom_hf.inference import encoder_graph, shared_windows
from salfom_hf.inference.cpu import keep_freed_memory
from salfom_hf.inference.shared_windows import FrameEncoder, StreamingDecoder

COLUMNS = {
    "part": "{}",
    "engine": "{}",
    "threads": "{}",
    "ms": "{:.1f}",
    "processor ms": "{:.1f}",
    "difference": "{:.0e}",
}

SIZE = (288, 384)

# Frames after which nothing that the decoder keeps is from before the first.
FILLED = 40

Step = Callable[[], np.ndarray]


class DecoderStep(nn.Module):
    """
    One frame's features and what the decoder keeps to a map and what it keeps from this frame. Frames are counted
    from the same number each time: one step stands for all.
    """

    def __init__(self, model: SalFoMForVideoSaliencyPrediction, features: torch.Tensor):
        super().__init__()
        self.decoder = StreamingDecoder(model, SIZE)
        for index in range(FILLED):
            self.decoder.add_frame(features)
            self.decoder.maps([index])
        for layer in self.decoder.layers:
            if isinstance(layer.operation, shared_windows.Convolution):
                layer.operation.packed.can_pack = False
        self.keys = [(layer, key) for layer in self.decoder.layers for key in sorted(layer.values)]
        self.state = [layer.values[key] for layer, key in self.keys]
        self.new = [(layer, key) for layer, key in self.keys if key[1] == FILLED - 1]

    def forward(self, features: torch.Tensor, state: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        for layer in self.decoder.layers:
            layer.values = {}
        for (layer, key), value in zip(self.keys, state, strict=True):
            layer.values[key] = value
        self.decoder.num_frames = FILLED
        self.decoder.add_frame(features)
        saliency = self.decoder.maps([FILLED])
        return saliency, [layer.values[pattern, FILLED] for layer, (pattern, _) in self.new]


def exported_step(model: SalFoMForVideoSaliencyPrediction, features: torch.Tensor, path: Path) -> DecoderStep:
    """The graph of a step, in a file."""
    step = DecoderStep(model, features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(step, (features, step.state), strict=False)
        torch.onnx.export(program, f=path, opset_version=18, external_data=False, verbose=False)
    return step


def session_of(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def runtime_step(step: DecoderStep, features: torch.Tensor, path: Path, threads: int) -> Step:
    """Steps one after the other, by onnxruntime."""
    session = session_of(path, threads)
    name, *names = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]
    to_value = onnxruntime.OrtValue.ortvalue_from_numpy
    frame = to_value(features.contiguous().numpy())
    values = {key: to_value(value.numpy().copy()) for key, value in zip(step.keys, step.state, strict=True)}

    def run() -> np.ndarray:
        binding = session.io_binding()
        for of, value in zip([name, *names], [frame, *values.values()], strict=True):
            binding.bind_ortvalue_input(of, value)
        for output in outputs:
            binding.bind_output(output)
        session.run_with_iobinding(binding)
        saliency, *new = binding.get_outputs()
        fresh = dict(zip(step.new, new, strict=True))
        # Everything is one frame older now.
        for layer, (pattern, at) in step.keys:
            key = layer, (pattern, at)
            values[key] = fresh[key] if key in fresh else values[layer, (pattern, at + 1)]
        return saliency.numpy()

    return run


def encoders(model: SalFoMForVideoSaliencyPrediction, pixels: torch.Tensor, threads: int) -> dict[str, Step]:
    """What gives the features of one frame, by engine."""
    with patch.object(shared_windows, "can_be_a_graph", lambda _: False):
        packed = FrameEncoder(model.salfom)
    by_runtime = FrameEncoder(model.salfom, threads)
    steps: dict[str, Step] = {
        "PyTorch": lambda: model.encode_frames(pixels).numpy(),
        "PyTorch, packed": lambda: packed(pixels).numpy(),
        "onnxruntime": lambda: by_runtime(pixels).numpy(),
    }
    with suppress(ImportError):
        openvino = import_module("openvino")
        hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        graph = openvino.Core().read_model(encoder_graph.encoder_model(model.salfom).SerializeToString())
        compiled, frame = openvino.compile_model(graph, "CPU", hints), pixels.contiguous().numpy()
        steps["OpenVINO"] = lambda: compiled([frame])[0]
    return steps


def decoders(
    model: SalFoMForVideoSaliencyPrediction, features: torch.Tensor, exported: DecoderStep, path: Path, threads: int
) -> dict[str, Step]:
    """What gives the map of one more frame, by engine."""

    def streaming(packed: bool) -> Step:
        decoder = StreamingDecoder(model, SIZE)
        for layer in decoder.layers:
            if isinstance(layer.operation, shared_windows.Convolution):
                layer.operation.packed.can_pack = packed

        def run() -> np.ndarray:
            decoder.add_frame(features)
            return decoder.maps([decoder.num_frames - 1]).numpy()

        for _ in range(FILLED):
            run()
        return run

    return {
        "PyTorch": streaming(False),
        "PyTorch, packed": streaming(True),
        "onnxruntime": runtime_step(exported, features, path, threads),
    }


def measure(part: str, steps: dict[str, Step], threads: int, repeats: int) -> list[dict]:
    """A row for each engine; the first is what others are compared with."""
    wall, processor = {name: [] for name in steps}, {name: [] for name in steps}
    results = {name: [step() for _ in range(3)][-1] for name, step in steps.items()}
    for _ in range(repeats):
        for name, step in steps.items():
            begin, computed = time.perf_counter(), time.process_time()
            step()
            processor[name].append(time.process_time() - computed)
            wall[name].append(time.perf_counter() - begin)
    first = next(iter(results.values()))
    rows = []
    for name, result in results.items():
        difference = float(np.abs(result - first).max() / np.abs(first).max())
        times = (1000 * statistics.median(taken[name]) for taken in (wall, processor))
        rows.append(dict(zip(COLUMNS, (part, name, threads, *times, difference), strict=True)))
    return rows


@torch.inference_mode()
def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="salfom")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--parts", nargs="+", choices=("encoder", "decoder"), default=("encoder", "decoder"))
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    args = parser.parse_args(given)
    keep_freed_memory()
    torch.manual_seed(0)
    model = SalFoMForVideoSaliencyPrediction.from_pretrained(args.model, dtype=torch.float32).eval()
    pixels = torch.randn(1, 3, *SIZE).contiguous(memory_format=torch.channels_last)
    features = model.encode_frames(pixels).contiguous(memory_format=torch.channels_last)[0]
    torch.set_num_threads(max(args.threads))
    about, rows = circumstances(), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "step.onnx")
        exported = exported_step(model, features, path) if "decoder" in args.parts else None
        for threads in args.threads:
            torch.set_num_threads(threads)
            if "encoder" in args.parts:
                rows += measure("encoder", encoders(model, pixels, threads), threads, args.repeats)
            if exported is not None:
                steps = decoders(model, features, exported, path, threads)
                rows += measure("decoder", steps, threads, args.repeats)
    capability = torch.backends.cpu.get_cpu_capability()
    told = f"{args.model}, a frame of {SIZE[0]}×{SIZE[1]} in float32, on a CPU with {capability}. {described(about)}, "
    told += f"onnxruntime {onnxruntime.__version__}.\n\n{table(COLUMNS, rows)}"
    tell(about, told, args.output, capability=capability, rows=rows)


if __name__ == "__main__":
    main()
