"""The command line of `salfom_hf.train`: a preset or a file, and every setting as an option."""

import argparse
import dataclasses
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any, get_origin

import datasets
import transformers
from safetensors import SafetensorError

from ..errors import FULL, VideoError, advice_for, errno_of, is_out_of_memory, is_sentence
from ..files import ENDING, on_signals
from ..inference.cpu import keep_freed_memory
from ..inference.processes import LOST, OtherProcessError, lost_connection
from ..training import config
from ..training.checkpoints import CHECKPOINTS
from ..training.config import ConfigError, TrainingConfig
from ..training.log import LOG, PICTURES, TRACKERS
from ..training.loop import TrainingStoppedError
from ..training.run import has_checkpoint, train
from .common import FAILURE, CommandParser, UsageError, report

# What a run leaves next to its model.
LEFT = {
    CHECKPOINTS: "to go on from with --resume",
    PICTURES: "of validation clips",
    TRACKERS: "for tensorboard --logdir",
    LOG: "all numbers",
}


class ShowPath(argparse.Action):
    """`PRESET --path`: where a file that ships is, for copying it or for `accelerate launch --config_file`."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object) -> None:
        for folder in (config.PRESETS, config.LAUNCH_CONFIGS):
            path = folder / f"{namespace.preset}.yaml"
            if path.is_file():
                print(path)
                parser.exit()
        parser.error(f"there is no preset and no accelerate configuration {namespace.preset}")


def parser() -> argparse.ArgumentParser:
    made = CommandParser(
        prog="accelerate launch -m salfom_hf.train",
        description=f"Train or fine-tune SalFoM. Presets: {', '.join(config.preset_names())}. A default holds where "
        "neither the preset nor an option says otherwise.",
        epilog="example: accelerate launch -m salfom_hf.train fine-tune --data-dir mine --output-dir run",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    made.add_argument("preset", help="a preset, or a YAML file with any of the settings below")
    path_help = "print the path of the preset, or of the accelerate configuration, named so"
    made.add_argument("--path", action=ShowPath, nargs=0, help=path_help)
    group = made.add_argument_group()
    for name, value in dataclasses.asdict(TrainingConfig()).items():
        kind = config.TYPES[name]
        if name in config.GROUPS:
            group = made.add_argument_group(config.GROUPS[name])
        default = " ".join(map(str, value)) if isinstance(value, list) else "no" if value is False else str(value)
        if value in ("", [], {}):
            default = "none"
        text = f"{config.HELP[name]} (default: {default})".replace("%", "%%")
        if kind is bool:
            options: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        elif get_origin(kind) is list:
            options = {"nargs": "*", "metavar": kind.__args__[0].__name__.upper()}
        else:
            options = {"metavar": "JSON" if get_origin(kind) is dict else kind.__name__.upper()}
        group.add_argument(f"--{name.replace('_', '-')}", help=text, **options)
    return made


def parse(arguments: list[str] | None = None) -> TrainingConfig:
    """
    The configuration that a command line asks for: the preset's or file's settings, overridden by the options.

    Raises:
        ConfigError: a setting is unknown or impossible.
    """
    given, unknown = parser().parse_known_args(arguments)
    if unknown:
        flags = [f"--{name.replace('_', '-')}" for name in config.TYPES]
        raise ConfigError(f"There is no option '{unknown[0]}'{config.suggestion(unknown[0], flags)} See --help.")
    settings = config.read_settings(given.preset)
    options = {key: value for key, value in vars(given).items() if key in config.TYPES}
    for key, value in options.items():
        if get_origin(config.TYPES[key]) is dict:
            try:
                options[key] = json.loads(value)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{key} must be JSON such as '{{\"key\": 1}}', not {value!r}.") from error
    made = TrainingConfig(**config.merged(settings, options))
    made.check()
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 when anything failed, 130 or 143 when stopped."""
    keep_freed_memory()
    # Of what all processes of a machine find out together, one speaks.
    speaks = os.environ.get("LOCAL_RANK", "0") == "0"
    transformers.logging.disable_progress_bar()
    if not (speaks and sys.stderr.isatty()):
        datasets.disable_progress_bars()
    failure: Exception
    settings, code = None, FAILURE
    with on_signals(stop):
        try:
            settings = parse(arguments)
            folder = train(settings)
            if speaks:
                print(f"The best model is in {folder}.")
                left = ", ".join(f"{name} ({what})" for name, what in LEFT.items() if (folder.parent / name).exists())
                print(f"Next to it: {left}.")
            return 0
        except KeyboardInterrupt as stopped:
            saved = "between two steps, so nothing is lost; go on with --resume"
            done = saved if begun(settings) else "before training began"
            failure, code = UsageError(f"Stopped {done}."), 128 + stopped.args[0]
        except TrainingStoppedError as error:
            failure, code = error, 128 + error.signal if error.signal else FAILURE
        except Exception as error:
            told = in_a_sentence(error, begun(settings))
            if told is None:
                raise
            failure = told
        finally:
            end_readers()
    alike = isinstance(failure, (ConfigError, TrainingStoppedError, UsageError))
    # Where another process has failed and its own message says why, this one is empty.
    if str(failure) and (speaks or not alike):
        report(failure)
    return code


def stop(number: int, _: object) -> None:
    """Stop between two steps; at the second signal, at once."""
    for each in ENDING:
        signal.signal(each, signal.SIG_DFL)
    raise KeyboardInterrupt(number)


def begun(settings: TrainingConfig | None) -> bool:
    """Whether there is a checkpoint to go on from."""
    return settings is not None and has_checkpoint(Path(settings.output_dir))


def in_a_sentence(error: Exception, begun: bool) -> Exception | None:
    """An error as users read it; `None` for one that is not expected, of which they need the traceback."""
    if is_sentence(error):
        full = isinstance(error, VideoError) and errno_of(error) in FULL
        return VideoError(f"{str(error).removesuffix('.')}, and go on with --resume.") if full and begun else error
    if is_out_of_memory(error):
        told: Exception = MemoryError("Out of memory; lower --batch-size or --size, or set --gradient-checkpointing.")
    elif isinstance(error, RuntimeError) and lost_connection(error):
        told = OtherProcessError(LOST)
    elif isinstance(error, (OSError, SafetensorError)):
        reason, advice = " ".join(str(error).split()), advice_for(error, "try again")
        told = OSError(f"Cannot write or read a file of the run ({reason}); its checkpoints are kept: {advice}.")
    else:
        return None
    told.__cause__ = error
    return told


def end_readers() -> None:
    """Processes that read clips ignore the SIGTERM by which Python stops them at its end; it would wait forever."""
    readers = multiprocessing.active_children()
    if readers and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch would take their end for an error.
    for process in readers:
        process.kill()
        process.join()
