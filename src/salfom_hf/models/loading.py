"""Models loaded without chatter, and why one cannot be: one sentence for each reason."""

import os
import pickle
import re
import struct
import traceback
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import LoadError, advice_for, causes, described, errno_of, is_out_of_memory, is_sentence, reason_of
from .names import KNOWN, resolve


@contextmanager
def quiet() -> Iterator[None]:
    """Let transformers write no warnings and show no progress bars inside."""
    from transformers import logging

    from .checked import no_progress_bars

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_progress_bars():
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def loading(name: str | os.PathLike) -> Iterator[None]:
    """Load a SalFoM model, of this name, inside, without chatter; what goes wrong is a `LoadError`."""
    try:
        with quiet():
            check_type(name)
            yield
    except LoadError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise LoadError(load_failure(name, error)) from error


def check_type(name: str | os.PathLike) -> None:
    """Refuse what is no SalFoM model: transformers would load any other one as one with random weights."""
    from transformers import PretrainedConfig

    folder = resolve(name)
    config, _ = PretrainedConfig.get_config_dict(folder)
    if not config or not isinstance(config, dict):
        there = os.path.isfile(os.path.join(folder, "config.json"))
        what = "its config.json is empty or no configuration" if there else "there is no config.json in it"
        raise LoadError(f"Cannot load the model '{name}': {what}; name a folder with a model.")
    kind = config.get("model_type", "salfom")
    if kind != "salfom":
        raise LoadError(
            f"Cannot load the model '{name}': it is of the type {kind}, not salfom; name a SalFoM model, or train one "
            "with such an encoder by python -m salfom_hf.train."
        )


def load_failure(name: str | os.PathLike, error: Exception) -> str:
    """The sentence about an error of `from_pretrained`."""
    if is_sentence(error):  # Of a known name that has to be installed.
        return str(error)
    return f"Cannot load the model '{name}': {_reason(str(name), error)}."


def _reason(name: str, error: Exception) -> str:
    from huggingface_hub import constants, errors
    from safetensors import SafetensorError

    chain = list(causes(error))
    text = " ".join(str(error).split())

    def find(*kinds: type) -> BaseException | None:
        return next((cause for cause in chain if isinstance(cause, kinds)), None)

    responses = (getattr(cause, "response", None) for cause in chain)
    status = next((response.status_code for response in responses if response is not None), None)
    if os.path.isfile(name):
        return "it is a file; name the folder that it is in, or convert a .pth file by `salfom convert` first"
    none = f"it is none of {', '.join(KNOWN)}, no folder"
    check = "check the name (one of those, a local folder with a model, or ORG/NAME on the Hub)"
    if find(errors.HFValidationError):
        return f"{none}, and no name of a model on the Hub; {check}"
    if find(errors.GatedRepoError):
        return (
            f"access to it on the Hub is restricted ({status}); ask for access at {constants.ENDPOINT}/{name} and run "
            "`hf auth login`"
        )
    if find(errors.RepositoryNotFoundError):
        return (
            f"{none}, and no model on the Hub that you may read ({status}); {check} or, if it is private, run "
            "`hf auth login` and ask for access"
        )
    if status in (401, 403):
        return f"the Hub refuses access to it ({status}); run `hf auth login` and ask its owners for access"
    if status is not None:
        return f"the Hub answered with the error {status}; try again later"
    if find(errors.OfflineModeIsEnabled) or (constants.HF_HUB_OFFLINE and find(errors.LocalEntryNotFoundError)):
        return (
            f"{none}, no copy of it is in the Hub's cache, and HF_HUB_OFFLINE is set; {check}, or unset HF_HUB_OFFLINE"
        )
    if find(errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) or any(
        type(cause).__module__.startswith("httpx") for cause in chain
    ):
        return f"{none}, and the Hub cannot be reached ({described(chain[-1])}); {check} and the network"
    if "trust_remote_code" in text:
        return "it comes with code of its own, which is not run here; name one that this package loads by itself"
    if "is not a valid JSON file" in text:
        file = os.path.basename(text.partition("' is not")[0])
        return f"its {file} is not a valid JSON file ({described(chain[-1])}); download it again"
    if find(SafetensorError, pickle.UnpicklingError, EOFError, struct.error, zipfile.BadZipFile):
        return "its weights are damaged or incomplete; download it again"
    if "no file named" in text or "not appear to have a file named" in text:
        return "its weights are missing; download it again"
    if missing := find(FileNotFoundError):
        return f"a file of it is missing ({described(missing)}); download it again"
    if "processor for" in text:
        return "its video_preprocessor_config.json is missing; download it again"
    if "does not recognize this architecture" in text or "Unrecognized model" in text:
        kind = re.search(r"(?:identifier: |type )`?([\w-]+)", text)
        what = f"models of the type '{kind[1]}'" if kind else "it"
        return f"this version of transformers does not know {what}; update transformers, or check its config.json"
    if isinstance(error, ImportError):
        return f"it needs a package that is not installed ({described(error)})"
    if isinstance(error, OSError) and errno_of(error):
        return f"{reason_of(error)}; {advice_for(error, 'check the path')}"
    if find(errors.StrictDataclassError):
        field = re.match(r"Validation error for field '(\w+)'", text)
        wrong = f"{field[1]} has a value of a wrong type" if field and find(TypeError) else described(chain[-1])
        return f"its config.json cannot be used ({wrong.rstrip('.')}); correct it"
    of_processor = any("video_process" in frame.filename for frame in traceback.extract_tb(error.__traceback__))
    files = "video_preprocessor_config.json" if of_processor else "config.json and its weights"
    if isinstance(error, (AttributeError, LookupError, RecursionError, TypeError)):  # Their words are for programmers.
        return f"it cannot be used as it is; check its {files}, or download it again"
    return f"{described(error).rstrip('.')}; check its {files}"
