"""`salfom benchmark`: how long a map takes on this machine."""

import argparse
import sys
from contextlib import nullcontext

from ..errors import is_out_of_memory
from ..files import Inputs, check_free, check_suffix
from ..models.loading import LoadError, loading
from ..models.names import KNOWN, local
from .common import UsageError, at_least_one, note_emulated, some_path, usable_device

DTYPES = ("float32", "bfloat16", "float16")


def add(commands) -> None:
    command = commands.add_parser(
        "benchmark",
        help="how long a map takes on this machine",
        description="Time a model in every way that the package knows, side by side, against the network run as the "
        "authors' code runs it.",
    )
    command.add_argument("--model", default="salfom", help=f"{', '.join(KNOWN)}, a folder, or a Hub name")
    command.add_argument(
        "--random-weights",
        action="store_true",
        help="the model's network with random weights; salfom-large need not be installed for it",
    )
    command.add_argument("--device", help="such as cpu, cuda, cuda:1; default: cuda if there is one, else cpu")
    command.add_argument(
        "--dtype", nargs="+", choices=DTYPES, default=DTYPES[:2], help=f"default: {' '.join(DTYPES[:2])}"
    )
    command.add_argument(
        "--batch-size", nargs="+", type=at_least_one, default=[1], metavar="N", help="windows per call, default 1"
    )
    command.add_argument(
        "--size", nargs=2, type=at_least_one, metavar=("HEIGHT", "WIDTH"), help="of the input; default: the model's"
    )
    command.add_argument("--threads", type=at_least_one, help="of the CPU; default: PyTorch's choice")
    command.add_argument("--rounds", type=at_least_one, default=5, help="turns of each way, default %(default)s")
    command.add_argument(
        "--compile",
        nargs="?",
        const="reduce-overhead",
        choices=("default", "reduce-overhead", "max-autotune"),
        help="also the network by torch.compile in this mode; default: reduce-overhead, which uses CUDA graphs",
    )
    command.add_argument("--profile", action="store_true", help="print where the time of each way goes")
    command.add_argument("-o", "--output", type=some_path, metavar="FILE.json", help="write the numbers there too")
    command.add_argument("--overwrite", action="store_true", help="replace an existing output")
    command.set_defaults(run=benchmark)


def benchmark(args: argparse.Namespace) -> int:
    if args.output is not None:
        check_suffix(args.output, (".json",), "a JSON file")
        check_free(args.output, args.overwrite, Inputs(*local(args.model)))
    try:
        return measure(args)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UsageError("Out of memory; lower --batch-size or --size, or use another --device.") from error


def measure(args: argparse.Namespace) -> int:
    import torch

    from ..inference import benchmarking
    from ..inference.cpu import keep_freed_memory
    from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
    from ..models.video_processing_salfom import SalFoMVideoProcessor

    device = torch.device(usable_device(args.device))
    if args.threads:
        torch.set_num_threads(args.threads)
    about = benchmarking.circumstances(device, ["salfom", *sys.argv[1:]])
    try:
        if args.random_weights:
            with nullcontext() if args.model == "salfom-large" else loading(args.model):
                model, processor = benchmarking.random_model(args.model, device), SalFoMVideoProcessor()
        else:
            with loading(args.model):
                model = SalFoMForVideoSaliencyPrediction.from_pretrained(args.model, dtype=torch.float32).to(device)
                processor = SalFoMVideoProcessor.from_pretrained(args.model)
    except LoadError as error:
        if args.random_weights:
            raise
        raise UsageError(f"{error} The same network is timed without its weights by --random-weights.") from error
    size = tuple(args.size or model.config.image_height_width)
    length = model.config.num_frames
    try:
        model.salfom.check_input(torch.empty(1, length, 3, *size, device="meta"))
    except ValueError as error:
        raise UsageError(f"{error} Choose another --size.") from error

    frames = benchmarking.example_frames(processor, size, length + max(args.batch_size) - 1)
    if args.dtype != DTYPES[:2]:  # By default there are both, to be compared.
        note_emulated(dict.fromkeys(args.dtype), device)
    dtypes = [getattr(torch, name) for name in dict.fromkeys(args.dtype)]
    ways = benchmarking.ways_of(model.eval(), frames, dtypes, list(dict.fromkeys(args.batch_size)), args.compile)
    if device.type == "cuda":
        benchmarking.use_gpu(device)
    rows, rates = benchmarking.benchmark(args.model, ways, device, args.rounds, before_timing=keep_freed_memory)

    weights = "random weights" if args.random_weights else "its weights"
    title = f"{args.model} with {weights}, windows of {length} frames of {size[0]}×{size[1]}"
    peaks = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in rates.items())
    found = benchmarking.table(benchmarking.COLUMNS, rows)
    told = f"{title}. {benchmarking.described(about)}. Fastest matrix product: {peaks}."
    choices = benchmarking.chosen(model, dtypes)
    for dtype, ways_taken in choices.items():
        told += f" Predictor in {dtype}: " + ", ".join(f"{part} by {way}" for part, way in ways_taken.items()) + "."
    print(f"{told}\n\n{found}\n\n{benchmarking.LEGEND}")
    profiles = {str(way): profile(way, device) for way in ways} if args.profile else {}
    for way, text in profiles.items():
        print(f"\n{way}\n{text}")
    if args.output is not None:
        report = about | {
            "model": args.model,
            "weights": weights,
            "size": size,
            "num_frames": length,
            "rounds": args.rounds,
            "operations per window": ways[0].operations,
            "operations per second of the fastest product": rates,
            "chosen by the predictor": choices,
            "rows": rows,
            "markdown": f"{told}\n\n{found}",
            "profiles": profiles,
        }
        benchmarking.write_report(args.output, report, args.overwrite)
    return 0


def profile(way, device) -> str:
    """The operations that one call spends most of its time in."""
    import torch

    # An encoder may work in a thread of its own.
    everywhere = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with torch.profiler.profile(experimental_config=everywhere) as recorded:
        next(way.calls)
    by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return recorded.key_averages().table(sort_by=by, row_limit=10)
