"""What the commands share: checking arguments, loading a model, reporting errors in one line."""

import argparse
import gc
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import importing
from ..errors import advice_for, described, is_out_of_memory, is_sentence
from ..models.names import KNOWN

if TYPE_CHECKING:
    import torch

    from ..inference.predictor import SaliencyPredictor

FAILURE = 2
DTYPES = ("float32", "bfloat16", "float16")
# Help of options that several commands have.
MODEL = f"{', '.join(KNOWN)}, a folder with a model, or its name on the Hugging Face Hub"
COLOURS = "colours from where hardly anybody looks to where most do (turbo: blue over green to red)"
DEVICE = "such as cpu, cuda, cuda:1 or mps; default: cuda if there is one, else cpu"
COMPILE = "speed up the network by torch.compile, which takes minutes at first; for salfom-large and its like"


class UsageError(Exception):
    """What the user asked for cannot be done; the message is one sentence that says what to do."""


class HelpFormatter(argparse.HelpFormatter):
    """Lines of examples stay as they are, and every option that has a default says so."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n".join(line if line.startswith(" ") else fill(line, width, indent) for line in text.splitlines())

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        empty = not action.option_strings or action.default in (None, [], argparse.SUPPRESS) or action.nargs == 0
        return text if empty or "default" in text else f"{text}, default: %(default)s"


class CommandParser(argparse.ArgumentParser):
    """
    A parser whose help ends with an `example`, or several lines of them. As all parsers of its subcommands, it has the
    option --debug; without it `args` has no `debug`.
    """

    def __init__(self, *args: Any, example: str | None = None, **options: Any):
        epilog = example and "example:\n  " + example.replace("\n", "\n  ")
        super().__init__(*args, **{"formatter_class": HelpFormatter, "epilog": epilog} | options)
        told = "print the whole traceback of every error"
        self.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=told)

    def parse_known_args(self, *args: Any, **options: Any) -> tuple[argparse.Namespace, list[str]]:
        global _tracebacks
        parsed, unknown = super().parse_known_args(*args, **options)
        whole_lines()
        _tracebacks = getattr(parsed, "debug", False)
        return parsed, unknown


_tracebacks = False  # Whether --debug asks for them.


def whole_lines() -> None:
    """Write each line at once, also where launchers start Python unbuffered: lines of processes would mix."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=False)


def some_path(text: str) -> Path:
    if not text:  # Which would be the current folder: as from a variable that is not set.
        raise argparse.ArgumentTypeError("an empty path names nothing; give a file or a folder")
    return Path(text)


def whole_number(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least {least}")
    return int(text)


at_least_one = partial(whole_number, least=1)


def port_number(text: str) -> int:
    if whole_number(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port; those are up to 65535")
    return int(text)


def not_negative(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")


def add_model_options(command: argparse.ArgumentParser, batches: bool = True) -> None:
    """How a model computes: the options that every command with a model has; without `batches`, one window a time."""
    option = command.add_argument
    stride = "compute one frame in N and fill in those between: up to N times as fast, a little less exact"
    option("--stride", type=at_least_one, default=1, metavar="N", help=stride)
    if batches:
        option("--batch-size", type=at_least_one, default=4, metavar="N", help="frames computed at the same time")
        option("--compile", action="store_true", help=COMPILE)
    else:
        command.set_defaults(batch_size=1, compile=False)
    option("--device", help=DEVICE)
    option("--dtype", choices=DTYPES, default="float32", help="precision of the computing; float16 is for GPUs")
    runtime = "what computes; for onnx, --model is the folder that `salfom export onnx` wrote"
    option("--runtime", choices=("torch", "onnx"), default="torch", help=runtime)


def note_emulated(dtypes: Iterable[str], device: "str | torch.device") -> None:
    """One line on stderr, of the main process, where a CPU emulates a dtype: float32 is faster there."""
    import torch

    from ..inference.cpu import computes_in_hardware

    emulated = [name for name in dtypes if not computes_in_hardware(getattr(torch, name))]
    other = torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank()
    if emulated and torch.device(device).type == "cpu" and not other:
        names = " and ".join(emulated)
        print(f"salfom: this CPU emulates {names}, which is slow; float32 is faster here.", file=sys.stderr)


@contextmanager
def quick_imports() -> Iterator[None]:
    """`importing`; nor are the objects looked through at the end of the program, which took a second."""
    with importing():
        yield
        if not gc.get_freeze_count():
            gc.freeze()


def load_predictor(name: str, args: argparse.Namespace, keep_memory: bool = True) -> "SaliencyPredictor":
    """
    A predictor as the options of `add_model_options` say; a server does not `keep_memory` that is freed.

    Raises:
        UsageError: the device or the model cannot be used, or not as the options say.
        LoadError: the model cannot be loaded.
    """
    with quick_imports():
        import torch
        import transformers

        from ..inference.cpu import exact_float32, keep_freed_memory
        from ..inference.predictor import SaliencyPredictor

    if keep_memory:
        keep_freed_memory()
    exact_float32()
    dtype = getattr(torch, args.dtype)
    if args.runtime == "onnx":
        from ..export.onnx_runtime import OnnxPredictor

        if args.compile:
            raise UsageError("--compile is for PyTorch; leave it out with --runtime onnx.")
        transformers.logging.set_verbosity_error()
        return OnnxPredictor.from_pretrained(name, args.device or "cpu", dtype, args.stride, args.batch_size)
    try:
        how = args.device, dtype, args.stride, args.batch_size, args.compile
        predictor = SaliencyPredictor.from_pretrained(name, *how)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not vars(args).get("emulation_noted"):  # A command may load several models.
        note_emulated([args.dtype], predictor.model.device)
        args.emulation_noted = True
    return predictor


def report(error: Exception) -> int:
    """Print an error as one line, with --debug also its traceback; the number of failures it is, for counting."""
    print_traceback(error)
    print(f"salfom: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def print_traceback(error: BaseException | None) -> None:
    """With --debug, where an error that is about to be printed as a sentence comes from."""
    if _tracebacks:
        traceback.print_exception(error)


def error_in_words(error: Exception) -> Exception:
    """What a user reads of an error: the error itself if it is a sentence, else one with what kind it is."""
    if is_sentence(error):
        return error
    what, advice = f"Unexpected error: {described(error)}", "run it again with --debug to see where it is from"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        what, advice = "torch.compile does not work on this machine", "leave out --compile"
    elif is_out_of_memory(error):
        what, advice = f"Out of memory ({described(error)})", "ask for less at once, or use another --device"
    elif isinstance(error, OSError):
        what, advice = f"{error}", advice_for(error, advice)
    told = UsageError(f"{what}; {advice}.")
    told.__cause__ = error
    return told
