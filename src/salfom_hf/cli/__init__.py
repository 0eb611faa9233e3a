"""The command `salfom`: a thin layer over the package's functions, one module per command or group of commands."""

import os
import signal
import sys

from .. import __version__
from ..files import ENDING, on_signals, stop
from . import benchmark, convert, data, demo, evaluate, export, live, predict
from .common import FAILURE, CommandParser, error_in_words, report

COMMANDS = """Predict where people look in a video (SalFoM, arXiv 2404.03097).

I have a video:
  predict      write it with colours where people look, as maps, or as a table
  demo         the same as a page in the browser
  live         a camera or a stream, shown as it comes
  python -m salfom_hf.predict    many videos, on several processes or GPUs

I have gaze (where people did look):
  data         make a dataset of it, check it, look at it, export it
  evaluate     score models, others' maps and baselines on it
  submit       make maps for the DHF1K server
  python -m salfom_hf.train      train a model on it

I have weights:
  convert      turn the authors' weights into a folder for --model
  benchmark    measure how many maps a second this machine computes

I publish a model:
  push         send it to the Hugging Face Hub
  export       write the folder for the Hub, or ONNX, or torch.export

`salfom COMMAND --help` says more."""


def parser() -> CommandParser:
    main_parser = CommandParser(prog="salfom", description=COMMANDS, example="salfom predict walk.mp4")
    main_parser.add_argument("--version", action="version", version=f"salfom-hf {__version__}")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help="one of those above")
    for module in (predict, live, demo, data, evaluate, convert, benchmark, export):
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
        report(error_in_words(error))
        return FAILURE
