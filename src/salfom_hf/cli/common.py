"""What the commands share: checking arguments, loading a model, reporting errors in one line."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

from ..pretrained import KNOWN

FAILURE = 2


class UsageError(Exception):
    """What the user asked for cannot be done; the message is one sentence that says what to do."""


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return int(text)


def not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def add_model_options(command: argparse.ArgumentParser) -> None:
    """How a model computes: the options that every command with a model has."""
    command.add_argument("--stride", type=at_least_one, default=1, help="run the network on every k-th frame")
    command.add_argument("--batch-size", type=at_least_one, default=4, help="windows per call, default 4")
    command.add_argument("--device", help="such as cpu, cuda, cuda:1, mps; default: cuda if there is one, else cpu")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")


@contextmanager
def loading(name: str) -> Iterator[None]:
    """
    Load a model without chatter.

    Raises:
        UsageError: it cannot be used.
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(str(error)) from error
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError, StrictDataclassError) as error:
        raise UsageError(
            f"Cannot load the model '{name}': it is none of {', '.join(KNOWN)}, no folder with a complete "
            "SalFoM model, and no such model on the Hub can be reached."
        ) from error


def load_predictor(name: str, args: argparse.Namespace):
    """
    A [`SaliencyPredictor`] as the options of `add_model_options` say.

    Raises:
        UsageError: the device or the model cannot be used.
    """
    import torch

    from ..allocation import keep_freed_memory
    from ..predictor import SaliencyPredictor

    keep_freed_memory()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"The device '{device}' cannot be used on this machine; try --device cpu.") from error
    with loading(name):
        return SaliencyPredictor.from_pretrained(
            name, device, getattr(torch, args.dtype), args.stride, args.batch_size
        )


def report(error: Exception) -> int:
    """Print an error as one line; the number of failures it is, for counting."""
    print(f"salfom: {' '.join(str(error).split())}", file=sys.stderr)
    return 1
