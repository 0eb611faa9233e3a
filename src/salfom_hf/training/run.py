"""A run from its settings to the trained model: its folder, its processes, its data, and the loop."""

import dataclasses
import datetime
import json
import os
import shutil
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
from .checkpoints import CHECKPOINTS, UNFINISHED, checkpoints_of
from .config import ConfigError, TrainingConfig, demand
from .data import folder_of
from .fingerprints import fingerprints
from .log import LOG, PICTURES, TRACKERS, tracking
from .loop import MODEL, Trainer

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
        trainer = Trainer(config, accelerator)
        # As trackers take them.
        flat = {
            name: v if isinstance(v, str | int | float) else yaml.safe_dump(v).strip()
            for name, v in vars(config).items()
        }
        stack.enter_context(tracking(Path(config.output_dir), accelerator, flat))
        trainer.run()
        if config.push_to_hub and accelerator.is_main_process:
            print(push(trainer.model_folder, config.push_to_hub, config.private))
    return trainer.model_folder


def make_accelerator(config: TrainingConfig) -> Accelerator:
    # accelerate passes over those that are not installed without a word.
    missing = " and ".join(sorted(set(config.trackers) - {str(tracker) for tracker in get_available_trackers()}))
    demand(not missing, f"The tracker {missing} is not installed; pip install it, or name other --trackers.")
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
    # accelerate would compute in float32 and say nothing.
    emulated = accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu"
    demand(not emulated, "mixed_precision fp16 needs a GPU; on a CPU use bf16 or no.")
    return accelerator


def prepare_folder(config: TrainingConfig, stack: ExitStack) -> None:
    """Make the run's folder, locked until the stack ends, and note there the settings and what the data is like."""
    folder = Path(config.output_dir)
    noted, data = folder / SETTINGS, folder / DATA
    resumed = checkpoints_of(folder)
    if resumed:
        advice = "go on with it by --resume, or name another --output-dir."
        demand(config.resume, f"{folder} holds a run already; {advice}")
        check_unchanged(
            folder, "settings", yaml.safe_load(noted.read_text(encoding="utf-8")), dataclasses.asdict(config)
        )
    else:
        check_outputs(config, folder)
    now = fingerprints(config)
    if resumed and data.is_file():  # Earlier versions wrote none.
        check_unchanged(folder, "data", json.loads(data.read_text(encoding="utf-8")), now)
    folder.mkdir(parents=True, exist_ok=True)
    held = stack.enter_context(locked(folder / ".lock"))
    advice = "wait until it ends, or name another --output-dir."
    demand(held is not False, f"Another process trains in {folder}; {advice}")
    remove_unfinished(folder, below=True)
    for left in folder.glob(f"{CHECKPOINTS}/*{UNFINISHED}"):
        shutil.rmtree(left)
    with atomic_output(noted, overwrite=True) as path:
        dataclasses.replace(config, resume=False).save(path)
    with atomic_output(data, overwrite=True) as path:
        path.write_text(f"{json.dumps(now, indent=1)}\n", encoding="utf-8")


def check_unchanged(folder: Path, what: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = ", ".join(name for name in now if name not in FREE and before.get(name) != now[name])
    advice = "go on with those of then, or begin from its result in another --output-dir, by --model."
    demand(not changed, f"{folder} was begun with other {what} ({changed}); {advice}")


def check_outputs(config: TrainingConfig, folder: Path) -> None:
    """Refuse to begin a run in a folder where it would replace its own inputs, or files of others."""
    sources = {source.partition(":")[0] for source in config.train + config.validated}
    read = [*(folder_of(source, config) for source in sources), *local(config.model or config.encoder)]
    same = any(path.exists() and folder.exists() and path.samefile(folder) for path in read)
    demand(not same, f"{folder} is what the run reads; name another --output-dir.")
    inputs = Inputs(*read)
    written = [folder / name for name in (SETTINGS, DATA, LOG, TRACKERS, PICTURES, MODEL, CHECKPOINTS)]
    for path in written:
        inputs.refuse(path)
    # A run that was stopped before its first checkpoint has noted all settings, also this one.
    own = written[0].is_file() and "resume:" in written[0].read_text(encoding="utf-8", errors="replace")
    others = next((path for path in written if path.exists()), None)
    demand(own or not others, f"{others} does not belong to a run and would be replaced; name another --output-dir.")
