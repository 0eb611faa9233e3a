"""What a run tells: lines for people, `log.jsonl` for programs, and the trackers."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

from ..errors import VideoError, advice_for, described, reported
from ..files import atomic_output
from ..inference.processes import all_or_none
from .checkpoints import Progress

# In a run's folder: the log, and folders of the trackers and of the pictures.
LOG, TRACKERS, PICTURES = "log.jsonl", "trackers", "pictures"


@contextmanager
def tracking(folder: Path, accelerator: Accelerator, settings: dict) -> Iterator[None]:
    """Have the run's trackers record inside; `settings` are noted there."""
    hook = threading.excepthook
    # TensorBoard writes in a thread, and raises what fails there again where it is next called.
    threading.excepthook = lambda failure: None if isinstance(failure.exc_value, OSError) else hook(failure)
    try:
        with all_or_none(accelerator), told(folder):
            accelerator.init_trackers("salfom", config=settings)
        yield
    finally:
        # Not end_training: it takes down the connections between the processes while the model still holds them, on
        # which gloo waits forever. They end with the processes.
        for tracker in accelerator.trackers:
            with suppress(Exception):  # A warning has named the one that failed; all numbers are in the log.
                tracker.finish()
        threading.excepthook = hook


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Turn the error of a tracker, which may be of any type, into a `VideoError`."""
    try:
        yield
    except Exception as error:
        advice = advice_for(error, "check it, or leave it out with --trackers")
        raise VideoError(f"A tracker cannot write to {folder / TRACKERS} ({described(error)}); {advice}.") from error


class Log:
    """The log of a run; what an earlier process logged of steps that are now taken again is forgotten."""

    def __init__(self, folder: Path, accelerator: Accelerator, progress: Progress, total_steps: int):
        self.folder, self.accelerator, self.progress = folder, accelerator, progress
        main, now = accelerator.is_main_process, (progress.step, progress.epoch)
        with all_or_none(accelerator):
            if main:
                # The validation after the checkpoint's last step may have to be done again; its losses stay.
                kept = [
                    line for line in read_log(folder) if (line["step"], "loss" not in line and line["epoch"]) <= now
                ]
                with atomic_output(folder / LOG, overwrite=True) as path:
                    path.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
        self.bar = tqdm(total=total_steps, initial=progress.step, unit="step", disable=None if main else True)

    def write(self, values: dict[str, float]) -> None:
        step = self.progress.step
        self.say(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
        with all_or_none(self.accelerator):
            if self.accelerator.is_main_process:
                with reported(f"Cannot write {self.folder / LOG}"), (self.folder / LOG).open("a") as file:
                    file.write(json.dumps({"step": step, "epoch": self.progress.epoch + 1, **values}) + "\n")
                with told(self.folder):
                    self.accelerator.log(values, step=step)

    def draw(self, picture: np.ndarray) -> None:
        """Keep a picture of validation clips, uint8 `(height, width, 3)`."""
        with all_or_none(self.accelerator):
            if self.accelerator.is_main_process:
                path = self.folder / PICTURES / f"step-{self.progress.step:06d}.png"
                with atomic_output(path, overwrite=True) as temporary:
                    Image.fromarray(picture).save(temporary)
                for tracker in self.accelerator.trackers:
                    order = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                    with told(self.folder):
                        if hasattr(tracker, "log_images"):
                            tracker.log_images({"validation": picture[None]}, step=self.progress.step, **order)

    def say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            self.bar.write(text)


def read_log(folder: Path) -> list[dict]:
    """The entries of a run's log; a line that a killed process left unfinished is none."""
    entries = []
    if (folder / LOG).is_file():
        for line in (folder / LOG).read_text().splitlines():
            with suppress(json.JSONDecodeError):
                entries.append(json.loads(line))
    return entries
