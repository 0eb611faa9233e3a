"""`salfom benchmark`: how many maps a second this machine computes."""

import argparse
from contextlib import nullcontext

from ..models.loading import LoadError, loading
from ..models.names import KNOWN
from .common import UsageError, at_least_one, note_emulated, usable_device

DTYPES = ("float32", "bfloat16", "float16")

REAL_TIME = 30  # frames per second


def add(commands) -> None:
    command = commands.add_parser(
        "benchmark",
        help="how many maps a second this machine computes",
        description="Time a model on this machine, in several precisions and batch sizes side by side.",
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
    command.add_argument("--compile", action="store_true", help="by torch.compile; for salfom-large and its like")
    command.set_defaults(run=benchmark)


def load(args: argparse.Namespace, device: str, dtype):
    """Model and processor, for the size that is asked for."""
    from transformers.image_utils import SizeDict

    from ..inference.benchmarking import random_model
    from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
    from ..models.video_processing_salfom import SalFoMVideoProcessor

    size = args.size
    try:
        # What need not be installed cannot be checked.
        known = args.random_weights and args.model == "salfom-large"
        with nullcontext() if known else loading(args.model):
            if args.random_weights:
                model, processor = random_model(args.model, device).to(dtype), SalFoMVideoProcessor()
                size = size or model.config.image_height_width
            else:
                model = SalFoMForVideoSaliencyPrediction.from_pretrained(args.model, dtype=dtype).to(device)
                processor = SalFoMVideoProcessor.from_pretrained(args.model)
    except LoadError as error:
        if args.random_weights:
            raise
        raise UsageError(f"{error} The same network is timed without its weights by --random-weights.") from error
    if size is not None:
        processor.size, processor.keep_aspect_ratio = SizeDict(height=size[0], width=size[1]), False
    return model, processor


def benchmark(args: argparse.Namespace) -> int:
    import torch

    from .. import __version__
    from ..inference.benchmarking import EXAMPLE, maps_per_second
    from ..inference.cpu import exact_float32, keep_freed_memory
    from ..inference.predictor import SaliencyPredictor
    from ..inference.profiling import aligned
    from ..video.reading import probe

    keep_freed_memory()
    exact_float32()
    device = usable_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.dtype != DTYPES[:2]:  # By default there are both, to be compared.
        note_emulated(dict.fromkeys(args.dtype), device)
    info, predictors = probe(EXAMPLE), {}
    try:
        for dtype in dict.fromkeys(args.dtype):
            model, processor = load(args, device, getattr(torch, dtype))
            height, width = processor.target_size(info.height, info.width)
            model.salfom.check_input(torch.empty(1, 1, 3, height, width, device="meta"))
            for batch_size in dict.fromkeys(args.batch_size):
                predictor = SaliencyPredictor(model, processor, batch_size=batch_size, compile=args.compile)
                predictors[dtype, batch_size] = predictor
    except ValueError as error:
        raise UsageError(str(error)) from error
    rates = maps_per_second(list(predictors.values()), args.rounds)

    print(
        f"{args.model}{' with random weights' * args.random_weights}, windows of {model.config.num_frames} frames of "
        f"{height}×{width}; {device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, salfom-hf "
        f"{__version__}\n"
    )
    rows = [
        [dtype, str(batch_size), f"{1000 / rate:.1f}", f"{rate:.3g}", f"{rate / REAL_TIME:.2g}"]
        for (dtype, batch_size), rate in zip(predictors, rates, strict=True)
    ]
    print(*aligned(["dtype", "batch", "ms per map", "maps per second", "times real time"], rows), sep="\n")
    (dtype, batch_size), rate = max(zip(predictors, rates, strict=True), key=lambda way: way[1])
    print(
        f"\nFastest: --dtype {dtype} --batch-size {batch_size}, {rate:.3g} maps per second, {rate / REAL_TIME:.2g} "
        f"times as fast as a video of {REAL_TIME} frames per second plays"
    )
    return 0
