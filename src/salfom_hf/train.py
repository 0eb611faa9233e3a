"""Train or fine-tune SalFoM.

    accelerate launch -m salfom_hf.train PRESET_OR_YAML --data-dir FOLDER [--SETTING VALUE …]

Presets and settings: `python -m salfom_hf.train --help`. A run leaves in its `output_dir`: `model/`, the best model so
far, for `from_pretrained`; `checkpoints/`, to go on from with `--resume`; `config.yaml`, `data.json`, `log.jsonl` and
`pictures/`.
"""

import dataclasses
import datetime
import json
import multiprocessing
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

if __name__ == "__main__":

    def not_begun(number: int, _) -> None:
        print("salfom: stopped before the run began.", file=sys.stderr)
        os._exit(128 + number)

    # Importing takes seconds, in which Ctrl-C may come, too.
    signal.signal(signal.SIGINT, not_begun)

import transformers
import yaml
from safetensors import SafetensorError

from .errors import advice_for, is_out_of_memory, needs_extra

try:
    import datasets
    from accelerate import Accelerator
    from accelerate.tracking import get_available_trackers
    from accelerate.utils import (
        DistributedDataParallelKwargs,
        GradientAccumulationPlugin,
        InitProcessGroupKwargs,
        set_seed,
    )
except ImportError as error:
    needed = needs_extra("Training", "train")
    if __name__ == "__main__":
        sys.exit(f"salfom: {needed}")
    raise ImportError(needed) from error

from .cli.common import print_traceback
from .cli.train import parse
from .data import DataError
from .errors import VideoError
from .files import Inputs, atomic_output, locked, remove_unfinished
from .hub.publish import PublishError, push
from .inference.cpu import keep_freed_memory
from .inference.processes import LOST, OtherProcessError, all_or_none, lost_connection
from .models.names import local
from .training.card import write_report
from .training.checkpoints import CheckpointError
from .training.config import ConfigError, TrainingConfig
from .training.data import build_clips, folder_of, states
from .training.loop import ENDING, LOG, Trainer, TrainingStoppedError
from .training.model import build_model

FAILURE = 2
SETTINGS, DATA = "config.yaml", "data.json"
NOT_BEGUN = "Stopped before training began."
NOT_TRAINING = "Stopped between two steps, so nothing is lost; go on with --resume."

# Settings that may change when a run goes on.
FREE = {"resume", "push_to_hub", "private", "num_workers", "log_every", "save_every", "keep_checkpoints", "data_dir"}


def prepare_folder(config: TrainingConfig, stack: ExitStack) -> None:
    """
    Make the run's folder and note its settings, and what its data is like.

    Args:
        stack: until it ends, the folder is locked.

    Raises:
        ConfigError: the folder holds another run or other files, or is used by another process; or the data is not
            what it was.
        DataError: the data cannot be read.
        VideoError: what is read would be replaced.
    """
    folder = Path(config.output_dir)
    noted, data = folder / SETTINGS, folder / DATA
    resumed = has_checkpoint(folder)
    if not resumed:
        keep_others(config, folder)
    elif not config.resume:
        raise ConfigError(f"{folder} holds a run already; go on with it by --resume, or name another --output-dir.")
    else:
        before, now = yaml.safe_load(noted.read_text(encoding="utf-8")), dataclasses.asdict(config)
        changed = [name for name in now if name not in FREE and before.get(name) != now[name]]
        if changed:
            raise ConfigError(
                f"{folder} was begun with other settings ({', '.join(changed)}); use those of {noted}, or name "
                "another --output-dir."
            )
    now = states(config)
    if resumed and data.is_file():  # Earlier versions wrote none.
        before = json.loads(data.read_text(encoding="utf-8"))
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            raise ConfigError(
                f"{folder} was begun with other data ({', '.join(changed)} has changed); use the data as it was, or "
                "name another --output-dir."
            )
    folder.mkdir(parents=True, exist_ok=True)
    if stack.enter_context(locked(folder / ".lock")) is False:
        raise ConfigError(f"Another process trains in {folder}; wait until it ends, or name another --output-dir.")
    remove_unfinished(folder)
    with atomic_output(noted, overwrite=True) as path:
        dataclasses.replace(config, resume=False).save(path)
    with atomic_output(data, overwrite=True) as path:
        path.write_text(f"{json.dumps(now, indent=1)}\n", encoding="utf-8")


def has_checkpoint(folder: Path) -> bool:
    return any(folder.glob("checkpoints/checkpoint-*"))


def keep_others(config: TrainingConfig, folder: Path) -> None:
    """
    Refuse to begin a run in a folder where it would replace its own inputs, or files of others.

    Raises:
        ConfigError, VideoError: it would.
    """
    noted = folder / SETTINGS
    written = [folder / name for name in (SETTINGS, DATA, LOG, "model", "checkpoints", "pictures")]
    datasets = {source.partition(":")[0] for source in config.train + config.validated}
    models = filter(None, (config.model, config.encoder, *config.teachers))
    read = [*(folder_of(dataset, config) for dataset in datasets), *local(*models)]
    for path in read:
        if path.exists() and folder.exists() and path.samefile(folder):
            raise ConfigError(f"{folder} is what the run reads; name another --output-dir.")
    inputs = Inputs(*read)
    for path in written:
        inputs.refuse(path)
    # A run that was stopped before its first checkpoint has noted all settings, also this one.
    own = noted.is_file() and "resume:" in noted.read_text(encoding="utf-8", errors="replace")
    others = [] if own else [path for path in written if path.exists()]
    if others:
        raise ConfigError(f"{others[0]} does not belong to a run and would be replaced; name another --output-dir.")


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
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision or None,
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                num_steps=config.gradient_accumulation_steps, sync_with_dataloader=False
            ),
            log_with=config.trackers or None,
            project_dir=config.output_dir,
            kwargs_handlers=[alone, patient],
        )
    except ValueError as error:  # Such as bf16 on a device that has none.
        raise ConfigError(f"accelerate cannot do this: {' '.join(str(error).split())}") from error
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # accelerate would compute in float32 and say nothing.
        raise ConfigError("mixed_precision fp16 needs a GPU; on a CPU use bf16 or no.")
    return accelerator


def flat_settings(config: TrainingConfig) -> dict[str, str | int | float | bool]:
    """Settings as trackers take them."""
    values = dataclasses.asdict(config)
    return {name: v if isinstance(v, (str, int, float)) else yaml.safe_dump(v).strip() for name, v in values.items()}


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
    stack = ExitStack()
    try:
        with all_or_none(accelerator):
            if accelerator.is_main_process:
                prepare_folder(config, stack)
        # The first process fills the caches, of the Hub and of the datasets; the others read them.
        for first in (True, False):
            with all_or_none(accelerator):
                if accelerator.is_main_process == first:
                    model, processor = build_model(config)
                    training, validation = build_clips(config, processor)
        if config.trackers:
            accelerator.init_trackers("salfom", config=flat_settings(config))
        trainer = Trainer(config, accelerator, model, processor, training, validation, write_report)
        trainer.run()
        if config.push_to_hub and accelerator.is_main_process:
            print(push(trainer.model_folder, config.push_to_hub, config.private))
    finally:
        stack.close()
        # Not end_training: it takes down the connections between the processes while the model still holds them, on
        # which gloo waits forever. They end with the processes.
        for tracker in accelerator.trackers:
            tracker.finish()
    return trainer.model_folder


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 when anything failed, 130 or 143 when stopped."""
    keep_freed_memory()
    # Of what all processes of a machine find out alike, one speaks.
    speaks = os.environ.get("LOCAL_RANK", "0") == "0"
    transformers.logging.disable_progress_bar()
    if not (speaks and sys.stderr.isatty()):
        datasets.disable_progress_bars()
    previous = {number: signal.signal(number, stop) for number in ENDING}
    config = None
    try:
        config = parse(arguments)
        folder = train(config)
    except TrainingStoppedError as error:
        return fail(error if speaks else None, 128 + error.signal if error.signal else FAILURE)
    except KeyboardInterrupt as stopped:
        begun = config is not None and has_checkpoint(Path(config.output_dir))
        return fail((NOT_TRAINING if begun else NOT_BEGUN) if speaks else None, 128 + stopped.args[0])
    except ConfigError as error:
        return fail(error if speaks else None)
    except (DataError, VideoError, CheckpointError, PublishError) as error:
        return fail(error)
    except OtherProcessError as error:
        return fail(str(error) or None)
    except (MemoryError, OSError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            return fail("Out of memory; lower --batch-size or --size, or set --gradient-checkpointing.")
        if isinstance(error, RuntimeError):
            if lost_connection(error):
                return fail(LOST)
            raise
        return fail(
            f"Cannot write or read a file of the run ({' '.join(str(error).split())}); its checkpoints are kept: "
            f"{advice_for(error, 'try again')}."
        )
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        # Processes that read clips ignore the SIGTERM by which Python stops them at its end; it would wait forever.
        if readers := multiprocessing.active_children():
            if hasattr(signal, "SIGCHLD"):  # PyTorch would take their end for an error.
                before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for process in readers:
                process.kill()
            for process in readers:
                process.join()
            if hasattr(signal, "SIGCHLD"):
                signal.signal(signal.SIGCHLD, before)
    if speaks:
        print(f"The best model is in {folder}.")
    return 0


def stop(number: int, _) -> None:
    """Stop between two steps; at the second signal, at once."""
    for each in ENDING:
        signal.signal(each, signal.SIG_DFL)
    raise KeyboardInterrupt(number)


def fail(message: Exception | str | None, code: int = FAILURE) -> int:
    if message is not None:
        print_traceback(sys.exc_info()[1])
        print(f"salfom: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
