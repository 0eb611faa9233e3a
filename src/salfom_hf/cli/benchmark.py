"""`salfom benchmark`: how many maps a second this machine computes."""

import argparse
import copy
from contextlib import nullcontext

from ..models.loading import loading
from .common import COMPILE, DEVICE, DTYPES, MODEL, UsageError, at_least_one, load_predictor

REAL_TIME = 30  # frames per second


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "benchmark",
        description="Measure how many maps a second a model computes on this machine, in several precisions and batch "
        "sizes side by side. It prints a table and writes nothing.",
        example="salfom benchmark\nsalfom benchmark --dtype float32 --batch-size 1 4 8",
    )
    option = command.add_argument
    option("--model", default="salfom", help=MODEL)
    weights = "the model's network with random weights; salfom-large need not be installed for it"
    option("--random-weights", action="store_true", help=weights)
    option("--device", help=DEVICE)
    dtypes = f"precisions of the computing, default: {' '.join(DTYPES[:2])}"
    option("--dtype", nargs="+", choices=DTYPES, default=DTYPES[:2], help=dtypes)
    batches = "numbers of frames computed at the same time, default: 1"
    option("--batch-size", nargs="+", type=at_least_one, default=[1], metavar="N", help=batches)
    size = "in pixels; default: the model's"
    option("--size", nargs=2, type=at_least_one, metavar=("HEIGHT", "WIDTH"), help=size)
    option("--threads", type=at_least_one, metavar="N", help="of the CPU; default: PyTorch's choice")
    option("--rounds", type=at_least_one, default=5, metavar="N", help="how often each way is timed")
    option("--compile", action="store_true", help=COMPILE)
    command.set_defaults(run=benchmark, stride=1, runtime="torch")


def benchmark(args: argparse.Namespace) -> int:
    import torch

    from .. import __version__
    from ..inference.benchmarking import EXAMPLE, SaliencyPredictor, maps_per_second, random_model
    from ..inference.cpu import exact_float32, keep_freed_memory
    from ..inference.predictor import usable_device
    from ..inference.profiling import aligned
    from ..models.encoders import check_clips
    from ..models.video_processing_salfom import SalFoMVideoProcessor
    from ..video.reading import probe

    keep_freed_memory()
    exact_float32()
    if args.threads:
        torch.set_num_threads(args.threads)
    info, predictors = probe(EXAMPLE), {}
    try:
        for dtype in dict.fromkeys(args.dtype):
            if args.random_weights:
                device = usable_device(args.device)
                # What need not be installed cannot be checked.
                with nullcontext() if args.model == "salfom-large" else loading(args.model):
                    model = random_model(args.model, device).to(getattr(torch, dtype))
                sides = dict(zip(("height", "width"), model.config.image_height_width, strict=True))
                predictor = SaliencyPredictor(model, SalFoMVideoProcessor(size=sides), compile=args.compile)
            else:
                of_dtype = argparse.Namespace(**vars(args) | {"dtype": dtype, "batch_size": 1})
                predictor = load_predictor(args.model, of_dtype)
            model, processor = predictor.model, predictor.processor
            if args.size is not None:
                processor.fix_size(*args.size)
            height, width = processor.target_size(info.height, info.width)
            still = torch.empty(1, 1, 3, height, width, device="meta")
            check_clips(still, model.config.num_frames, model.config.encoder_stride)
            for batch_size in dict.fromkeys(args.batch_size):
                predictors[dtype, batch_size] = copy.copy(predictor)
                predictors[dtype, batch_size].batch_size = batch_size
        rates = maps_per_second(list(predictors.values()), args.rounds)
    except ValueError as error:
        raise UsageError(str(error)) from error

    print(
        f"{args.model}{' with random weights' * args.random_weights}, windows of {model.config.num_frames} frames of "
        f"{height}×{width}; {model.device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, salfom-hf "
        f"{__version__}\n"
    )
    rows = [
        [dtype, str(batch_size), f"{1000 / rate:.1f}", f"{rate:.3g}", f"{rate / REAL_TIME:.2g}"]
        for (dtype, batch_size), rate in zip(predictors, rates, strict=True)
    ]
    print(*aligned(["dtype", "batch", "ms per map", "maps per second", "times real time"], rows), sep="\n")
    dtype, batch_size, _, speed, times = max(zip(rates, rows, strict=True), key=lambda way: way[0])[1]
    print(
        f"\nFastest: --dtype {dtype} --batch-size {batch_size}, {speed} maps per second, {times} times as fast as a "
        f"video of {REAL_TIME} frames per second plays"
    )
    return 0
