"""`salfom export` and `salfom push`: a model as files for others: the Hub, ONNX, `torch.export`."""

import argparse
from collections.abc import Callable

from ..files import Inputs, check_free, check_suffix
from ..models.loading import loading
from ..models.names import local
from .common import MODEL, UsageError, at_least_one, some_path

CHECKED = "Its maps are compared with the model's: if they differ by more than 1e-4, nothing is written."


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "export",
        description="Write a model as files for others. `salfom export KIND --help` says more.",
        example="salfom export onnx salfom onnx-folder",
    )
    kinds = command.add_subparsers(dest="kind", required=True, metavar="KIND")
    command = kinds.add_parser(
        "hub",
        help="the folder that `salfom push` sends to the Hugging Face Hub",
        description="Write the folder that `salfom push` sends: card (README.md), configuration, weights, processor "
        "and code.",
        example="salfom export hub run/model hub-folder",
    )
    add_hub_options(command)
    command.add_argument("output", type=some_path, help="folder to make")
    command.add_argument("--repo-id", metavar="ORG/NAME", help="what the card calls the model; default: the folder")
    command.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    command.set_defaults(run=export_hub)

    command = kinds.add_parser(
        "onnx",
        help="a graph for onnxruntime and others",
        description=f"Write a model as an ONNX graph, for batches of any size. {CHECKED}",
        example="salfom export onnx salfom onnx-folder\nsalfom predict walk.mp4 --runtime onnx --model onnx-folder",
    )
    add_arguments(command, "folder to make, with the graph (model.onnx), configuration and processor")
    command.set_defaults(run=onnx)

    command = kinds.add_parser(
        "torch-export",
        help="a program for PyTorch alone",
        description="Write a model as a program of torch.export, for batches of any size, that runs without this "
        f"package. {CHECKED}",
        example="salfom export torch-export salfom salfom.pt2",
    )
    add_arguments(command, "file .pt2 to make")
    command.set_defaults(run=torch_export)

    command = commands.add_parser(
        "push",
        description="Send a model to the Hugging Face Hub with its card and the code that loads it in transformers "
        "without this package. Nothing on this machine changes. Log in first: hf auth login.",
        example="salfom push run/model --repo-id org/name --private",
    )
    add_hub_options(command)
    command.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="repository, made if there is none")
    command.add_argument("--private", action="store_true", help="only for its owners; a public repository is refused")
    command.set_defaults(run=push)


def add_hub_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("model", help=MODEL)
    results = "files results.json that `salfom evaluate` wrote for this model, for its card"
    option("--results", nargs="+", default=[], type=some_path, metavar="FILE", help=results)
    option("--max-shard-size", default="5GB", metavar="SIZE", help="largest file of weights")


def add_arguments(command: argparse.ArgumentParser, output: str) -> None:
    option = command.add_argument
    option("model", help=MODEL)
    option("output", type=some_path, help=output)
    size = "of the frames, in pixels; default: any where the encoder allows that, else the model's"
    option("--size", nargs=2, type=at_least_one, metavar=("HEIGHT", "WIDTH"), help=size)
    option("--overwrite", action="store_true", help="replace an existing output")


def check_repo_id(name: str | None) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        if name is not None:
            validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"'{name}' is no name of a repository; give one such as org/name.") from error


def push(args: argparse.Namespace) -> int:
    from ..hub import publish

    check_repo_id(args.repo_id)
    print(publish.push(args.model, args.repo_id, args.private, args.results, args.max_shard_size))
    return 0


def export_hub(args: argparse.Namespace) -> int:
    from ..hub import publish

    check_repo_id(args.repo_id)
    publish.export(args.model, args.output, args.repo_id, args.results, args.overwrite, args.max_shard_size)
    print(f"{args.model} -> {args.output}")
    return 0


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
