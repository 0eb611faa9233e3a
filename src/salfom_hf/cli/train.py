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

from ..errors import FULL, VideoError, advice_for, causes, errno_of, is_out_of_memory, is_sentence
from ..files import ENDING, on_signals
from ..inference.cpu import keep_freed_memory
from ..inference.processes import LOST, OtherProcessError, lost_connection
from ..training import config
from ..training.checkpoints import CHECKPOINTS, checkpoints_of
from ..training.config import ConfigError, TrainingConfig
from ..training.log import LOG, PICTURES, TRACKERS
from ..training.loop import TrainingStoppedError
from ..training.run import train
from .common import FAILURE, CommandParser, UsageError, report

# What a run leaves next to its model.
LEFT = {
    CHECKPOINTS: "to go on from with --resume",
    PICTURES: "of validation clips",
    TRACKERS: "for tensorboard --logdir",
    LOG: "all numbers",
}


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
    made.add_argument("--path", action="store_true", help=path_help)
    group = made.add_argument_group()
    for name, value in dataclasses.asdict(TrainingConfig()).items():
        kind, (text, *limits) = config.TYPES[name], config.ABOUT[name]
        if name in config.GROUPS:
            group = made.add_argument_group(config.GROUPS[name])
        text += "".join(f"; {words.removeprefix('is ')}" for words, _ in limits if words.startswith("is "))
        default = " ".join(map(str, value)) if isinstance(value, list) else "no" if value is False else str(value)
        text += f" (default: {'none' if value in ('', [], {}) else default})"
        if kind is bool:
            options: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        elif get_origin(kind) is list:
            options = {"nargs": "*", "metavar": kind.__args__[0].__name__.upper()}
        else:
            options = {"metavar": "JSON" if get_origin(kind) is dict else kind.__name__.upper()}
        group.add_argument(flag(name), help=text.replace("%", "%%"), **options)
    return made


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def parse(arguments: list[str] | None = None) -> TrainingConfig:
    """
    The configuration that a command line asks for: the preset's or file's settings, overridden by the options.

    Raises:
        ConfigError: a setting is unknown or impossible.
    """
    given, unknown = parser().parse_known_args(arguments)
    options = {key: value for key, value in vars(given).items() if key in config.TYPES}
    if "path" in given:  # Of a file that ships, for copying it or for `accelerate launch --config_file`.
        for folder in (config.PRESETS, config.LAUNCH_CONFIGS):
            if (path := folder / f"{given.preset}.yaml").is_file():
                print(path)
                sys.exit(0)
        parser().error(f"there is no preset and no accelerate configuration {given.preset}")
    if unknown:
        close = config.suggestion(unknown[0], map(flag, config.TYPES))
        raise ConfigError(f"There is no option '{unknown[0]}'{close} See --help.")
    for key, value in options.items():
        if get_origin(config.TYPES[key]) is dict:
            try:
                options[key] = json.loads(value)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{key} must be JSON such as '{{\"key\": 1}}', not {value!r}.") from error
    made = TrainingConfig(**config.merged(config.read_settings(given.preset), options))
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
        except (Exception, KeyboardInterrupt) as error:
            # Whether there is a checkpoint to go on from.
            begun = settings is not None and bool(checkpoints_of(Path(settings.output_dir)))
            failure = in_a_sentence(error, begun)
            if failure is None:
                raise
            if isinstance(error, KeyboardInterrupt):
                code = 128 + error.args[0]
            elif isinstance(error, TrainingStoppedError) and error.signal:
                code = 128 + error.signal
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


def in_a_sentence(error: BaseException, begun: bool) -> Exception | None:
    """An error as users read it; `None` for one that is not expected, of which they need the traceback."""
    if isinstance(error, KeyboardInterrupt):
        saved = "between two steps, so nothing is lost; go on with --resume" if begun else "before training began"
        return UsageError(f"Stopped {saved}.")
    full = errno_of(error) in FULL
    if isinstance(error, Exception) and is_sentence(error):
        resumes = full and begun and isinstance(error, VideoError)
        return VideoError(f"{str(error).removesuffix('.')}, and go on with --resume.") if resumes else error
    if is_out_of_memory(error):
        told: Exception = MemoryError("Out of memory; lower --batch-size or --size, or set --gradient-checkpointing.")
    elif isinstance(error, RuntimeError) and lost_connection(error):
        told = OtherProcessError(LOST)
    elif full or isinstance(error, (OSError, SafetensorError)):
        # A library may have put its own error around that of the disk, as datasets does when it fills its cache.
        reason = " ".join(str(next((cause for cause in causes(error) if isinstance(cause, OSError)), error)).split())
        advice = advice_for(error, "try again")
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
