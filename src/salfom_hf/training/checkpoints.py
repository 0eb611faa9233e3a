"""Checkpoints that are either whole or not there, so that a run killed at any moment can go on."""

import errno
import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from ..errors import advice_for, described, errno_of
from ..files import atomic_output
from ..inference.processes import OtherProcessError, all_or_none
from .optimizer import ExponentialMovingAverage

CHECKPOINTS = "checkpoints"  # in the folder of a run
NAME = re.compile(r"checkpoint-(\d+)")
PROGRESS = "progress.json"
AVERAGE = "average.safetensors"
UNFINISHED = ".unfinished"


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


class Checkpoints:
    """
    The folder of a run's checkpoints, the last `keep` of which stay.

    Every process calls every method: a checkpoint of a sharded model has a part from each. It is written under another
    name and renamed when all parts are on disk.
    """

    def __init__(
        self, folder: Path, keep: int, accelerator: Accelerator, average: ExponentialMovingAverage | None = None
    ):
        self.folder, self.keep, self.accelerator, self.average = folder, keep, accelerator, average
        with all_or_none(accelerator):
            if accelerator.is_main_process:
                for left in folder.glob(f"*{UNFINISHED}"):
                    shutil.rmtree(left)

    def found(self) -> list[Path]:
        """Whole checkpoints, the oldest first."""
        matches = [(NAME.fullmatch(path.name), path) for path in self.folder.glob("checkpoint-*")]
        return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]

    def path(self, progress: Progress) -> Path:
        return self.folder / f"checkpoint-{progress.step}"

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
                    if self.average is not None:
                        self.average.save(unfinished / AVERAGE)
                    (unfinished / PROGRESS).write_text(json.dumps(asdict(progress)))
            with all_or_none(self.accelerator):
                if self.accelerator.is_main_process:
                    unfinished.rename(final)
                    self.remove_old()
        except OtherProcessError:
            raise
        except Exception as error:  # Writers report a full disk by errors of many types.
            kept, number = self.found(), errno_of(error) or self.full()
            reason = os.strerror(number) if number else described(error)
            advice = advice_for(OSError(number, reason), "check the folder")
            then = f"go on from {kept[-1]} with --resume" if kept else "start again"
            raise CheckpointError(f"Cannot write {final} ({reason}); {advice}, and {then}.") from error
        finally:
            if self.accelerator.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
                with suppress(OSError):  # Only of an empty folder.
                    self.folder.rmdir()

    def full(self) -> int | None:
        """The system's number of a full disk if it is, which torch.save does not say."""
        with suppress(OSError):  # The folder may be gone.
            return errno.ENOSPC if shutil.disk_usage(self.folder).free < 2**20 else None
        return None

    def remove_old(self) -> None:
        for old in self.found()[: -self.keep]:
            # Killed while it removes files, a process leaves nothing that looks like a checkpoint.
            leaving = old.rename(old.with_name(old.name + UNFINISHED))
            shutil.rmtree(leaving, ignore_errors=True)

    def note(self, progress: Progress) -> None:
        """Replace what the checkpoint of this step says of the progress, after a validation."""
        with all_or_none(self.accelerator):
            if self.accelerator.is_main_process:
                with atomic_output(self.path(progress) / PROGRESS, overwrite=True) as path:
                    path.write_text(json.dumps(asdict(progress)))

    def load_last(self) -> Progress | None:
        """Bring model, optimizer and averages to where the last checkpoint left them; `None` when there is none."""
        last = next(reversed(self.found()), None)
        if len(set(gather_object([last and last.name]))) > 1:
            raise CheckpointError(
                f"The processes find different checkpoints in {self.folder}; the folder of a run must be one that all "
                "machines share."
            )
        if last is None:
            return None
        with all_or_none(self.accelerator):
            try:
                progress = Progress(**json.loads((last / PROGRESS).read_text()))
                now = self.accelerator.num_processes
                if progress.processes == now:
                    self.accelerator.load_state(str(last))
                    if self.average is not None:
                        self.average.load(last / AVERAGE)
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
