"""How long a map takes, in every way that the package knows, against the network run as its authors run it.

All ways take turns in one run, so that whatever else the machine does slows all of them: ratios tell more than
milliseconds.
"""

import copy
import ctypes
import json
import math
import multiprocessing
import os
import platform
import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, cycle, islice
from pathlib import Path

import torch
import transformers
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from .. import __version__
from ..files import atomic_output
from ..models.configuration_salfom import SalFoMConfig
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.video_processing_salfom import SalFoMVideoProcessor
from ..video.reading import read_frames
from . import cpu
from .cpu import accelerable, exact_float32, onednn_linear, prepare_for_inference
from .predictor import saliency_maps
from .profiling import aligned
from .shared_windows import can_stream

EXAMPLE = Path(__file__).parents[1] / "assets" / "example.mp4"

# Seconds that each way's turn lasts at least: of a quick network, many calls.
TURN = 0.5

# Calls before the first that is timed: what is compiled or recorded for a GPU is so in the first few.
WARM_UP = 3

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

LEGEND = """\
- reference: eager attention, float32, one window per call, every window by itself, nothing prepared
- windows: every window by itself, with the attention that transformers chooses
- predictor: as SaliencyPredictor and salfom predict compute
- compiled: windows, by torch.compile
- ms per map: median over all calls; ratio: how many times as fast as the reference
- of the peak: multiplications and additions per second, over those of the fastest large matrix product in the dtype
- memory: MiB of weights, and of what a call needs at its peak beyond what there was before it
- difference: the largest of a map from the reference's, values in 0…1; correlation: with the reference's map"""


@dataclass
class Way:
    """
    One way to compute the maps of a stream.

    Attributes:
        name: what the table calls it.
        dtype, batch_size: what it computes in, and windows per call.
        weights: MiB of parameters and buffers.
        calls: gives the maps `(batch, height, width)` of one call, values in 0…1; those of the first windows first.
        operations: multiplications and additions per map.
        works_ahead: whether a call may leave work of the next one going on in a thread.
        seconds: that each timed call took.
    """

    name: str
    dtype: torch.dtype
    batch_size: int
    weights: float
    calls: Iterator[torch.Tensor]
    operations: int
    works_ahead: bool = False
    seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name}, {dtype_name(self.dtype)}, batch {self.batch_size}"


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@torch.no_grad()
def random_model(name: str, device: str | torch.device = "cpu") -> SalFoMForVideoSaliencyPrediction:
    """
    A network with random weights, whose logits have a standard deviation of 1: maps can be compared.

    Args:
        name: `"salfom-large"`, which need not be installed, or any model whose configuration can be loaded.
        device: where to make it.
    """
    config = SalFoMConfig() if name == "salfom-large" else SalFoMConfig.from_pretrained(name)
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), device:
        torch.manual_seed(0)
        model = SalFoMForVideoSaliencyPrediction(config).eval()
        logits = model(torch.randn(1, config.num_frames, 3, *config.image_height_width)).logits
    model.fusion.convolutions[-1].weight.div_(logits.std())
    return model


def example_frames(processor: SalFoMVideoProcessor, size: tuple[int, int], count: int) -> torch.Tensor:
    """The first frames of the example clip, prepared for a network: float32 `(count, 3, height, width)`."""
    images = (torch.from_numpy(frame.image).permute(2, 0, 1) for frame in read_frames(EXAMPLE))
    height, width = size
    target = type(processor.size)(height=height, width=width)
    prepared = [
        processor.prepare_frames(image.unsqueeze(0), size=target, keep_aspect_ratio=False)[0]
        for image in islice(images, count)
    ]
    return torch.stack(list(islice(cycle(prepared), count)))


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
    for _ in islice(maps, model.config.num_frames - 1):
        pass
    while True:
        yield torch.stack(list(islice(maps, batch_size)))


def window_operations(config: SalFoMConfig, size: tuple[int, int]) -> int:
    """Multiplications and additions in the products of one window, as `torch.utils.flop_counter` counts them."""
    # A copy: transformers notes the attention in the configuration that it is given.
    config = copy.deepcopy(config)
    with torch.device("meta"):
        model = SalFoMForVideoSaliencyPrediction._from_config(config, attn_implementation="eager").eval()
        clip = torch.empty(1, config.num_frames, 3, *size)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(clip)
    return counter.get_total_flops()


def packed_operations(features, weight, *arguments, out_shape, **options) -> int:
    """Of a convolution whose weight is in oneDNN's layout, from shapes; PyTorch's counter does not know it."""
    return 2 * math.prod(out_shape) * math.prod(weight) // out_shape[1]


def stream_operations(model: SalFoMForVideoSaliencyPrediction, frames: torch.Tensor) -> int:
    """Multiplications and additions in the products that one more map of a stream takes."""
    known = {}
    with suppress(AttributeError):  # Not in every build of PyTorch.
        known[torch.ops.mkldnn._convolution_pointwise] = packed_operations
    # One frame at a time: larger batches are encoded in a thread, where the counter sees nothing.
    calls = maps_by_stream(model, frames, 1)
    next(calls)
    with closing(calls), FlopCounterMode(display=False, custom_mapping=known) as counter:
        next(calls)
    return counter.get_total_flops()


def ways_of(
    model: SalFoMForVideoSaliencyPrediction,
    frames: torch.Tensor,
    dtypes: Sequence[torch.dtype],
    batch_sizes: Sequence[int],
    compile_mode: str | None = None,
) -> list[Way]:
    """
    The ways to run a model; the first is the reference.

    Args:
        model: in float32, on the device to compute on.
        frames: prepared frames `(frames, 3, height, width)`, at least `num_frames + max(batch_sizes) − 1`.
        compile_mode: of `torch.compile`; `None` leaves that way out.
    """
    length, device = model.config.num_frames, model.device
    frames = frames.to(device)
    clips = torch.stack([frames[begin : begin + length] for begin in range(max(batch_sizes))])
    per_window, of_stream = window_operations(model.config, tuple(frames.shape[-2:])), {}

    def way(name: str, network, dtype: torch.dtype, batch_size: int) -> Way:
        tensors = chain(network.parameters(), network.buffers())
        weights = sum(tensor.nbytes for tensor in tensors) / 2**20
        if name == "predictor" and can_stream(network):
            calls, operations = maps_by_stream(network, frames.to(dtype), batch_size), of_stream[dtype]
            return Way(name, dtype, batch_size, weights, calls, operations, works_ahead=batch_size > 1)
        calls = maps_by_window(network, clips[:batch_size].to(dtype))
        return Way(name, dtype, batch_size, weights, calls, per_window)

    reference = variant_of(model)
    reference.salfom.encoder.set_attn_implementation("eager")
    ways = [way("reference", reference, torch.float32, 1)]
    for dtype in dtypes:
        weights = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        networks = {"windows": weights, "predictor": prepare_for_inference(variant_of(weights))}
        if can_stream(weights):
            of_stream[dtype] = stream_operations(weights, frames.to(dtype))
        if compile_mode is not None:
            # Each batch size has a program of its own, as it would have if it were the only one.
            networks["compiled"] = torch.compile(variant_of(weights), mode=compile_mode, dynamic=False)
        ways += [way(name, network, dtype, size) for name, network in networks.items() for size in batch_sizes]
    return ways


def use_gpu(device: torch.device) -> None:
    """
    Have events, which time, come from this GPU, and the float32 of the table be float32. These are settings of the
    whole process: for programs, not for libraries.
    """
    if device.index is not None:  # PyTorch refuses to choose the GPU that it uses anyway.
        torch.cuda.set_device(device)
    exact_float32()


def timed(function: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Seconds of a call, until its result is there."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000
    start = time.perf_counter()
    function().cpu()
    return time.perf_counter() - start


def let_settle(limit: float = 2.0) -> None:
    """
    Return when this process has come to rest, or after a number of seconds: what a way has begun ahead of its calls is
    not to run in the next way's turn.
    """
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(0.02)
        if time.process_time() - before < 0.002:
            return


def fastest_product(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest large matrix product."""
    tokens, inputs, outputs = (3136, 1024, 4096) if device.type == "cpu" else (8192, 8192, 8192)
    left = torch.randn(tokens, inputs, device=device, dtype=dtype)
    right = torch.randn(outputs, inputs, device=device, dtype=dtype)
    seconds = []
    for multiply in (F.linear, onednn_linear) if device.type == "cpu" else (F.linear,):
        seconds += [timed(partial(multiply, left, right), device) for _ in range(3)]
    return 2 * tokens * inputs * outputs / min(seconds)


def memory_status(name: str) -> float | None:
    """MiB that this process holds (`VmRSS`), or held at its peak (`VmHWM`); `None` where Linux does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) / 1024


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


@torch.inference_mode()
def benchmark(
    name: str,
    ways: Sequence[Way],
    device: torch.device,
    rounds: int = 5,
    progress: bool | None = None,
    before_timing: Callable[[], None] = lambda: None,
) -> tuple[list[dict], dict[str, float]]:
    """
    Time ways in turns, and compare their maps with those of the first.

    Args:
        name: of the model.
        ways: of [`ways_of`], of one model on this device; for a GPU call [`use_gpu`] first.
        rounds: turns of each way.
        progress: show a bar; `None`: on a terminal.
        before_timing: called when memory has been measured; a program sets its allocator there, for freed memory that
            is kept cannot be told from what a call needs.

    Returns:
        A row with the keys of `COLUMNS` for each way, `None` where something cannot be told, with `seconds` besides;
        and operations per second of the fastest large matrix product by name of dtype.
    """
    maps, memory = [], []
    rates = dict.fromkeys((dtype_name(way.dtype) for way in ways), 0.0)
    hidden = None if progress is None else not progress
    with tqdm(total=(rounds + 1) * len(ways), unit="turn", disable=hidden, dynamic_ncols=True) as bar:
        for way in ways:
            bar.set_description(str(way))
            needed = working_memory(device, lambda way=way: maps.append(first_map(way, device)))
            memory.append(None if needed is None else way.weights + needed)
            bar.update()
        before_timing()
        for _ in range(rounds):
            for dtype, rate in rates.items():
                rates[dtype] = max(rate, fastest_product(device, getattr(torch, dtype)))
            for way in ways:
                bar.set_description(str(way))
                let_settle()
                if way.works_ahead:  # Its first call finds what was computed ahead, between the turns.
                    next(way.calls)
                begin = len(way.seconds)
                while sum(way.seconds[begin:]) < TURN:
                    way.seconds.append(timed(partial(next, way.calls), device))
                bar.update()

    per_map = [statistics.median(way.seconds) / way.batch_size for way in ways]
    rows = []
    for way, seconds, saliency, needed in zip(ways, per_map, maps, memory, strict=True):
        correlation = torch.corrcoef(torch.stack([saliency.flatten(), maps[0].flatten()]))[0, 1].item()
        rate = rates[dtype_name(way.dtype)]
        values = (name, way.name, str(device), dtype_name(way.dtype), way.batch_size)
        values += (1000 * seconds, 1 / seconds, per_map[0] / seconds, way.operations / seconds / rate, needed)
        values += ((saliency - maps[0]).abs().max().item(), correlation if correlation == correlation else None)
        rows.append(dict(zip(COLUMNS, values, strict=True)) | {"seconds": way.seconds})
    return rows, rates


def first_map(way: Way, device: torch.device) -> torch.Tensor:
    """The map of the first window, float64 on the CPU; afterwards, the way is ready to be timed."""
    saliency = next(way.calls)[0].double().cpu()
    if device.type == "cuda" or way.name == "compiled":
        for _ in range(WARM_UP - 1):
            next(way.calls)
    return saliency


def chosen(model: SalFoMForVideoSaliencyPrediction, dtypes: Sequence[torch.dtype]) -> dict[str, dict[str, str]]:
    """For each dtype, what [`salfom_hf.inference.cpu`] found to be fastest; {} for models that it leaves alone."""
    found = {}
    for dtype in dtypes:
        if accelerable(model.salfom.encoder, dtype, model.device):
            found[dtype_name(dtype)] = dict(
                zip(("linear layers", "attention"), cpu.measure(dtype, torch.get_num_threads()), strict=True)
            )
    return found


def machine_name(device: torch.device) -> str:
    """Such as `"AMD EPYC 9654"`, or the name of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def circumstances(device: torch.device, command: Sequence[str]) -> dict:
    """What a measurement's numbers depend on: where, with what, and besides what they were taken."""
    return {
        "command": shlex.join(command),
        "machine": machine_name(device),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "package": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def described(about: dict) -> str:
    """Circumstances in one line."""
    return (
        f"{about['machine']}, {about['processors']} processors, {about['threads']} threads, load average before "
        f"{about['load average']}; PyTorch {about['torch']}, salfom-hf {about['package']}"
    )


def table(columns: dict[str, str], rows: Sequence[dict]) -> str:
    """
    Rows in markdown.

    Args:
        columns: name to format.
        rows: name to value; `None` is printed as a dash.
    """
    cells = [["–" if row[name] is None else form.format(row[name]) for name, form in columns.items()] for row in rows]
    return "\n".join(aligned(list(columns), cells))


def write_report(path: Path, report: dict, overwrite: bool = False) -> None:
    """
    Write JSON.

    Raises:
        VideoError: the place is taken and `overwrite` is false, or cannot be written.
    """
    with atomic_output(path, overwrite) as temporary:
        temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def in_own_process(function: Callable, *arguments):
    """
    What a function gives in a fresh process, whose peak memory is its own.

    Raises:
        BrokenProcessPool: the process ended without a result; the system may have run out of memory.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


__all__ = [
    "COLUMNS",
    "EXAMPLE",
    "LEGEND",
    "Way",
    "benchmark",
    "chosen",
    "circumstances",
    "described",
    "example_frames",
    "in_own_process",
    "memory_status",
    "random_model",
    "table",
    "timed",
    "use_gpu",
    "ways_of",
    "write_report",
]
