"""What a run tells: lines for people, `log.jsonl` for programs, and the trackers."""

import json
from contextlib import suppress
from pathlib import Path

from accelerate import Accelerator
from tqdm import tqdm

from ..files import atomic_output
from .checkpoints import Progress

LOG = "log.jsonl"


class Log:
    """The log of a run; what an earlier process logged of steps that are now taken again is forgotten."""

    def __init__(self, folder: Path, accelerator: Accelerator, progress: Progress, total_steps: int):
        self.path, self.accelerator, self.progress = folder / LOG, accelerator, progress
        main = accelerator.is_main_process
        if main:
            kept = [json.dumps(entry) + "\n" for entry in read_log(folder) if self.is_past(entry)]
            with atomic_output(self.path, overwrite=True) as path:
                path.write_text("".join(kept))
        self.bar = tqdm(total=total_steps, initial=progress.step, unit="step", disable=None if main else True)

    def is_past(self, entry: dict) -> bool:
        now = self.progress
        # The validation after the checkpoint's last step may have to be done again.
        this_step = entry["step"] == now.step and (entry["epoch"] <= now.epoch or "loss" in entry)
        return entry["step"] < now.step or this_step

    def write(self, values: dict[str, float]) -> None:
        step = self.progress.step
        self.accelerator.log(values, step=step)
        self.say(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, "epoch": self.progress.epoch + 1, **values}) + "\n")

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
