"""Checkpoints that are either whole or not there, so that a run killed at any moment can go on."""

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

NAME = re.compile(r"checkpoint-(\d+)")
PROGRESS = "progress.json"
UNFINISHED = ".writing"


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message says which and what to do."""


@dataclass
class Progress:
    """How far a run is. Steps are optimizer steps; `batch` counts the batches of the current epoch that are used."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int = 0
    validations_since_best: int = 0
    stopped_early: bool = False


class Checkpoints:
    """
    The folder of a run's checkpoints, the last `keep` of which stay.

    Every process calls every method: a checkpoint of a sharded model has a part from each. It is written under another
    name and renamed when all parts are on disk.
    """

    def __init__(self, folder: Path, keep: int, accelerator: Accelerator):
        self.folder, self.keep, self.accelerator = folder, keep, accelerator
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f"*{UNFINISHED}"):
                shutil.rmtree(left, ignore_errors=True)
        accelerator.wait_for_everyone()

    def found(self) -> list[Path]:
        """Whole checkpoints, the oldest first."""
        named = [(int(match[1]), path) for path in self.folder.iterdir() if (match := NAME.fullmatch(path.name))]
        return [path for _, path in sorted(named)]

    def save(self, progress: Progress) -> None:
        """
        Raises:
            CheckpointError: on every process, when any could not write; earlier checkpoints are untouched.
        """
        final = self.folder / f"checkpoint-{progress.step}"
        if final.is_dir():
            return
        unfinished = self.folder / (final.name + UNFINISHED)
        failure = None
        try:
            self.accelerator.save_state(str(unfinished))
            if self.accelerator.is_main_process:
                (unfinished / PROGRESS).write_text(json.dumps(asdict(progress)))
        # Writers report a full disk by errors of several types.
        except (OSError, RuntimeError) as error:
            failure = str(error)
        failures = gather_object([failure])
        if self.accelerator.is_main_process and not any(failures):
            unfinished.rename(final)
            for old in self.found()[: -self.keep]:
                shutil.rmtree(old, ignore_errors=True)
        if any(failures):
            if self.accelerator.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
            kept = self.found()
            raise CheckpointError(
                f"Cannot write {final} ({next(f for f in failures if f)}); free some space and go on with --resume "
                + (f"from {kept[-1]}." if kept else "(there is no earlier checkpoint).")
            )
        self.accelerator.wait_for_everyone()

    def load_last(self) -> Progress | None:
        """Bring model, optimizer and averages to where the last checkpoint left them; `None` when there is none."""
        found = self.found()
        if not found:
            return None
        try:
            self.accelerator.load_state(str(found[-1]))
            return Progress(**json.loads((found[-1] / PROGRESS).read_text()))
        except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"Cannot go on from {found[-1]} ({' '.join(str(error).split())[:300]}); it is damaged or of another "
                "configuration: remove it, or start a new --output-dir."
            ) from error


__all__ = ["CheckpointError", "Checkpoints", "Progress"]
