"""Checkpoints that are either whole or not there, so that a run killed at any moment can go on."""

import errno
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file

from ..errors import advice_for, described, errno_of
from ..files import atomic_output
from ..inference.processes import OtherProcessError, all_or_none

CHECKPOINTS = "checkpoints"  # in the folder of a run
PROGRESS, AVERAGE = "progress.json", "average.safetensors"  # in a checkpoint
UNFINISHED = ".unfinished"  # at the end of the name of what is being written or removed


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message says which and what to do."""


@dataclass
class Progress:
    """How far a run is."""

    processes: int  # that share the work, each of which counts its own batches
    step: int = 0  # optimizer steps done
    epoch: int = 0  # the current one
    batch: int = 0  # batches of it that are used
    best: float | None = None  # score so far, the greater the better
    best_step: int = 0
    validations_since_best: int = 0
    finished: bool = False  # nothing is left to do, not even a validation


def checkpoints_of(folder: Path) -> list[Path]:
    """The whole checkpoints of a run's folder, the oldest first."""
    steps = {path.name.removeprefix("checkpoint-"): path for path in folder.glob(f"{CHECKPOINTS}/checkpoint-*")}
    return [steps[step] for step in sorted(filter(str.isdecimal, steps), key=int)]


class Checkpoints:
    """
    The checkpoints of a run's folder, the last `keep` of which stay.

    Every process calls every method: a checkpoint of a sharded model has a part from each. It is written under another
    name and renamed when all parts are on disk. `averages` are kept with what the accelerator has prepared.
    """

    def __init__(self, folder: Path, keep: int, accelerator: Accelerator, averages: list[torch.Tensor]):
        self.folder, self.keep, self.accelerator, self.averages = folder, keep, accelerator, averages

    def path(self, progress: Progress) -> Path:
        return self.folder / CHECKPOINTS / f"checkpoint-{progress.step}"

    def save(self, progress: Progress) -> None:
        """Write a checkpoint, unless this step has one; a [`CheckpointError`] leaves earlier ones untouched."""
        final = self.path(progress)
        unfinished = final.with_name(final.name + UNFINISHED)
        if final.is_dir():
            return
        try:
            with all_or_none(self.accelerator):
                self.accelerator.save_state(str(unfinished))
                if self.accelerator.is_main_process:
                    # Not through accelerate, which would read it as a pickle of any objects.
                    if self.averages:
                        averages = {str(i): average.contiguous() for i, average in enumerate(self.averages)}
                        save_file(averages, unfinished / AVERAGE)
                    (unfinished / PROGRESS).write_text(json.dumps(asdict(progress)))
            with all_or_none(self.accelerator):
                if self.accelerator.is_main_process:
                    unfinished.rename(final)
                    for old in checkpoints_of(self.folder)[: -self.keep]:
                        # Killed while it removes files, a process leaves nothing that looks like a checkpoint.
                        shutil.rmtree(old.rename(old.with_name(old.name + UNFINISHED)), ignore_errors=True)
        except OtherProcessError:
            raise
        except Exception as error:  # Writers report a full disk by errors of many types, and torch.save not at all.
            kept, number = checkpoints_of(self.folder), errno_of(error)
            with suppress(OSError):  # The folder may be gone.
                number = number or (errno.ENOSPC if shutil.disk_usage(final.parent).free < 2**20 else None)
            reason = OSError(number, os.strerror(number)) if number else error
            advice = f"{advice_for(reason, 'check the folder')}, and "
            advice += f"go on from {kept[-1]} with --resume" if kept else "start again"
            raise CheckpointError(f"Cannot write {final} ({described(reason)}); {advice}.") from error
        finally:
            if self.accelerator.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
                with suppress(OSError):  # Only of an empty folder.
                    final.parent.rmdir()

    def note(self, progress: Progress) -> None:
        """Replace what the checkpoint of this step says of the progress, after a validation."""
        with all_or_none(self.accelerator):
            if self.accelerator.is_main_process:
                with atomic_output(self.path(progress) / PROGRESS, overwrite=True) as path:
                    path.write_text(json.dumps(asdict(progress)))

    def load_last(self) -> Progress | None:
        """Bring model, optimizer and averages to where the last checkpoint left them; `None` when there is none."""
        last = next(reversed(checkpoints_of(self.folder)), None)
        if len(set(gather_object([last and last.name]))) > 1:
            raise CheckpointError(
                f"The processes find different checkpoints in {self.folder / CHECKPOINTS}; the folder of a run must "
                "be one that all machines share."
            )
        if last is None:
            return None
        with all_or_none(self.accelerator):
            try:
                progress = Progress(**json.loads((last / PROGRESS).read_text()))
                now = self.accelerator.num_processes
                if progress.processes == now:
                    self.accelerator.load_state(str(last))
                    saved = load_file(last / AVERAGE) if self.averages else {}
                    for index, average in enumerate(self.averages):
                        average.copy_(saved[str(index)])
            except Exception as error:  # A damaged file may cause any.
                raise CheckpointError(
                    f"Cannot go on from {last} ({described(error)}); it is damaged: remove it to go on from the one "
                    "before, or start a new --output-dir."
                ) from error
            if progress.processes != now:
                raise CheckpointError(
                    f"{last} is of {progress.processes} processes, and these are {now}; go on with as many, or start "
                    "a new --output-dir."
                )
        return progress
