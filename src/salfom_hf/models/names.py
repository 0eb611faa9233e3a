"""Names of models: what `from_pretrained("salfom")` and `--model salfom` mean."""

import json
import os
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.constants import HF_HOME

from ..errors import LoadError

Class = TypeVar("Class")
Name = TypeVar("Name")

SHIPPED = Path(__file__).parents[1] / "weights"
EXAMPLE = Path(__file__).parents[1] / "assets" / "example.mp4"


def installed(name: str) -> Path:
    """Where `salfom convert … --install` puts a model: a folder in the Hugging Face cache (`HF_HOME`)."""
    return Path(HF_HOME) / "salfom" / name


# Name → folder of the model.
KNOWN = {"salfom": SHIPPED / "salfom", "salfom-large": installed("salfom-large")}


class NotInstalledError(LoadError, FileNotFoundError):
    """A model of a known name is not on this machine; the message says how it gets there."""


def holds_model(folder: str | os.PathLike) -> bool:
    """Whether a folder has a `config.json` of a SalFoM model or of an encoder for one."""
    path = Path(folder, "config.json")
    config = None
    with suppress(OSError, ValueError):
        config = path.is_file() and json.loads(path.read_text(encoding="utf-8"))
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind in (None, "salfom"):
        return kind is not None
    from .encoders import ENCODERS

    return kind in ENCODERS


def resolve(name: Name) -> Name | str:
    """
    Turn a model name into something that transformers loads.

    A local folder of that name wins if it holds a SalFoM model or an encoder, then the names in `KNOWN`; anything else
    is left to the Hub, and `None`, of weights that are given otherwise, as it is.

    Raises:
        NotInstalledError: `salfom-large` has not been installed on this machine.
    """
    if not isinstance(name, (str, os.PathLike)) or str(name) not in KNOWN or holds_model(name):
        return name
    folder = KNOWN[str(name)]
    if not holds_model(folder):
        raise NotInstalledError(
            f"'{name}' is the paper's model, whose weights its authors publish and this package does not contain. "
            "Download their SalFoM checkpoint and run `salfom convert CHECKPOINT --install` once."
        )
    return str(folder)


def local(*names: str | os.PathLike) -> list[Path]:
    """Where the models of these names are, or would be if they are on this machine."""
    found = []
    for name in names:
        with suppress(NotInstalledError):
            found.append(Path(resolve(name)))
    return found


def takes_names(kind: type[Class]) -> type[Class]:
    """Let `from_pretrained` of a class take the package's own names; code that goes with a model leaves this out."""
    load = kind.from_pretrained.__func__  # type: ignore[attr-defined]

    @wraps(load)
    def from_pretrained(
        cls: type, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Any:
        return load(cls, resolve(pretrained_model_name_or_path), *args, **kwargs)

    kind.from_pretrained = classmethod(from_pretrained)  # type: ignore[attr-defined]
    return kind
