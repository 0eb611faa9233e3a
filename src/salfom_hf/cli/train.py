"""The command line of `salfom_hf.train`: a preset or a file, and every setting as an option."""

import argparse
import dataclasses
import json
from typing import get_origin

from ..training.config import (
    HELP,
    LAUNCH_CONFIGS,
    PRESETS,
    TYPES,
    ConfigError,
    TrainingConfig,
    merged,
    preset_names,
    read_settings,
    suggestion,
)
from .common import CommandParser


class ShowPath(argparse.Action):
    """`PRESET --path`: where a file that ships is, for copying it or for `accelerate launch --config_file`."""

    def __init__(self, option_strings, dest, **kwargs):
        super().__init__(option_strings, dest, nargs=0, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None):
        for folder in (PRESETS, LAUNCH_CONFIGS):
            path = folder / f"{namespace.preset}.yaml"
            if path.is_file():
                print(path)
                parser.exit()
        parser.error(f"there is no preset and no accelerate configuration {namespace.preset}")


def parser() -> argparse.ArgumentParser:
    made = CommandParser(
        prog="accelerate launch -m salfom_hf.train",
        description="Train or fine-tune SalFoM. Presets: " + ", ".join(preset_names()) + ". In parentheses: values of "
        "settings that neither the preset nor an option names.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    made.add_argument("preset", help="a preset, or a YAML file with any of the settings below")
    made.add_argument(
        "--path", action=ShowPath, help="print the path of the preset, or of the accelerate configuration, named so"
    )
    defaults = dataclasses.asdict(TrainingConfig())
    for name, kind in TYPES.items():
        flag, text = f"--{name.replace('_', '-')}", HELP[name].replace("%", "%%")
        value = defaults[name]
        if value not in ("", [], {}) and kind is not bool:
            text += f" ({' '.join(map(str, value)) if isinstance(value, list) else value})"
        if kind is bool:
            made.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        elif get_origin(kind) is list:
            made.add_argument(flag, nargs="*", metavar=kind.__args__[0].__name__.upper(), help=text)
        elif get_origin(kind) is dict:
            made.add_argument(flag, metavar="JSON", help=text)
        else:
            made.add_argument(flag, metavar=kind.__name__.upper(), help=text)
    return made


def parse(arguments: list[str] | None = None) -> TrainingConfig:
    """
    The configuration that a command line asks for: the preset's or file's settings, overridden by the options.

    Raises:
        ConfigError: a setting is unknown or impossible.
    """
    given, unknown = parser().parse_known_args(arguments)
    if unknown:
        flags = [f"--{name.replace('_', '-')}" for name in TYPES]
        raise ConfigError(f"There is no option '{unknown[0]}'{suggestion(unknown[0], flags)} See --help.")
    overrides = vars(given)
    overrides.pop("debug", None)
    settings = read_settings(overrides.pop("preset"))
    for key, value in overrides.items():
        if get_origin(TYPES[key]) is dict:
            try:
                overrides[key] = json.loads(value)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{key} must be JSON such as '{{\"key\": 1}}', not {value!r}.") from error
    config = TrainingConfig(**merged(settings, overrides))
    config.check()
    return config
