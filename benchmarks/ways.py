"""How long a map takes, in every way that the package knows, against the network run as its authors run it.

    python benchmarks/ways.py --threads 2 --batch-size 1 4 -o docs/measured/benchmark-salfom.json

All ways take turns in one run, so that whatever else the machine does slows all of them: ratios tell more than
milliseconds. Neither preparing frames nor resizing maps counts.

- reference: eager attention, float32, one window per call, every window by itself, nothing prepared
- windows: every window by itself, with the attention that transformers chooses
- predictor: as SaliencyPredictor and salfom predict compute
- compiled: windows, by torch.compile
- ms per map: median over all calls; ratio: how many times as fast as the reference
- of the peak: multiplications and additions per second, over those of the fastest product in the dtype
- memory: MiB of weights, and of what a call needs at its peak beyond what there was before it
- difference: the largest of a map from the reference's, values in 0…1; correlation: with the reference's map
"""

import argparse
import copy
import ctypes
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, cycle, islice
from pathlib import Path
from unittest.mock import patch

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers.image_utils import SizeDict

from measuring import circumstances, described, memory_status, table, tell, timed
from salfom_hf import SalFoMForVideoSaliencyPrediction, SalFoMVideoProcessor
from salfom_hf.inference import cpu, encoder_graph
from salfom_hf.inference.benchmarking import EXAMPLE, random_model
from salfom_hf.inference.predictor import saliency_maps
from salfom_hf.inference.sliding_window import sees_single_frames
from salfom_hf.video import read_frames

TURN = 0.5  # seconds that each way's turn lasts at least: of a quick network, many calls

REST = 0.2  # seconds between turns: what a way has begun ahead is not to run in the next way's turn

WARM_UP = 3  # calls before the first that is timed: what is compiled or recorded for a GPU is so in the first few

COLUMNS = {
    "model": "{}",
    "way": "{}",
    "device": "{}",
    "dtype": "{}",
    "batch": "{}",
    "ms per map": "{:.1f}",
    "maps per second": "{:.3g}",
    "ratio": "{:.2f}",
    "of the peak": "{:.0%}",
    "memory": "{:.0f}",
    "difference": "{:.1e}",
    "correlation": "{:.6f}",
}


@dataclass
class Way:
    """
    One way to compute the maps of a stream.

    Attributes:
        dtype, batch_size: what it computes in, and windows per call.
        weights: MiB of parameters and buffers.
        calls: gives the maps `(batch, height, width)` of one call, values in 0…1; those of the first windows first.
        operations: multiplications and additions per map.
        seconds: that each timed call took.
    """

    name: str
    dtype: str
    batch_size: int
    weights: float
    calls: Iterator[torch.Tensor]
    operations: int
    seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name}, {self.dtype}, batch {self.batch_size}"


@torch.no_grad()
def spread(model: SalFoMForVideoSaliencyPrediction) -> None:
    """Give random weights' logits a standard deviation of 1, so that maps can be compared."""
    config = model.config
    logits = model(torch.randn(1, config.num_frames, 3, *config.image_height_width, device=model.device)).logits
    model.fusion.convolutions[-1].weight.div_(logits.std())


def example_frames(processor: SalFoMVideoProcessor, size: tuple[int, int], count: int) -> torch.Tensor:
    """The first frames of the example clip, prepared for a network: float32 `(count, 3, height, width)`."""
    images = (torch.from_numpy(frame.image).permute(2, 0, 1) for frame in islice(cycle(read_frames(EXAMPLE)), count))
    target = SizeDict(height=size[0], width=size[1])
    frames = [processor.prepare_frames(image[None], size=target, keep_aspect_ratio=False) for image in images]
    return torch.cat(frames)


def variant_of(model: SalFoMForVideoSaliencyPrediction) -> SalFoMForVideoSaliencyPrediction:
    """The same weights, not copied, in a network of its own."""
    weights = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, weights)


@torch.inference_mode()
def maps_by_window(network: Callable, clips: torch.Tensor) -> Iterator[torch.Tensor]:
    while True:
        yield network(clips).saliency.float()


@torch.inference_mode()
def maps_by_stream(
    model: SalFoMForVideoSaliencyPrediction, frames: torch.Tensor, batch_size: int
) -> Iterator[torch.Tensor]:
    maps = saliency_maps(model, cycle(frames), batch_size=batch_size)
    # The first full window is that of the frames 0 to num_frames − 1.
    list(islice(maps, model.config.num_frames - 1))
    while True:
        yield torch.stack(list(islice(maps, batch_size)))


def fused_operations(features, weight, *arguments, out_shape, **options) -> int:
    """Of a convolution of the encoder in bfloat16, from shapes; PyTorch's counter does not know it."""
    return 2 * math.prod(out_shape) * math.prod(weight) // out_shape[1]


def operations_of(calls: Iterator[torch.Tensor]) -> int:
    """Multiplications and additions in the products of the next call, as `torch.utils.flop_counter` counts them."""
    known = {}
    with suppress(AttributeError):  # Not in every build of PyTorch.
        known[torch.ops.mkldnn._convolution_pointwise] = fused_operations
    with closing(calls), FlopCounterMode(display=False, custom_mapping=known) as counter:
        next(calls)
    return counter.get_total_flops()


def window_operations(model: SalFoMForVideoSaliencyPrediction, clip: torch.Tensor) -> int:
    """Those of one window, counted without computing."""
    config = copy.deepcopy(model.config)  # transformers notes the attention in the configuration that it is given.
    with torch.device("meta"):
        network = SalFoMForVideoSaliencyPrediction._from_config(config, attn_implementation="eager").eval()
    return operations_of(maps_by_window(network, clip.to("meta")))


def stream_operations(model: SalFoMForVideoSaliencyPrediction, frames: torch.Tensor) -> int:
    """Those of one more map of a stream."""
    # The counter sees neither what another thread computes nor what onnxruntime does.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with patch.object(encoder_graph, "can_be_a_graph", lambda _: False):
            calls = maps_by_stream(model, frames, 1)
            next(calls)
            return operations_of(calls)
    finally:
        torch.set_num_threads(threads)


def ways_of(
    model: SalFoMForVideoSaliencyPrediction,
    frames: torch.Tensor,
    dtypes: list[str],
    batch_sizes: list[int],
    compile_mode: str | None = None,
) -> list[Way]:
    """
    The ways to run a model; the first is the reference.

    Args:
        model: in float32, on the device to compute on.
        frames: prepared frames `(frames, 3, height, width)`, at least `num_frames + max(batch_sizes) − 1`.
        compile_mode: of `torch.compile`; `None` leaves that way out.
    """
    length = model.config.num_frames
    frames = frames.to(model.device)
    clips = torch.stack([frames[begin : begin + length] for begin in range(max(batch_sizes))])
    per_window, of_stream = window_operations(model, clips[:1]), {}

    def way(name: str, network, dtype: str, batch_size: int) -> Way:
        weights = sum(tensor.nbytes for tensor in chain(network.parameters(), network.buffers())) / 2**20
        own = getattr(torch, dtype)
        if name == "predictor" and sees_single_frames(network):
            calls, operations = maps_by_stream(network, frames.to(own), batch_size), of_stream[dtype]
        else:
            calls, operations = maps_by_window(network, clips[:batch_size].to(own)), per_window
        return Way(name, dtype, batch_size, weights, calls, operations)

    reference = variant_of(model)
    reference.salfom.encoder.set_attn_implementation("eager")
    ways = [way("reference", reference, "float32", 1)]
    for dtype in dtypes:
        weights = model if dtype == "float32" else copy.deepcopy(model).to(getattr(torch, dtype))
        if sees_single_frames(weights):
            of_stream[dtype] = stream_operations(weights, frames.to(weights.dtype))
        networks = {"windows": weights, "predictor": cpu.prepare_for_inference(variant_of(weights))}
        if compile_mode is not None:
            # Each batch size has a program of its own, as it would have if it were the only one.
            networks["compiled"] = torch.compile(variant_of(weights), mode=compile_mode, dynamic=False)
        ways += [way(name, network, dtype, size) for name, network in networks.items() for size in batch_sizes]
    return ways


def fastest_product(device: torch.device, dtype: str) -> float:
    """Operations per second of the fastest way to multiply much: BLAS, oneDNN and a convolution are tried."""
    tokens, inputs, outputs = (3136, 1024, 4096) if device.type == "cpu" else (8192, 8192, 8192)
    options = {"device": device, "dtype": getattr(torch, dtype)}
    left, right = torch.randn(tokens, inputs, **options), torch.randn(outputs, inputs, **options)
    image = torch.randn(16, 256, 56, 56, **options).to(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3, **options).to(memory_format=torch.channels_last)
    product = 2 * tokens * inputs * outputs
    ways = [(lambda: F.linear(left, right)[:1], product)]
    ways.append((lambda: F.conv2d(image, kernel, padding=1)[:1, :1], 2 * kernel.numel() * image.numel() // 256))
    if device.type == "cpu":
        ways.append((lambda: cpu.onednn_linear(left, right)[:1], product))
    # On a GPU ten in a row, so that starting one and fetching its result do not count.
    times = 1 if device.type == "cpu" else 10
    return max(
        times * operations / timed(lambda m=multiply: [m() for _ in range(times)][-1])
        for multiply, operations in ways
        for _ in range(3)
    )


def working_memory(device: torch.device, run: Callable[[], object]) -> float | None:
    """MiB that a run needs at its peak beyond what there was; `None` where that cannot be told."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # What was freed before would hide what is needed now.
    with suppress(OSError):
        # Sets the peak back to what is held now.
        Path("/proc/self/clear_refs").write_text("5")
        before = memory_status("VmRSS")
        run()
        return memory_status("VmHWM") - before
    run()
    return None


def first_map(way: Way, device: torch.device) -> torch.Tensor:
    """The map of the first window, float64 on the CPU; afterwards, the way is ready to be timed."""
    saliency = next(way.calls)[0].double().cpu()
    if device.type == "cuda" or way.name == "compiled":
        list(islice(way.calls, WARM_UP - 1))
    return saliency


@torch.inference_mode()
def measure(name: str, ways: list[Way], device: torch.device, rounds: int) -> tuple[list[dict], dict[str, float]]:
    """
    Time ways in turns, and compare their maps with those of the first.

    Returns:
        A row with the keys of `COLUMNS` for each way, `None` where something cannot be told, with `seconds` besides;
        and operations per second of the fastest large matrix product by dtype.
    """
    maps, memory, peaks = [], [], dict.fromkeys((way.dtype for way in ways), 0.0)
    for way in ways:
        needed = working_memory(device, lambda way=way: maps.append(first_map(way, device)))
        memory.append(None if needed is None else way.weights + needed)
    cpu.keep_freed_memory()  # Not before: memory that is kept cannot be told from what a call needs.
    for _ in tqdm(range(rounds), unit="round", disable=None):
        peaks = {dtype: max(peak, fastest_product(device, dtype)) for dtype, peak in peaks.items()}
        for way in ways:
            time.sleep(REST)
            next(way.calls)  # It may have been computed ahead, between the turns.
            begin = len(way.seconds)
            while sum(way.seconds[begin:]) < TURN:
                way.seconds.append(timed(partial(next, way.calls)))

    per_map = [statistics.median(way.seconds) / way.batch_size for way in ways]
    for way, seconds in zip(ways, per_map, strict=True):
        peaks[way.dtype] = max(peaks[way.dtype], way.operations / seconds)  # Whatever a machine did, it can do.
    rows = []
    for way, seconds, saliency, needed in zip(ways, per_map, maps, memory, strict=True):
        correlation = torch.corrcoef(torch.stack([saliency.flatten(), maps[0].flatten()]))[0, 1].item()
        values = (name, way.name, str(device), way.dtype, way.batch_size, 1000 * seconds, 1 / seconds)
        values += (per_map[0] / seconds, way.operations / seconds / peaks[way.dtype], needed)
        values += ((saliency - maps[0]).abs().max().item(), None if math.isnan(correlation) else correlation)
        rows.append(dict(zip(COLUMNS, values, strict=True)) | {"seconds": way.seconds})
    return rows, peaks


def profile(way: Way, device: torch.device) -> str:
    """The operations that one call spends most of its time in."""
    # An encoder may work in a thread of its own.
    everywhere = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with torch.profiler.profile(experimental_config=everywhere) as recorded:
        next(way.calls)
    by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return recorded.key_averages().table(sort_by=by, row_limit=10)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="salfom")
    parser.add_argument("--random-weights", action="store_true", help="salfom-large need not be installed for it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1], help="windows per call, default 1")
    parser.add_argument("--size", nargs=2, type=int, metavar=("HEIGHT", "WIDTH"), help="default: the model's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way, default %(default)s")
    parser.add_argument("--compile", metavar="MODE", help="also by torch.compile, such as in the mode max-autotune")
    parser.add_argument("--profile", action="store_true", help="print where the time of each way goes")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    device, about = torch.device(args.device), circumstances(args.device)
    cpu.exact_float32()
    if args.random_weights:
        torch.manual_seed(0)
        model, processor = random_model(args.model, device), SalFoMVideoProcessor()
        spread(model)
    else:
        model = SalFoMForVideoSaliencyPrediction.from_pretrained(args.model, dtype=torch.float32).to(device)
        processor = SalFoMVideoProcessor.from_pretrained(args.model)
    height, width = size = tuple(args.size or model.config.image_height_width)
    length = model.config.num_frames
    frames = example_frames(processor, size, length + max(args.batch_size) - 1)
    ways = ways_of(model.eval(), frames, args.dtype, args.batch_size, args.compile)
    rows, peaks = measure(args.model, ways, device, args.rounds)

    weights = "random weights" if args.random_weights else "its weights"
    told = f"{args.model} with {weights}, windows of {length} frames of {height}×{width}. {described(about)}."
    products = ", ".join(f"{peak / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, peak in peaks.items())
    told += f" Fastest matrix product: {products}."
    profiles = {str(way): profile(way, device) for way in ways} if args.profile else {}
    numbers = {"model": args.model, "weights": weights, "size": size, "num_frames": length, "rounds": args.rounds}
    numbers |= {"operations per window": ways[0].operations, "operations per second of the fastest product": peaks}
    numbers |= {"rows": rows, "profiles": profiles}
    tell(about, f"{told}\n\n{table(COLUMNS, rows)}", args.output, **numbers)
    for name, text in profiles.items():
        print(f"\n{name}\n{text}")


if __name__ == "__main__":
    main()
