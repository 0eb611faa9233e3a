"""Models that are loaded with exactly their weights or not at all, and that pickle."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME as WEIGHTS_INDEX
from transformers.utils import SAFE_WEIGHTS_NAME as WEIGHTS
from transformers.utils import cached_file, logging

from ..errors import LoadError

# Arguments of `from_pretrained` that say where a model's files are.
WHERE = {"cache_dir", "revision", "subfolder", "token", "local_files_only"}
# What a file of weights may have against a model, and where transformers reports it.
FAULTS = {
    "it lacks": "missing_keys",
    "the model has no use for its": "unexpected_keys",
    "of another shape are its": "mismatched_keys",
}


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Have transformers, and so the Hub, show none inside; what the user has set holds again afterwards."""
    shown, of_hub = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        if shown and not of_hub:
            disable_progress_bars()


def weight_files(name: str | os.PathLike, **options: Any) -> tuple[list[str], dict[str, str]]:
    """
    The safetensors files of a model, none if it has others, and which of several has which weight.

    Raises:
        LoadError: one is missing or damaged.
    """

    def found(file: str) -> str | None:
        return cached_file(name, file, _raise_exceptions_for_missing_entries=False, **options)

    def unusable(file: str, how: str) -> LoadError:
        return LoadError(f"Cannot load the model '{name}': its {file} is {how}; download it again.")

    files, places, paths = [WEIGHTS], {}, []
    if not found(WEIGHTS):
        if not (index := found(WEIGHTS_INDEX)):
            return [], {}
        try:
            places = dict(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"])
            files = sorted(set(places.values()))
            if not files or any(os.path.basename(file) != file for file in files):
                raise ValueError("These are no names of files next to it.")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise unusable(WEIGHTS_INDEX, "damaged") from error
    for file in files:
        if not (path := found(file)):
            raise unusable(file, "missing")
        try:
            with safe_open(path, "pt"):
                paths.append(path)
        except (OSError, SafetensorError) as error:
            raise unusable(file, "damaged or incomplete") from error
    return paths, places


class CheckedModel(PreTrainedModel):
    """
    A model that is loaded only with exactly its weights, all of them finite, and that pickles even after transformers
    has recorded hidden states of it, and gives them once loaded.
    """

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """
        As of transformers; with `output_loading_info`, weights that do not fit are in the report and no error.

        Raises:
            LoadError: weights are missing, unexpected, or infinite or not a number.
        """
        name, tolerant = pretrained_model_name_or_path, output_loading_info or kwargs.get("ignore_mismatched_sizes")
        options = {key: kwargs[key] for key in WHERE & kwargs.keys()}
        files, places = weight_files(name, **options) if name else ([], {})
        of = WEIGHTS_INDEX if places else WEIGHTS

        def unfit(reason: str) -> LoadError:
            return LoadError(
                f"Cannot load the model '{name}': its {of} does not fit its config.json ({reason}); take both, whole, "
                "from the same model."
            )

        if files and not tolerant:
            # Transformers makes what a file lacks, however much it is: of each weight there must be a byte at least.
            with torch.device("meta"):
                network = cls(cls.config_class.from_pretrained(name, **options))  # type: ignore[union-attr]
            if network.num_parameters() > (size := sum(map(os.path.getsize, files))):
                raise unfit(f"there are only {size:,} bytes of weights")
        load: Callable = super().from_pretrained
        with no_progress_bars():  # That of a download has been shown; to read the file takes a moment.
            kwargs = {"ignore_mismatched_sizes": True, **kwargs, "output_loading_info": True}
            model, report = load(name, *args, **kwargs)
        if output_loading_info:
            return model, report
        for words, key in FAULTS.items():
            names = sorted(each if isinstance(each, str) else each[0] for each in report[key])  # Of some, also shapes.
            if names and not (tolerant and key == "mismatched_keys"):
                more = f" and {len(names) - 2:,} more" if len(names) > 2 else ""
                raise unfit(f"{words} {', '.join(names[:2])}{more}")
        for key, value in model.state_dict().items():
            held = value.is_floating_point() and value.numel() and not value.is_meta
            if held and not torch.stack(value.aminmax()).isfinite().all():
                raise LoadError(
                    f"Cannot load the model '{name}': in its {places.get(key, of)}, {key} holds values that are "
                    f"infinite or not a number (as {value.dtype}); download it again, or load it in float32."
                )
        return model

    def __getstate__(self) -> dict:
        # What records them does not pickle; it is installed again when it is next needed.
        for module in self.modules():
            module.__dict__.pop("_output_capturing_hooks_installed", None)
            for key, hook in list(module._forward_hooks.items()):
                if getattr(hook, "__module__", None) == "transformers.utils.output_capturing":
                    del module._forward_hooks[key]
        return super().__getstate__()

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        # transformers notes this when it builds a model, which may not have happened in this process; other versions
        # may not have this table.
        with suppress(ImportError):
            from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

            for module in self.modules():
                if isinstance(module, PreTrainedModel):
                    _CAN_RECORD_REGISTRY[module] = module._can_record_outputs
