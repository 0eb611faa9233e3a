"""What a training run is: one typed dataclass, filled from a preset or a YAML file and from the command line."""
# ruff: noqa: RUF009 (What `values` gives is a field.)

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_origin

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..data.augmentation import Augmentation
from ..errors import check_file, reason_of
from ..models.configuration_salfom import SalFoMConfig

PRESETS = Path(__file__).parent / "presets"
LAUNCH_CONFIGS = Path(__file__).parent / "accelerate"
YAML = (".yaml", ".yml")
# Moving pictures made of stills: a dataset to train on, by the name that stands before the split.
MOTION = "motion"
# The first setting of each group in --help, which has those that most runs set first.
GROUPS = {
    "data_dir": "what most runs set",
    "weights": "clips",
    "gradient_accumulation_steps": "optimisation",
    "evaluate_every": "checkpoints and log",
    "model_config": "experiments and ablations",
}
LOSS_TERMS = ("kl_weight", "cc_weight", "sim_weight", "nss_weight")
# Settings that take the place of others.
EXCLUDED = {
    "encoder": ("model",),
    "size": ("still_size",),
    "model": ("encoder", "model_config", "keep_aspect_ratio", "still_size"),
}


class ConfigError(ValueError):
    """A setting is unknown or has no sensible value; the message names it and says what to do."""


def demand(fine: Any, message: str) -> None:
    if not fine:
        raise ConfigError(message)


def values(*default: str) -> Any:
    """Of a field that is a list."""
    return field(default_factory=lambda: list(default))


Limit = tuple[str, Callable[[Any], bool]]  # what holds of a setting, in words and as a test


def one_of(*choices: str) -> Limit:
    return f"is one of {', '.join(filter(None, choices))}", lambda value: value in choices


def is_repository(name: str) -> bool:
    with suppress(HFValidationError):
        validate_repo_id(name or "none")
        return True
    return False


ABOVE_0: Limit = "must be above 0", lambda value: value > 0
FROM_0: Limit = "must be at least 0", lambda value: value >= 0
FINITE: Limit = "must be at least 0 and finite", lambda value: 0 <= value < math.inf
SHARE: Limit = "must be at least 0 and below 1", lambda value: 0 <= value < 1
FACTOR: Limit = "must be above 0 and at most 1", lambda value: 0 < value <= 1
SEED: Limit = "must be at least 0 and below 2**32", lambda value: 0 <= value < 2**32
SIDES: Limit = "needs a height and a width", lambda sides: len(sides) in (0, 2) and all(side > 0 for side in sides)
REPOSITORY: Limit = "must be a repository such as org/name", is_repository
METRICS = one_of("cc", "sim", "nss", "auc_judd", "kldiv")
DTYPES = one_of("float32", "float16", "bfloat16")


@dataclass(kw_only=True)
class TrainingConfig:
    """All settings of a run. Every field is a key of the YAML file and an option of the command line."""

    data_dir: Annotated[list[str], "folder of the data, or DATASET=FOLDER for each"] = values()
    train: Annotated[list[str], "DATASET:SPLIT, one or more; motion:SPLIT is made of stills:SPLIT"] = values()
    validation: Annotated[list[str], "DATASET:SPLIT to choose checkpoints on; none: those of train"] = values()
    hold_out: Annotated[float, "share of a dataset in train and in validation that is not trained on", SHARE] = 0.1
    model: Annotated[str, "SalFoM model to go on from: a name, a folder, or a Hub name"] = ""
    encoder: Annotated[str, "encoder under a fresh decoder: a folder, a Hub name, or efficientnet-lite0"] = ""
    output_dir: Annotated[str, "folder of the run"] = "run"
    resume: Annotated[bool, "go on from the last checkpoint of the folder"] = False
    epochs: Annotated[int, "passes over the videos; of several datasets, over the first", ABOVE_0] = 10
    max_steps: Annotated[int, "end after this many optimizer steps; 0: after the epochs", FROM_0] = 0
    batch_size: Annotated[int, "clips per step and process", ABOVE_0] = 1
    size: Annotated[list[int], "height and width of all clips in pixels; none: as in inference", SIDES] = values()
    learning_rate: Annotated[float, "of the decoder, at its highest", ABOVE_0] = 1e-4
    encoder_learning_rate: Annotated[float, "of the encoder's last layer, at its highest", FROM_0] = 1e-5
    mixed_precision: Annotated[str, "none: as accelerate is configured", one_of("", "no", "bf16", "fp16")] = ""
    num_workers: Annotated[int, "processes that read clips, for each training process", FROM_0] = 2
    seed: Annotated[int, "of everything that is drawn", SEED] = 0
    patience: Annotated[int, "validations without improvement until the run ends; 0: no end", FROM_0] = 0
    metric: Annotated[str, "that the best checkpoint has", METRICS] = "cc"
    push_to_hub: Annotated[str, "repository, such as org/name, to send the result to", REPOSITORY] = ""
    private: Annotated[bool, "make that repository private"] = False

    weights: Annotated[list[float], "share of each dataset of train in every step; none: by their sizes"] = values()
    clips_per_video: Annotated[int, "random clips of each video and epoch", ABOVE_0] = 1
    augmentation: Annotated[dict[str, Any], "fields of salfom_hf.data.Augmentation"] = field(default_factory=dict)
    keep_aspect_ratio: Annotated[bool, "a fresh decoder's clips have the shape of their video, without size"] = False
    still_size: Annotated[list[int], "size of a fresh decoder for stills; none: as for videos", SIDES] = values()
    train_size: Annotated[list[int], "size of training clips alone; none: as in inference", SIDES] = values()
    train_still_size: Annotated[list[int], "size of stills in training; none: as other training clips", SIDES] = (
        values()
    )
    validation_spacing: Annotated[int, "frames between the validation maps of a video", ABOVE_0] = 16

    gradient_accumulation_steps: Annotated[int, "batches per optimizer step", ABOVE_0] = 1
    schedule: Annotated[str, "of the rates after the warm-up", one_of("constant", "cosine")] = "constant"
    warmup_steps: Annotated[int, "optimizer steps in which the rates grow from 0", FROM_0] = 0
    weight_decay: Annotated[float, "of AdamW; biases and norms have none", FROM_0] = 0.0
    max_grad_norm: Annotated[float, "gradients are clipped to this norm; 0: never", FROM_0] = 0.0
    ema_decay: Annotated[float, "of the average of the weights that is validated and saved; 0: none", SHARE] = 0.0
    average_with_start: Annotated[float, "share of the weights at the start in those validated and saved", SHARE] = 0.0
    frozen_encoder_epochs: Annotated[int, "epochs in which the encoder rests, at the beginning", FROM_0] = 0
    gradient_checkpointing: Annotated[bool, "compute activations again in the backward pass: less memory"] = False
    compile: Annotated[bool, "torch.compile the model"] = False
    lora_rank: Annotated[int, "train the encoder by LoRA of this rank (needs peft); 0: train its weights", FROM_0] = 0

    evaluate_every: Annotated[int, "epochs between validations", ABOVE_0] = 1
    save_every: Annotated[int, "optimizer steps between checkpoints; there is one at each validation, too", FROM_0] = (
        500
    )
    keep_checkpoints: Annotated[int, "how many checkpoints to keep", ABOVE_0] = 2
    log_every: Annotated[int, "optimizer steps between log lines", ABOVE_0] = 10
    trackers: Annotated[list[str], "of accelerate: tensorboard, wandb, trackio, …"] = values("tensorboard")
    pictures: Annotated[int, "validation clips drawn at every validation", FROM_0] = 4
    save_dtype: Annotated[str, "of the weights in the model's file; they are loaded in float32", DTYPES] = "float32"

    model_config: Annotated[dict[str, Any], "fields of SalFoMConfig for a fresh decoder"] = field(default_factory=dict)
    encoder_from_stills: Annotated[bool, "only stills train the encoder; clips train what is above it"] = False
    feature_dropout: Annotated[float, "share of feature channels left out at random in training", SHARE] = 0.0
    layer_decay: Annotated[float, "factor of the rate from one encoder layer to the one below", FACTOR] = 1.0
    kl_weight: Annotated[float, "weight of KL(gt ‖ pred) in the loss", FINITE] = 1.0
    cc_weight: Annotated[float, "weight of −CC in the loss", FINITE] = 1.0
    sim_weight: Annotated[float, "weight of −SIM in the loss", FINITE] = 0.0
    nss_weight: Annotated[float, "weight of −NSS in the loss", FINITE] = 0.0

    def check(self) -> None:
        """Raise a [`ConfigError`] where a value is impossible, or two contradict each other."""
        demand(bool(self.model) != bool(self.encoder), "Name either a model to go on from or an encoder, not both.")
        for name in EXCLUDED["model"][1:]:
            fine = not (self.model and getattr(self, name))
            demand(fine, f"{name} is for a fresh decoder; leave it out with model.")
        demand(not (self.size and self.still_size), "size is for stills, too; leave it or still_size out.")
        for name, cls in (("model_config", SalFoMConfig), ("augmentation", Augmentation)):
            known = [key for key in cls.__annotations__ if key != "encoder_config"]
            for key in getattr(self, name):
                demand(key in known, f"{name} has the unknown key '{key}'{suggestion(key, known)}")
        self.check_data()
        for name, (_, *limits) in ABOUT.items():
            for words, holds in limits:
                demand(holds(getattr(self, name)), f"{name} {words}, not {getattr(self, name)!r}.")
        demand(any(self.loss_weights.values()), f"The loss needs a term: {', '.join(LOSS_TERMS)} are all 0.")
        demand(
            not (self.lora_rank and self.average_with_start),
            "lora_rank adds to the weights that training begins with; leave average_with_start out.",
        )
        try:
            Augmentation(**self.augmentation)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"augmentation: {error}") from error

    def check_data(self) -> None:
        demand(self.train, "Name at least one DATASET:SPLIT to train on.")
        demand(self.data_dir, "Say where the data is: --data-dir FOLDER.")
        demand(
            len(self.weights) in (0, len(self.train)) and all(0 < weight < math.inf for weight in self.weights),
            f"weights needs one positive number for each of the {len(self.train)} datasets in train.",
        )
        for source in self.train + self.validation:
            dataset, _, split = source.partition(":")
            demand(dataset and split, f"'{source}' is no dataset; write DATASET:SPLIT.")
            demand(
                not any(term.strip().startswith("test") for term in split.split("+")),
                f"'{source}' is a test split: neither train nor choose checkpoints on it; salfom evaluate scores it.",
            )
            made_up = dataset == MOTION and source in self.validation
            demand(not made_up, "Motion clips are made up, and no measure of a model; name another validation split.")
        demand(self.validated, "Motion clips need a validation split; name one.")
        demand(
            self.hold_out > 0 or not set(self.validated) & set(self.train),
            "There is nothing to choose checkpoints on; name a validation split or hold_out a share of train.",
        )
        demand(
            not self.encoder_from_stills or any(source.startswith("stills:") for source in self.train),
            "encoder_from_stills needs stills: name stills:SPLIT in train, or leave it out.",
        )

    @property
    def validated(self) -> list[str]:
        """The sources to choose checkpoints on; of one that is trained on too, a share is held out."""
        return self.validation or [source for source in self.train if not source.startswith(f"{MOTION}:")]

    @property
    def loss_weights(self) -> dict[str, float]:
        """By the names that [`saliency_loss`] has for them."""
        return {name: getattr(self, name) for name in LOSS_TERMS}

    def save(self, path: Path) -> None:
        """Write all settings as YAML; the file is itself a configuration to run."""
        path.write_text(yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True))


TYPES = typing.get_type_hints(TrainingConfig)
# Of each: its help, and its limits.
ABOUT = {name: hint.__metadata__ for name, hint in typing.get_type_hints(TrainingConfig, include_extras=True).items()}


def preset_names() -> list[str]:
    """Ablations last."""
    return sorted((path.stem for path in PRESETS.glob("*.yaml")), key=lambda name: (name.startswith("ablation"), name))


def suggestion(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "."


def convert(name: str, value: Any) -> Any:
    """A value as YAML or JSON gives it, in the type of its field (YAML takes 1e-5 for a text); null: the default."""
    wanted = TYPES[name]
    if value is None:
        return getattr(TrainingConfig(), name)
    try:
        if get_origin(wanted) is list:
            (item,) = wanted.__args__
            return [item(part) for part in (value if isinstance(value, list) else [value])]
        if get_origin(wanted) is dict:
            return dict(value)
        if (wanted is bool and not isinstance(value, bool)) or (wanted is int and float(value) % 1):
            raise ValueError
        return wanted(float(value)) if wanted is int else wanted(value)
    except (TypeError, ValueError, OverflowError) as error:
        kind = wanted if get_origin(wanted) else wanted.__name__
        raise ConfigError(f"{name} must be of type {kind}, not {value!r}.") from error


def read_settings(name: str, over: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a preset or a YAML file, which may name another one as its `base`; `over`: files based on it."""
    path = Path(name)
    if path.suffix not in YAML:
        path, known = PRESETS / f"{name}.yaml", preset_names()
        close = suggestion(name, known)
        demand(
            path.is_file(), f"There is no preset '{name}'{close} Presets: {', '.join(known)}; or name a .yaml file."
        )
    demand(path.resolve() not in over, f"{path} builds on itself; change the base of it or of a file between.")
    try:
        check_file(path)
        own = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the configuration {path} ({reason_of(error)}); check the path.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    demand(isinstance(own, dict), f"{path} must hold `key: value` lines.")
    base, settings = str(own.pop("base", None) or ""), {}
    if base:
        place = str(path.parent / base) if base.endswith(YAML) else base
        settings = read_settings(place, (*over, path.resolve()))
    for key in own:
        demand(key in TYPES, f"{path} has the unknown key '{key}'{suggestion(str(key), TYPES)}")
    return merged(settings, own)


def merged(settings: dict[str, Any], further: dict[str, Any]) -> dict[str, Any]:
    """Settings and further ones over them, which of a dictionary replace single entries, and what they exclude."""
    further = {key: convert(key, value) for key, value in further.items()}
    gone = {other for key, others in EXCLUDED.items() if further.get(key) for other in others}
    result = {key: value for key, value in settings.items() if key not in gone}
    for key, value in further.items():
        result[key] = {**result.get(key, {}), **value} if isinstance(value, dict) else value
    return result
