"""`salfom export`: a model as files for others: the Hub, ONNX, `torch.export`."""

import argparse

from ..errors import advice_for, reason_of
from ..files import Inputs, check_free, check_suffix
from ..models.loading import loading
from ..models.names import KNOWN, local
from . import hub
from .common import UsageError, at_least_one, some_path


def add(commands) -> None:
    command = commands.add_parser(
        "export", help="write a model for the Hub, for ONNX or for torch.export", description="Write files for others."
    )
    kinds = command.add_subparsers(dest="kind", required=True, metavar="KIND")
    hub.add_export(kinds)

    command = kinds.add_parser(
        "onnx",
        help="graphs for onnxruntime and others",
        description="Write a model as ONNX graphs, for batches of any size. Their maps are compared with PyTorch's: "
        "if they differ by more than 1e-4, nothing is written.",
    )
    add_options(command)
    command.add_argument("output", type=some_path, help="folder to make")
    command.add_argument(
        "--int8", action="store_true", help="quantise the convolutions, for models with a frame-wise encoder"
    )
    command.add_argument(
        "--calibrate",
        nargs="+",
        default=[],
        type=some_path,
        metavar="PATH",
        help="videos, images or folders of images that set the ranges of int8; default: the package's example clip",
    )
    command.set_defaults(run=onnx)

    command = kinds.add_parser(
        "torch-export",
        help="a program for PyTorch alone",
        description="Write a model as a program of torch.export, for batches of any size, that runs without this "
        "package. Its maps are compared with the model's: if they differ by more than 1e-4, nothing is written.",
    )
    add_options(command)
    command.add_argument("output", type=some_path, help="file .pt2 to make")
    command.set_defaults(run=torch_export)


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help=f"{', '.join(KNOWN)}, a folder, or a Hub name")
    command.add_argument(
        "--size",
        nargs=2,
        type=at_least_one,
        metavar=("HEIGHT", "WIDTH"),
        help="of the frames, in pixels; default: any where the encoder allows that, else the model's",
    )
    command.add_argument("--overwrite", action="store_true", help="replace an existing output")


def export(function, args: argparse.Namespace, **options) -> int:
    """Load the model, export it, and tell what the check found."""
    import torch

    from ..export.onnx_runtime import GraphError
    from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
    from ..models.video_processing_salfom import SalFoMVideoProcessor

    check_free(args.output, args.overwrite, Inputs(*local(args.model), *options.get("calibration", ())))
    with loading(args.model):
        model = SalFoMForVideoSaliencyPrediction.from_pretrained(args.model, dtype=torch.float32)
        processor = SalFoMVideoProcessor.from_pretrained(args.model)
    size = None if args.size is None else tuple(args.size)
    try:
        report = function(model, processor, args.output, size, overwrite=args.overwrite, **options)
    except GraphError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(
            f"Cannot write {args.output} ({reason_of(error)}); {advice_for(error, 'choose another output')}."
        ) from error
    # What is written in int8 differs by more.
    when = " before quantisation" if report.correlations else ""
    for file, difference in report.differences.items():
        print(f"{file}: maps differ from PyTorch's by {difference:.1e} at most{when}")
    if report.correlations:
        mean = sum(report.correlations) / len(report.correlations)
        print(
            f"int8: correlation with the float32 maps of the example clip {mean:.4f} on average, "
            f"{min(report.correlations):.4f} at least"
        )
    print(f"{args.model} -> {args.output}")
    return 0


def onnx(args: argparse.Namespace) -> int:
    from ..export.onnx import export_onnx

    if args.calibrate and not args.int8:
        raise UsageError("--calibrate sets the ranges of int8; add --int8, or leave it out.")
    return export(export_onnx, args, int8=args.int8, calibration=args.calibrate)


def torch_export(args: argparse.Namespace) -> int:
    from ..export.onnx import export_program

    check_suffix(args.output, (".pt2",), "a program of torch.export")
    return export(export_program, args)
