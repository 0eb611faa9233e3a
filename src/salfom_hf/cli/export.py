"""`salfom export` and `salfom push`: a model as files for others: the Hub, ONNX, `torch.export`."""

import argparse

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
    hub = kinds.add_parser(
        "hub",
        help="the folder that `salfom push` sends to the Hugging Face Hub",
        description="Write the folder that `salfom push` sends: card (README.md), configuration, weights, processor "
        "and code.",
        example="salfom export hub run/model hub-folder",
    )
    onnx = kinds.add_parser(
        "onnx",
        help="a graph for onnxruntime and others",
        description=f"Write a model as an ONNX graph, for batches of any size. {CHECKED}",
        example="salfom export onnx salfom onnx-folder\nsalfom predict walk.mp4 --runtime onnx --model onnx-folder",
    )
    program = kinds.add_parser(
        "torch-export",
        help="a program for PyTorch alone",
        description="Write a model as a program of torch.export, for batches of any size, that runs without this "
        f"package. {CHECKED}",
        example="salfom export torch-export salfom salfom.pt2",
    )
    push = commands.add_parser(
        "push",
        description="Send a model to the Hugging Face Hub with its card and the code that loads it in transformers "
        "without this package. Nothing on this machine changes. Log in first: hf auth login.",
        example="salfom push run/model --repo-id org/name --private",
    )
    graph = "folder to make, with the graph (model.onnx), configuration and processor"
    for kind, output in {hub: "folder to make", onnx: graph, program: "file .pt2 to make", push: None}.items():
        kind.add_argument("model", help=MODEL)
        if output:
            kind.add_argument("output", type=some_path, help=output)
            kind.add_argument("--overwrite", action="store_true", help="replace an existing output")
        kind.set_defaults(run=export_graph if kind in (onnx, program) else export_or_push)
    for kind in (onnx, program):
        size = "of the frames, in pixels; default: any where the encoder allows that, else the model's"
        kind.add_argument("--size", nargs=2, type=at_least_one, metavar=("HEIGHT", "WIDTH"), help=size)
    for kind in (hub, push):
        results = "files results.json that `salfom evaluate` wrote for this model, for its card"
        kind.add_argument("--results", nargs="+", default=[], type=some_path, metavar="FILE", help=results)
        kind.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="largest file of weights")
    hub.add_argument("--repo-id", metavar="ORG/NAME", help="what the card calls the model; default: the folder")
    push.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="repository, made if there is none")
    push.add_argument("--private", action="store_true", help="only for its owners; a public repository is refused")


def export_or_push(args: argparse.Namespace) -> int:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    from ..hub import publish

    try:
        validate_repo_id("a/model" if args.repo_id is None else args.repo_id)
    except HFValidationError as error:
        raise UsageError(f"'{args.repo_id}' is no name of a repository; give one such as org/name.") from error
    if args.command == "push":
        print(publish.push(args.model, args.repo_id, args.private, args.results, args.max_shard_size))
    else:
        publish.export(args.model, args.output, args.repo_id, args.results, args.overwrite, args.max_shard_size)
        print(f"{args.model} -> {args.output}")
    return 0


def export_graph(args: argparse.Namespace) -> int:
    """Load the model, export it, and tell what the check of the file found."""
    if program := args.kind == "torch-export":
        check_suffix(args.output, (".pt2",), "a program of torch.export")
    import torch

    from ..export.onnx import export
    from ..export.onnx_runtime import GRAPH
    from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
    from ..models.video_processing_salfom import SalFoMVideoProcessor

    check_free(args.output, args.overwrite, Inputs(*local(args.model)))
    with loading(args.model):
        model = SalFoMForVideoSaliencyPrediction.from_pretrained(args.model, dtype=torch.float32)
        processor = SalFoMVideoProcessor.from_pretrained(args.model)
    size, file = args.size and tuple(args.size), args.output.name if program else GRAPH
    difference = export(args.kind, model, processor, args.output, size, args.overwrite)
    print(f"{file}: maps differ from PyTorch's by {difference:.1e} at most\n{args.model} -> {args.output}")
    return 0
