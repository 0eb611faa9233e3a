"""Which engine computes the light model's encoder fastest on a CPU.

    python benchmarks/engines.py --threads 1 -o docs/measured/engines.json

Takes OpenVINO along where it is installed. All engines take turns, one frame of 288×384 in float32 at a time; ms are
medians of wall-clock time, processor ms those of the time that all threads computed, which other work on the machine
disturbs less. PyTorch runs the network's own modules, onnxruntime the graph of `SaliencyPredictor`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from measuring import circumstances, described, table, tell
from salfom_hf import SalFoMForVideoSaliencyPrediction
from salfom_hf.inference.cpu import keep_freed_memory
from salfom_hf.inference.encoder_graph import FrameEncoder, encoder_model

COLUMNS = {
    "engine": "{}",
    "threads": "{}",
    "ms": "{:.1f}",
    "processor ms": "{:.1f}",
    "difference": "{:.0e}",
}

SIZE = (288, 384)

Step = Callable[[], np.ndarray]


def encoders(model: SalFoMForVideoSaliencyPrediction, pixels: torch.Tensor, threads: int) -> dict[str, Step]:
    """What gives the features of one frame, by engine."""
    by_runtime = FrameEncoder(model.salfom, threads)
    steps: dict[str, Step] = {
        "PyTorch": lambda: model.encode_frames(pixels).numpy(),
        "onnxruntime": lambda: by_runtime(pixels).numpy(),
    }
    with suppress(ImportError):
        openvino = import_module("openvino")
        hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        graph = openvino.Core().read_model(encoder_model(model.salfom).SerializeToString())
        compiled, frame = openvino.compile_model(graph, "CPU", hints), pixels.contiguous().numpy()
        steps["OpenVINO"] = lambda: compiled([frame])[0]
    return steps


def measure(steps: dict[str, Step], threads: int, repeats: int) -> list[dict]:
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
        rows.append(dict(zip(COLUMNS, (name, threads, *times, difference), strict=True)))
    return rows


@torch.inference_mode()
def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="salfom")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    args = parser.parse_args(given)
    keep_freed_memory()
    torch.manual_seed(0)
    model = SalFoMForVideoSaliencyPrediction.from_pretrained(args.model, dtype=torch.float32).eval()
    pixels = torch.randn(1, 3, *SIZE).contiguous(memory_format=torch.channels_last)
    torch.set_num_threads(max(args.threads))
    about, rows = circumstances(), []
    for threads in args.threads:
        torch.set_num_threads(threads)
        rows += measure(encoders(model, pixels, threads), threads, args.repeats)
    capability = torch.backends.cpu.get_cpu_capability()
    told = f"{args.model}, a frame of {SIZE[0]}×{SIZE[1]} in float32, on a CPU with {capability}. {described(about)}, "
    told += f"onnxruntime {onnxruntime.__version__}.\n\n{table(COLUMNS, rows)}"
    tell(about, told, args.output, capability=capability, rows=rows)


if __name__ == "__main__":
    main()
