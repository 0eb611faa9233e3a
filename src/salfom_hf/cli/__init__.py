"""The command `salfom`: a thin layer over the package's functions, one module per command or group of commands."""

import argparse
import os
import sys

from .. import __version__
from ..video import VideoError
from . import benchmark, convert, data, demo, evaluate, export, hub, live, predict
from .common import FAILURE, NO_COMPILER, UsageError, compiling_failed, report


def parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(
        prog="salfom", description="Predict where people look in a video (SalFoM, arXiv 2404.03097)."
    )
    main_parser.add_argument("--version", action="version", version=f"salfom-hf {__version__}")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (predict, live, convert, data, evaluate, hub, export, demo, benchmark):
        module.add(commands)
    return main_parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 when anything failed."""
    args = parser().parse_args(arguments)
    try:
        return args.run(args)
    except (UsageError, VideoError) as error:
        report(error)
        return FAILURE
    except RuntimeError as error:
        if not compiling_failed(error):
            raise
        report(UsageError(NO_COMPILER))
        return FAILURE
    except BrokenPipeError:  # Such as `salfom … | head`: what reads the output has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except KeyboardInterrupt:
        print(f"salfom: stopped; {getattr(args, 'stopped', 'the unfinished output was removed')}.", file=sys.stderr)
        return 130
