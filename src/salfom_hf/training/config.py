"""What a training run is: one typed dataclass, filled from a preset or a YAML file and from the command line."""

import dataclasses
import difflib
import math
import typing
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
SCHEDULES = ("constant", "cosine")
DTYPES = ("float32", "float16", "bfloat16")
METRICS = ("cc", "sim", "nss", "auc_judd", "kldiv")
# Moving pictures made of stills: a dataset to train on, by the name that stands before the split.
MOTION = "motion"
LOSS_TERMS = ("kl_weight", "cc_weight", "sim_weight", "nss_weight")


class ConfigError(ValueError):
    """A setting is unknown or has no sensible value; the message names it and says what to do."""


@dataclass(kw_only=True)
class TrainingConfig:
    """All settings of a run. Every field is a key of the YAML file and an option of the command line."""

    # The model
    model: Annotated[str, "SalFoM model to go on from: a name, a folder, or a Hub name"] = ""
    encoder: Annotated[str, "encoder under a fresh decoder: a folder, a Hub name, or efficientnet-lite0"] = ""
    model_config: Annotated[dict[str, Any], "fields of SalFoMConfig for a fresh decoder"] = field(default_factory=dict)
    keep_aspect_ratio: Annotated[bool, "a fresh decoder's clips have the shape of their video, without size"] = False
    frozen_encoder_epochs: Annotated[int, "epochs in which the encoder rests, at the beginning"] = 0
    encoder_from_stills: Annotated[bool, "only stills train the encoder; clips train what is above it"] = False
    gradient_checkpointing: Annotated[bool, "compute activations anew in the backward pass: less memory"] = False
    compile: Annotated[bool, "torch.compile the model"] = False
    lora_rank: Annotated[int, "train the encoder by LoRA of this rank (needs peft); 0: train its weights"] = 0

    # The data
    train: Annotated[
        list[str], "DATASET:SPLIT, several for joint training; motion:SPLIT is clips made of stills:SPLIT"
    ] = field(default_factory=list)
    weights: Annotated[list[float], "share of each of them in every step; none: by their sizes"] = field(
        default_factory=list
    )
    validation: Annotated[
        list[str], "DATASET:SPLIT to choose checkpoints on; one that is also in train is divided; none: all of train"
    ] = field(default_factory=list)
    hold_out: Annotated[float, "share of a divided dataset's videos, or images, that is not trained on"] = 0.1
    data_dir: Annotated[list[str], "folder of the data, or DATASET=FOLDER for each"] = field(default_factory=list)
    size: Annotated[list[int], "height and width of all clips in pixels; none: as in inference"] = field(
        default_factory=list
    )
    still_size: Annotated[
        list[int], "a fresh decoder's size for stills in inference, where that is another than for videos"
    ] = field(default_factory=list)
    train_size: Annotated[
        list[int], "height and width of training clips alone; none: as in validation and inference"
    ] = field(default_factory=list)
    train_still_size: Annotated[list[int], "height and width of stills in training; none: as other training clips"] = (
        field(default_factory=list)
    )
    clips_per_video: Annotated[int, "random clips of each video and epoch"] = 1
    validation_spacing: Annotated[int, "frames between the validation maps of a video"] = 16
    augmentation: Annotated[dict[str, Any], "fields of salfom_hf.data.Augmentation"] = field(default_factory=dict)
    num_workers: Annotated[int, "processes that read clips, for each training process"] = 2

    # Optimisation
    epochs: Annotated[int, "passes over the videos; of several datasets, over the first"] = 10
    max_steps: Annotated[int, "end after this many optimizer steps; 0: after the epochs"] = 0
    batch_size: Annotated[int, "clips per step and process"] = 1
    gradient_accumulation_steps: Annotated[int, "batches per optimizer step"] = 1
    learning_rate: Annotated[float, "of the decoder, at its highest"] = 1e-4
    encoder_learning_rate: Annotated[float, "of the encoder's last layer, at its highest"] = 1e-5
    layer_decay: Annotated[float, "factor of the rate from one encoder layer to the one below"] = 1.0
    schedule: Annotated[str, f"of the rates after the warm-up: {' or '.join(SCHEDULES)}"] = "constant"
    warmup_steps: Annotated[int, "optimizer steps in which the rates grow from 0"] = 0
    betas: Annotated[list[float], "of AdamW"] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: Annotated[float, "of AdamW; biases and norms have none"] = 0.0
    max_grad_norm: Annotated[float, "gradients are clipped to this norm; 0: never"] = 0.0
    mixed_precision: Annotated[str, "no, bf16 or fp16; empty: as accelerate is configured"] = ""
    ema_decay: Annotated[float, "of the average of the weights that is validated and saved; 0: none"] = 0.0
    kl_weight: Annotated[float, "weight of KL(gt ‖ pred) in the loss"] = 1.0
    cc_weight: Annotated[float, "weight of −CC in the loss"] = 1.0
    sim_weight: Annotated[float, "weight of −SIM in the loss"] = 0.0
    nss_weight: Annotated[float, "weight of −NSS in the loss"] = 0.0
    teachers: Annotated[list[str], "models whose mean map is learned besides the gaze on stills: folders or names"] = (
        field(default_factory=list)
    )
    teacher_weight: Annotated[float, "share of the teachers in the density to learn"] = 0.5
    teacher_cutmix: Annotated[
        float, "share of the stills that get a rectangle of another one, and the teachers' map alone as density"
    ] = 0.0
    seed: Annotated[int, "of everything that is drawn"] = 0

    # Validation, checkpoints, what people see
    evaluate_every: Annotated[int, "epochs between validations"] = 1
    metric: Annotated[str, f"that the best checkpoint has: {', '.join(METRICS)}"] = "cc"
    patience: Annotated[int, "validations without improvement until the run ends; 0: no end"] = 0
    save_every: Annotated[int, "optimizer steps between checkpoints, besides one at each validation"] = 500
    keep_checkpoints: Annotated[int, "how many checkpoints to keep"] = 2
    log_every: Annotated[int, "optimizer steps between log lines"] = 10
    trackers: Annotated[list[str], "of accelerate: tensorboard, wandb, trackio, …"] = field(
        default_factory=lambda: ["tensorboard"]
    )
    pictures: Annotated[int, "validation clips drawn at every validation"] = 4

    # The result
    save_dtype: Annotated[str, "of the weights in the model's file; they are loaded in float32"] = "float32"
    output_dir: Annotated[str, "folder of the run"] = "run"
    resume: Annotated[bool, "go on from the last checkpoint of the folder"] = False
    push_to_hub: Annotated[str, "repository, such as org/name, to send the result to"] = ""
    private: Annotated[bool, "make that repository private"] = False

    def check(self) -> None:
        """
        Raises:
            ConfigError: a value is impossible, or two contradict each other.
        """

        def demand(fine: bool, message: str) -> None:
            if not fine:
                raise ConfigError(message)

        demand(bool(self.model) != bool(self.encoder), "Name either a model to go on from or an encoder, not both.")
        demand(not (self.model and self.model_config), "model_config is for a fresh decoder; leave it out with model.")
        demand(
            not (self.model and self.keep_aspect_ratio),
            "keep_aspect_ratio is for a fresh decoder; leave it out with model.",
        )
        demand(
            not (self.still_size and (self.model or self.size)),
            "still_size is for a fresh decoder, and size is for stills, too; leave still_size out with either.",
        )
        demand(bool(self.train), "Name at least one DATASET:SPLIT to train on.")
        demand(bool(self.data_dir), "Say where the data is: --data-dir FOLDER.")
        demand(
            len(self.weights) in (0, len(self.train)) and all(0 < weight < math.inf for weight in self.weights),
            f"weights needs one positive number for each of the {len(self.train)} datasets in train.",
        )
        for name, cls in (("model_config", SalFoMConfig), ("augmentation", Augmentation)):
            for key in getattr(self, name):
                demand(
                    key in cls.__annotations__ and key != "encoder_config",
                    f"{name} has the unknown key '{key}'{suggestion(key, cls.__annotations__)}",
                )
        for source in self.train + self.validation:
            dataset, colon, split = source.partition(":")
            demand(bool(dataset and colon and split), f"'{source}' is no dataset; write DATASET:SPLIT.")
            demand(
                not any(term.strip().startswith("test") for term in split.split("+")),
                f"'{source}' is a test split: neither train nor choose checkpoints on it; salfom evaluate scores it.",
            )
        demand(
            not any(source.startswith(f"{MOTION}:") for source in self.validation),
            "Motion clips are made up, and no measure of a model; name another validation split.",
        )
        demand(
            not self.encoder_from_stills or any(source.startswith("stills:") for source in self.train),
            "encoder_from_stills needs stills: name stills:SPLIT in train, or leave it out.",
        )
        for name in ("size", "still_size", "train_size", "train_still_size"):
            sides = getattr(self, name)
            demand(len(sides) in (0, 2) and all(side > 0 for side in sides), f"{name} needs a height and a width.")
        demand(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"betas needs two numbers of at least 0 and below 1, not {self.betas}.",
        )
        demand(self.schedule in SCHEDULES, f"schedule is one of {', '.join(SCHEDULES)}, not '{self.schedule}'.")
        demand(self.save_dtype in DTYPES, f"save_dtype is one of {', '.join(DTYPES)}, not '{self.save_dtype}'.")
        demand(self.metric in METRICS, f"metric is one of {', '.join(METRICS)}, not '{self.metric}'.")
        demand(
            self.mixed_precision in ("", "no", "bf16", "fp16"),
            f"mixed_precision is no, bf16 or fp16, not '{self.mixed_precision}'.",
        )
        positive = ("epochs", "batch_size", "gradient_accumulation_steps", "clips_per_video", "validation_spacing")
        for name in (*positive, "evaluate_every", "keep_checkpoints", "log_every", "learning_rate"):
            demand(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}.")
        not_negative = ("max_steps", "warmup_steps", "patience", "save_every", "num_workers", "lora_rank", "pictures")
        for name in (*not_negative, "frozen_encoder_epochs", "weight_decay", "max_grad_norm", "encoder_learning_rate"):
            demand(getattr(self, name) >= 0, f"{name} must be at least 0, not {getattr(self, name)}.")
        for name in ("ema_decay", "hold_out"):
            demand(0 <= getattr(self, name) < 1, f"{name} must be at least 0 and below 1, not {getattr(self, name)}.")
        demand(0 <= self.seed < 2**32, f"seed must be at least 0 and below 2**32, not {self.seed}.")
        demand(0 < self.layer_decay <= 1, f"layer_decay must be above 0 and at most 1, not {self.layer_decay}.")
        for name, weight in self.loss_weights.items():
            demand(0 <= weight < math.inf, f"{name} must be at least 0 and finite, not {weight}.")
        demand(0 < self.teacher_weight <= 1, f"teacher_weight must be in 0…1, and not 0, not {self.teacher_weight}.")
        demand(0 <= self.teacher_cutmix <= 1, f"teacher_cutmix must be in 0…1, not {self.teacher_cutmix}.")
        demand(
            bool(self.teachers) or not self.teacher_cutmix,
            "teacher_cutmix makes pictures that only teachers can label; name some with --teachers.",
        )
        demand(any(self.loss_weights.values()), f"The loss needs a term: {', '.join(LOSS_TERMS)} are all 0.")
        demand(bool(self.validated), "Motion clips need a validation split; name one.")
        demand(
            self.hold_out > 0 or not set(self.validated) & set(self.train),
            "There is nothing to choose checkpoints on; name a validation split or hold_out a share of train.",
        )
        if self.push_to_hub:
            # Now, not after days of training.
            try:
                validate_repo_id(self.push_to_hub)
            except HFValidationError as error:
                raise ConfigError(
                    f"push_to_hub must be a repository such as org/name, not '{self.push_to_hub}'."
                ) from error

    @property
    def validated(self) -> list[str]:
        """The sources to choose checkpoints on; of one that is trained on too, a share is held out."""
        return self.validation or [source for source in self.train if not source.startswith(f"{MOTION}:")]

    @property
    def loss_weights(self) -> dict[str, float]:
        """Those of [`saliency_loss`], by its names."""
        return {name: getattr(self, name) for name in LOSS_TERMS}

    def save(self, path: Path) -> None:
        """Write all settings as YAML; the file is itself a configuration to run."""
        path.write_text(yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True))


TYPES = typing.get_type_hints(TrainingConfig)
HELP = {
    name: hint.__metadata__[0] for name, hint in typing.get_type_hints(TrainingConfig, include_extras=True).items()
}


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


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
        if wanted is bool and not isinstance(value, bool):
            raise ValueError
        if wanted is int and float(value) != int(float(value)):
            raise ValueError
        return wanted(float(value)) if wanted is int else wanted(value)
    except (TypeError, ValueError, OverflowError) as error:
        kind = wanted if get_origin(wanted) else wanted.__name__
        raise ConfigError(f"{name} must be of type {kind}, not {value!r}.") from error


def read_settings(name: str, over: tuple[Path, ...] = ()) -> dict[str, Any]:
    """
    The settings of a preset or a YAML file. A file may name another one, or a preset, as its `base`.

    Args:
        over: files that build on this one.

    Raises:
        ConfigError: there is no such file, a key in it is unknown, or it builds on itself.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = PRESETS / f"{name}.yaml"
        if not path.is_file():
            raise ConfigError(
                f"There is no preset '{name}'{suggestion(name, preset_names())} Presets: {', '.join(preset_names())}; "
                "or name a .yaml file."
            )
    if path.resolve() in over:
        raise ConfigError(f"{path} builds on itself; change the base of it or of a file between.")
    try:
        check_file(path)
        own = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the configuration {path} ({reason_of(error)}); check the path.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(own, dict):
        raise ConfigError(f"{path} must hold `key: value` lines.")
    base = own.pop("base", None)
    settings = {}
    if base is not None:
        beside = path.parent / str(base)
        name = str(beside) if beside.suffix in (".yaml", ".yml") else str(base)
        settings = read_settings(name, (*over, path.resolve()))
    for key in own:
        if key not in TYPES:
            raise ConfigError(f"{path} has the unknown key '{key}'{suggestion(str(key), TYPES)}")
    return merged(settings, own)


def merged(settings: dict[str, Any], further: dict[str, Any]) -> dict[str, Any]:
    """
    Settings and further ones over them. Of a dictionary, single entries are replaced; a model replaces the encoder
    and the fresh decoder on it, an encoder the model, and a size of all clips that of stills.
    """
    further = {key: convert(key, value) for key, value in further.items()}
    replaced = {"encoder": ("model",), "size": ("still_size",)}
    replaced["model"] = ("encoder", "model_config", "keep_aspect_ratio", "still_size")
    gone = {other for key, others in replaced.items() if further.get(key) for other in others}
    result = {key: value for key, value in settings.items() if key not in gone}
    for key, value in further.items():
        result[key] = {**result.get(key, {}), **value} if isinstance(value, dict) else value
    return result


__all__ = ["MOTION", "PRESETS", "ConfigError", "TrainingConfig", "preset_names"]
