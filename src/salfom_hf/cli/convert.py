"""`salfom convert`: the authors' weights to a folder for `from_pretrained`."""

import argparse

from ..models.names import installed
from .common import UsageError, some_path


def add(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "convert",
        description="Convert weights that the authors of SalFoM or of UMT, its encoder, publish (a .pth file) to a "
        "folder that --model and from_pretrained take.",
        example="salfom convert SalFoM.pth --install\nsalfom convert OpenGVLab/UMT umt-large",
    )
    checkpoint = (
        "a .pth file, or the name of one on the Hugging Face Hub, which is downloaded (ORG/NAME/FILE.pth; "
        "OpenGVLab/UMT alone: the encoder that SalFoM starts from)"
    )
    command.add_argument("checkpoint", type=some_path, help=checkpoint)
    command.add_argument("output", type=some_path, nargs="?", help="folder to make")
    command.add_argument("--install", action="store_true", help="make it the model of the name salfom-large instead")
    command.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    command.set_defaults(run=convert)


def convert(args: argparse.Namespace) -> int:
    from ..export.convert import convert_checkpoint

    if (args.output is None) != args.install:
        raise UsageError("Name the folder to make, or pass --install (one of the two).")
    print(convert_checkpoint(args.checkpoint, args.output or installed("salfom-large"), args.overwrite))
    return 0
