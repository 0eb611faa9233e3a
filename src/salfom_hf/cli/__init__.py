"""The command `salfom`: a thin layer over the package's functions, one module per command or group of commands."""

import os
import signal
import sys

from .. import __version__
from ..files import ENDING, on_signals, stop
from . import benchmark, convert, data, demo, evaluate, export, hub, live, predict
from .common import FAILURE, CommandParser, in_words, report


def parser() -> CommandParser:
    main_parser = CommandParser(
        prog="salfom", description="Predict where people look in a video (SalFoM, arXiv 2404.03097)."
    )
    main_parser.add_argument("--version", action="version", version=f"salfom-hf {__version__}")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (predict, live, convert, data, evaluate, hub, export, demo, benchmark):
        module.add(commands)
    return main_parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 when anything failed, 128 + the signal when stopped."""
    args = parser().parse_args(arguments)
    try:
        with on_signals(stop, ENDING[1:]):
            return args.run(args)
    except BrokenPipeError:  # Such as `salfom … | head`: what reads the output has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except KeyboardInterrupt as stopped:
        print(f"salfom: stopped; {getattr(args, 'stopped', 'the unfinished output was removed')}.", file=sys.stderr)
        return 128 + (stopped.args or (signal.SIGINT,))[0]
    except Exception as error:
        report(in_words(error))
        return FAILURE
