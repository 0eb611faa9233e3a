"""A run from its settings to the trained model: its folder, its processes, its data, and the loop."""

import dataclasses
import datetime
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    set_seed,
)

from ..files import Inputs, atomic_output, locked, remove_unfinished
from ..hub.publish import push
from ..inference.processes import all_or_none
from ..models.names import local
from .checkpoints import CHECKPOINTS
from .config import ConfigError, TrainingConfig
from .data import build_clips, folder_of
from .fingerprints import fingerprints
from .log import LOG, PICTURES, TRACKERS, tracking
from .loop import MODEL, Trainer
from .model import build_model

SETTINGS, DATA = "config.yaml", "data.json"
# Settings that may change when a run goes on.
FREE = {"resume", "push_to_hub", "private", "num_workers", "log_every", "save_every", "keep_checkpoints", "data_dir"}


def train(config: TrainingConfig) -> Path:
    """
    Do a run.

    Returns:
        The folder of the best model, for `from_pretrained`.

    Raises:
        ConfigError: a setting cannot be used.
        DataError, VideoError: the data cannot be read.
        CheckpointError: a checkpoint cannot be written or read.
        TrainingStoppedError: the loss is not a number, or the process was stopped.
        PublishError: the result could not be sent to the Hub.
        OtherProcessError: another process of the run failed.
    """
    accelerator = make_accelerator(config)
    set_seed(config.seed)
    with ExitStack() as stack:
        with all_or_none(accelerator):
            if accelerator.is_main_process:
                prepare_folder(config, stack)
        # The first process fills the caches, of the Hub and of the datasets; the others read them.
        for first in (True, False):
            with all_or_none(accelerator):
                if accelerator.is_main_process == first:
                    model, processor = build_model(config)
                    training, validation = build_clips(config, processor)
        trainer = Trainer(config, accelerator, model, processor, training, validation)
        stack.enter_context(tracking(Path(config.output_dir), accelerator, flat_settings(config)))
        trainer.run()
        if config.push_to_hub and accelerator.is_main_process:
            print(push(trainer.model_folder, config.push_to_hub, config.private))
    return trainer.model_folder


def make_accelerator(config: TrainingConfig) -> Accelerator:
    # accelerate passes over those that are not installed without a word.
    missing = sorted(set(config.trackers) - {str(tracker) for tracker in get_available_trackers()})
    if missing:
        raise ConfigError(
            f"The tracker {missing[0]} is not installed; pip install {missing[0]}, or name other --trackers."
        )
    # DeepSpeed clips by itself, and to a norm of 1 if nobody tells it.
    os.environ["ACCELERATE_GRADIENT_CLIPPING"] = str(config.max_grad_norm)
    # The first process may have to list a large dataset on a slow disk while the others wait.
    patient = InitProcessGroupKwargs(timeout=datetime.timedelta(hours=1))
    # Processes may have clips of different numbers of shapes, and so go through the model different numbers of times;
    # they must not wait for one another there. The buffers, statistics of batch norms, never change.
    alone = DistributedDataParallelKwargs(broadcast_buffers=False)
    steps = GradientAccumulationPlugin(num_steps=config.gradient_accumulation_steps, sync_with_dataloader=False)
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision or None,
            gradient_accumulation_plugin=steps,
            log_with=config.trackers or None,
            project_dir=str(Path(config.output_dir) / TRACKERS),
            kwargs_handlers=[alone, patient],
        )
    except ValueError as error:  # Such as bf16 on a device that has none.
        raise ConfigError(f"accelerate cannot do this: {' '.join(str(error).split())}") from error
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # accelerate would compute in float32 and say nothing.
        raise ConfigError("mixed_precision fp16 needs a GPU; on a CPU use bf16 or no.")
    return accelerator


def prepare_folder(config: TrainingConfig, stack: ExitStack) -> None:
    """Make the run's folder, locked until the stack ends, and note there the settings and what the data is like."""
    folder = Path(config.output_dir)
    noted, data = folder / SETTINGS, folder / DATA
    resumed = has_checkpoint(folder)
    if not resumed:
        check_outputs(config, folder)
    elif not config.resume:
        raise ConfigError(f"{folder} holds a run already; go on with it by --resume, or name another --output-dir.")
    else:
        before = yaml.safe_load(noted.read_text(encoding="utf-8"))
        check_unchanged(folder, "settings", before, dataclasses.asdict(config))
    now = fingerprints(config)
    if resumed and data.is_file():  # Earlier versions wrote none.
        check_unchanged(folder, "data", json.loads(data.read_text(encoding="utf-8")), now)
    folder.mkdir(parents=True, exist_ok=True)
    if stack.enter_context(locked(folder / ".lock")) is False:
        raise ConfigError(f"Another process trains in {folder}; wait until it ends, or name another --output-dir.")
    remove_unfinished(folder, below=True)
    with atomic_output(noted, overwrite=True) as path:
        dataclasses.replace(config, resume=False).save(path)
    with atomic_output(data, overwrite=True) as path:
        path.write_text(f"{json.dumps(now, indent=1)}\n", encoding="utf-8")


def has_checkpoint(folder: Path) -> bool:
    return any(folder.glob(f"{CHECKPOINTS}/checkpoint-*"))


def check_unchanged(folder: Path, what: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [name for name in now if name not in FREE and before.get(name) != now[name]]
    if changed:
        raise ConfigError(
            f"{folder} was begun with other {what} ({', '.join(changed)}); go on with those of then, or name another "
            "--output-dir."
        )


def check_outputs(config: TrainingConfig, folder: Path) -> None:
    """Refuse to begin a run in a folder where it would replace its own inputs, or files of others."""
    sources = {source.partition(":")[0] for source in config.train + config.validated}
    read = [*(folder_of(source, config) for source in sources), *local(config.model or config.encoder)]
    for path in read:
        if path.exists() and folder.exists() and path.samefile(folder):
            raise ConfigError(f"{folder} is what the run reads; name another --output-dir.")
    inputs = Inputs(*read)
    written = [folder / name for name in (SETTINGS, DATA, LOG, TRACKERS, PICTURES, MODEL, CHECKPOINTS)]
    for path in written:
        inputs.refuse(path)
    # A run that was stopped before its first checkpoint has noted all settings, also this one.
    noted = folder / SETTINGS
    own = noted.is_file() and "resume:" in noted.read_text(encoding="utf-8", errors="replace")
    others = [] if own else [path for path in written if path.exists()]
    if others:
        raise ConfigError(f"{others[0]} does not belong to a run and would be replaced; name another --output-dir.")


def flat_settings(config: TrainingConfig) -> dict[str, str | int | float | bool]:
    """Settings as trackers take them."""
    values = dataclasses.asdict(config)
    return {name: v if isinstance(v, (str, int, float)) else yaml.safe_dump(v).strip() for name, v in values.items()}
