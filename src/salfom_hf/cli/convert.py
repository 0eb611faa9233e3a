"""`salfom convert`: the authors' weights to a folder for `from_pretrained`."""

import argparse

from ..models.names import installed
from .common import UsageError, some_path


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "convert",
        help="the authors' weights to a folder for from_pretrained",
        description="Convert a released SalFoM or UMT .pth file to a folder for from_pretrained.",
    )
    command.add_argument("checkpoint", type=some_path)
    command.add_argument("output", type=some_path, nargs="?", help="folder to make")
    command.add_argument("--install", action="store_true", help="make it the model 'salfom-large' of this user")
    command.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    command.set_defaults(run=convert)


def convert(args: argparse.Namespace) -> int:
    from ..export.convert import convert_checkpoint

    if (args.output is None) != args.install:
        raise UsageError("Name the folder to make, or pass --install (one of the two).")
    print(convert_checkpoint(args.checkpoint, args.output or installed("salfom-large"), args.overwrite))
    return 0
