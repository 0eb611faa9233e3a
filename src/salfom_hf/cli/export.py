"""`salfom export`: a model as files for others: the Hub, ONNX, `torch.export`."""

import argparse
from collections.abc import Callable

from ..files import Inputs, check_free, check_suffix
from ..models.loading import loading
from ..models.names import KNOWN, local
from . import hub
from .common import at_least_one, some_path

CHECKED = "Its maps are compared with the model's: if they differ by more than 1e-4, nothing is written."


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "export", help="write a model for the Hub, for ONNX or for torch.export", description="Write files for others."
    )
    kinds = command.add_subparsers(dest="kind", required=True, metavar="KIND")
    hub.add_export(kinds)

    command = kinds.add_parser(
        "onnx",
        help="a graph for onnxruntime and others",
        description=f"Write a model as an ONNX graph, for batches of any size. {CHECKED}",
    )
    add_arguments(command, "folder to make")
    command.set_defaults(run=onnx)

    command = kinds.add_parser(
        "torch-export",
        help="a program for PyTorch alone",
        description="Write a model as a program of torch.export, for batches of any size, that runs without this "
        f"package. {CHECKED}",
    )
    add_arguments(command, "file .pt2 to make")
    command.set_defaults(run=torch_export)


def add_arguments(command: argparse.ArgumentParser, output: str) -> None:
    command.add_argument("model", help=f"{', '.join(KNOWN)}, a folder, or a Hub name")
    command.add_argument("output", type=some_path, help=output)
    command.add_argument(
        "--size",
        nargs=2,
        type=at_least_one,
        metavar=("HEIGHT", "WIDTH"),
        help="of the frames, in pixels; default: any where the encoder allows that, else the model's",
    )
    command.add_argument("--overwrite", action="store_true", help="replace an existing output")


def export(write: Callable, args: argparse.Namespace, file: str) -> int:
    """Load the model, export it, and tell what the check of the file found."""
    import torch

    from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
    from ..models.video_processing_salfom import SalFoMVideoProcessor

    check_free(args.output, args.overwrite, Inputs(*local(args.model)))
    with loading(args.model):
        model = SalFoMForVideoSaliencyPrediction.from_pretrained(args.model, dtype=torch.float32)
        processor = SalFoMVideoProcessor.from_pretrained(args.model)
    difference = write(model, processor, args.output, args.size and tuple(args.size), args.overwrite)
    print(f"{file}: maps differ from PyTorch's by {difference:.1e} at most\n{args.model} -> {args.output}")
    return 0


def onnx(args: argparse.Namespace) -> int:
    from ..export.onnx import export_onnx
    from ..export.onnx_runtime import GRAPH

    return export(export_onnx, args, GRAPH)


def torch_export(args: argparse.Namespace) -> int:
    from ..export.onnx import export_program

    check_suffix(args.output, (".pt2",), "a program of torch.export")
    return export(export_program, args, args.output.name)
