"""`salfom push` and `salfom export hub`: a model's folder for the Hub, there or on disk."""

import argparse

from ..models.names import KNOWN
from .common import UsageError, some_path


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "push",
        help="send a model to the Hugging Face Hub",
        description="Send a model to the Hugging Face Hub with its card and the code that loads it in transformers "
        "without this package. Nothing on this machine changes.",
    )
    command.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="repository, made if there is none")
    command.add_argument("--private", action="store_true", help="only for its owners; a public repository is refused")
    add_options(command)
    command.set_defaults(run=push)


def add_export(kinds: argparse._SubParsersAction) -> None:
    """The kind `hub` of `salfom export`."""
    command = kinds.add_parser(
        "hub",
        help="the folder that `salfom push` sends",
        description="Write the folder that `salfom push` sends: card, configuration, weights, processor and code.",
    )
    add_options(command)
    command.add_argument("output", type=some_path, help="folder to make")
    command.add_argument("--repo-id", metavar="ORG/NAME", help="what the card calls the model")
    command.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    command.set_defaults(run=export)


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help=f"{', '.join(KNOWN)}, a folder, or a Hub name")
    command.add_argument(
        "--results",
        nargs="+",
        default=[],
        type=some_path,
        metavar="FILE",
        help="results.json of salfom evaluate for this model, for its card",
    )
    command.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="split larger weights, default: %(default)s"
    )


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


def export(args: argparse.Namespace) -> int:
    from ..hub import publish

    check_repo_id(args.repo_id)
    publish.export(args.model, args.output, args.repo_id, args.results, args.overwrite, args.max_shard_size)
    print(f"{args.model} -> {args.output}")
    return 0
