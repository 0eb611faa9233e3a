"""The training loop: batches in, a trained model, checkpoints, log lines and pictures out."""

import copy
import json
import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import psutil
import torch
from accelerate import Accelerator, DistributedType, skip_first_batches
from PIL import Image
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data import MixtureDataset, collate_by_shape
from ..files import atomic_output
from ..inference.processes import all_or_none
from ..models.losses import saliency_loss
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.video_processing_salfom import SalFoMVideoProcessor
from .checkpoints import Checkpoints, Progress
from .config import ConfigError, TrainingConfig
from .data import EpochSampler
from .model import merge_lora, resting, train_mode
from .optimizer import ExponentialMovingAverage, make_optimizer, rate_factor, set_rates
from .teachers import Teachers, pasted
from .validation import draw, validate

# Greater is better, but for this one.
LESS_IS_BETTER = ("kldiv",)
LOG = "log.jsonl"
# Signals at which a run is saved and ends.
ENDING = (signal.SIGINT, signal.SIGTERM)
# What accelerate calls them.
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingStoppedError(Exception):
    """
    The run ends before its time, with nothing lost; the message says why and how to go on.

    Attributes:
        signal: the signal that stopped it; 0 if none did.
    """

    def __init__(self, message: str, signal: int = 0):
        super().__init__(message)
        self.signal = signal


class Trainer:
    """
    One training run.

    Everything random is a function of the seed and of how far the run is, and checkpoints are written between
    optimizer steps, so a resumed run takes exactly the steps that an uninterrupted one takes.

    Args:
        config: the settings.
        accelerator: of accelerate, which knows of devices, processes and precision.
        model: in float32; trained in place.
        processor: saved with it.
        training: map-style dataset of clips with `set_epoch`.
        validation: map-style dataset of clips.
        report: writes what a model's folder holds besides the model, from the run and its scores.

    Raises:
        ConfigError: settings contradict the way the run is distributed, or the amount of data.
    """

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        model: SalFoMForVideoSaliencyPrediction,
        processor: SalFoMVideoProcessor,
        training,
        validation,
        report: Callable[[Path, "Trainer", dict[str, float]], None],
    ):
        self.config, self.accelerator = config, accelerator
        self.folder = Path(config.output_dir)
        self.network, self.processor = model, processor
        self.dataset, self.validation, self.report = training, validation, report
        clips_per_step = config.batch_size * config.gradient_accumulation_steps * accelerator.num_processes
        # A mixture is in an order of its own, in which every step has its shares.
        seed = None if isinstance(training, MixtureDataset) else config.seed
        self.sampler = EpochSampler(len(training), clips_per_step, seed)
        if len(self.sampler) == 0:
            raise ConfigError(
                f"{len(training)} clips an epoch are fewer than the {clips_per_step} of one step; lower batch_size or "
                "gradient_accumulation_steps, or raise clips_per_video."
            )
        sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        for name in ("ema_decay", "frozen_encoder_epochs", "lora_rank", "encoder_from_stills"):
            if sharded and getattr(config, name):
                raise ConfigError(f"Training with sharded weights has no {name}; leave it out.")
        # Counted now: later, a process may hold only its part. Adapters are merged before anything is saved.
        self.num_parameters = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)
        # What rests for some epochs or clips; without LoRA, all of the encoder.
        self.encoder_parameters = [p for p in model.salfom.encoder.parameters() if p.requires_grad]
        self.encoder_rests = False
        loading = {
            "collate_fn": collate_by_shape,
            "num_workers": config.num_workers,
            "worker_init_fn": outlive_signals,
        }
        # Workers begin as copies of this process. Those of the training data do so before it holds what training
        # needs; those of the validation data are made anew each time, or they would keep what it held at the first.
        lasting = {"persistent_workers": config.num_workers > 0}
        self.model, self.optimizer, self.loader, self.validation_loader = accelerator.prepare(
            model,
            make_optimizer(model, config),
            DataLoader(training, config.batch_size, sampler=self.sampler, **loading, **lasting),
            DataLoader(validation, config.batch_size, **loading),
        )
        self.teachers = None
        if config.teachers:
            dtype = PRECISIONS.get(accelerator.mixed_precision, torch.float32)
            self.teachers = Teachers(config.teachers, processor, accelerator.device, dtype)
        self.average = None
        if config.ema_decay:
            self.average = ExponentialMovingAverage(model.parameters(), config.ema_decay)
        steps = config.epochs * len(self.loader) // config.gradient_accumulation_steps
        self.total_steps = min(steps, config.max_steps or steps)
        self.progress = Progress(accelerator.num_processes)
        self.checkpoints = Checkpoints(self.folder / "checkpoints", config.keep_checkpoints, accelerator, self.average)
        self.asked_to_stop = 0  # by which signal

    def run(self) -> None:
        """
        Train to the end, or from where the last checkpoint is.

        Raises:
            TrainingStoppedError: the loss is not a number, or the process was stopped.
            CheckpointError: a checkpoint cannot be written or read.
        """
        previous = {number: signal.signal(number, self.note_stop) for number in ENDING}
        quiet = None if self.accelerator.is_main_process else True
        try:
            if self.config.resume:
                self.progress = self.checkpoints.load_last() or self.progress
            progress = self.progress
            with all_or_none(self.accelerator):
                self.open_log()
            self.bar = tqdm(total=self.total_steps, initial=progress.step, unit="step", disable=quiet)
            self.say(
                f"{len(self.dataset)} clips an epoch, {len(self.validation)} to validate on; "
                f"optimizer steps {progress.step} to {self.total_steps}."
            )
            self.began, self.losses = time.perf_counter(), []
            with self.bar:
                if self.config.model and progress.step == 0:
                    # What training starts from may be better than anything that comes of it.
                    self.validate()
                while not progress.finished:
                    self.finish_epoch()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @property
    def model_folder(self) -> Path:
        """Where the best model so far is."""
        return self.folder / "model"

    def note_stop(self, number: int, _) -> None:
        if self.asked_to_stop and number == signal.SIGINT:
            os._exit(128 + number)  # Ctrl-C once more: at once. Launchers may well send SIGTERM several times.
        self.asked_to_stop = self.asked_to_stop or number

    def finish_epoch(self) -> None:
        """What is left of the current epoch, and the validation that may be due after it."""
        progress = self.progress
        if progress.step < self.total_steps:
            self.train_epoch()
        trained = progress.step == self.total_steps
        due = trained or (progress.epoch + 1) % self.config.evaluate_every == 0
        if due:
            # Before, not after: a validation may take long, and can be done again.
            self.checkpoints.save(progress)
            self.validate()
        stopped_early = 0 < self.config.patience <= progress.validations_since_best
        if stopped_early and not trained:
            self.say(f"No better {self.config.metric} for {self.config.patience} validations: the run ends here.")
        progress.epoch, progress.batch, progress.finished = progress.epoch + 1, 0, trained or stopped_early
        if due:
            self.checkpoints.note(progress)

    def train_epoch(self) -> None:
        progress, config = self.progress, self.config
        self.dataset.set_epoch(progress.epoch)
        # accelerate's loaders count the passes over them, and tell the sampler.
        self.loader.set_epoch(progress.epoch)
        train_mode(self.model)
        self.encoder_rests = progress.epoch < config.frozen_encoder_epochs
        if self.encoder_rests:
            self.network.salfom.encoder.eval()
        losses = []
        for batches in skip_first_batches(self.loader, progress.batch) if progress.batch else self.loader:
            with self.accelerator.accumulate(self.model):
                set_rates(self.optimizer, rate_factor(progress.step, self.total_steps, config))
                # Stochastic depth is a function of how far the run is: resuming needs no state of the generators.
                torch.manual_seed(hash((config.seed, progress.epoch, progress.batch, self.accelerator.process_index)))
                loss = self.loss(batches)
                self.accelerator.backward(loss)
                losses.append(loss.detach())
                progress.batch += 1
                if self.accelerator.sync_gradients:
                    self.finish_step(torch.stack(losses).mean())
                    losses = []
            if progress.step == self.total_steps:
                break

    def loss(self, batches: list[dict]) -> torch.Tensor:
        """The mean over the clips, which come in batches of one shape each."""
        config, losses = self.config, []
        total = sum(len(batch["labels"]) for batch in batches)
        for batch in batches:
            clips, density, fixations = batch["pixel_values_videos"], batch["labels"], batch["fixations"]
            taught = self.teachers is not None and clips.shape[1] == 1  # Over whole clips it would take too long.
            if taught:
                count = round(config.teacher_cutmix * len(clips))
                clips, fixations = pasted(clips, fixations, count)
            rests = self.encoder_rests or (config.encoder_from_stills and clips.shape[1] > 1)
            with resting(self.encoder_parameters) if rests else nullcontext():
                logits = self.model(clips).logits
            if taught:
                weight = torch.full((len(clips),), config.teacher_weight, device=clips.device)
                weight[:count] = 1.0
                mirror = (self.progress.epoch + self.progress.batch) % 2 == 1
                density = self.teachers.labels(clips, density, weight, mirror)
            loss = saliency_loss(logits, density, **config.loss_weights, fixations=fixations)
            losses.append(loss * (len(clips) / total))
        if isinstance(self.model, DistributedDataParallel):
            # It waits for the gradient of every parameter. Stills have none for weights between frames, nor have clips
            # for an encoder that rests, and other processes may have other clips.
            losses += [0 * p.sum() for p in self.network.parameters() if p.requires_grad]
        return sum(losses)

    def finish_step(self, loss: torch.Tensor) -> None:
        """Update the weights, and do what is due after so many steps."""
        progress, config = self.progress, self.config
        if self.encoder_rests:
            for parameter in self.encoder_parameters:  # A gradient of 0 would let its weights decay.
                parameter.grad = None
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm or math.inf)
        # Gradients of float16 may overflow; the scaler then leaves the step out.
        fine = norm is None or self.accelerator.mixed_precision == "fp16" or bool(torch.isfinite(norm))
        loss, fine, stop = self.agreed(loss, fine)
        if not (fine and math.isfinite(loss)):
            raise TrainingStoppedError(self.diagnosis("The loss or its gradient"))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        progress.step += 1
        self.losses.append(loss)
        self.bar.update()
        if progress.step % config.log_every == 0 or progress.step == self.total_steps:
            self.log_training()
        if stop or (config.save_every and progress.step % config.save_every == 0):
            self.checkpoints.save(progress)
        if stop:
            raise self.stopped()

    def agreed(self, loss: torch.Tensor, fine: bool) -> tuple[float, bool, bool]:
        """What all processes say together: the mean loss, whether all are fine, whether any is to stop."""
        said = torch.stack([loss.float(), *(loss.new_tensor(float(flag)) for flag in (fine, self.asked_to_stop > 0))])
        loss, fine, stop = self.accelerator.reduce(said, "mean").tolist()
        return loss, fine == 1, stop > 0

    def validate(self) -> None:
        """
        Score the model, or its average, and keep it if it is the best so far.

        Raises:
            ConfigError: no validation clip has fixations.
        """
        progress, config = self.progress, self.config
        if self.average is not None:
            self.average.swap()
        try:
            scores = validate(self.model, self.validation_loader, self.accelerator, config.loss_weights, self.check)
            self.log({f"validation/{name}": value for name, value in scores.items()})
            value = scores[config.metric] * (-1 if config.metric in LESS_IS_BETTER else 1)
            if math.isnan(value):  # The clips do not define the metric: any other score is better.
                value = -math.inf
            if progress.best is None or value > progress.best:
                progress.best, progress.best_step, progress.validations_since_best = value, progress.step, 0
                self.save_model(scores)
            else:
                progress.validations_since_best += 1
            if config.pictures:
                self.save_pictures()
        finally:
            if self.average is not None:
                self.average.swap()
        self.began, self.losses = time.perf_counter(), []

    def check(self, fine: bool) -> None:
        """Between the batches of a validation: whether to go on."""
        _, fine, stop = self.agreed(torch.zeros((), device=self.accelerator.device), fine)
        if not fine:
            raise TrainingStoppedError(self.diagnosis("A prediction"))
        if stop:
            raise self.stopped()

    def diagnosis(self, what: str) -> str:
        # One of this very step has the weights that have failed.
        good = [path for path in self.checkpoints.found() if path != self.checkpoints.path(self.progress)]
        return (
            f"{what} is not a finite number after step {self.progress.step}; "
            + (f"{good[-1]} is the last good checkpoint. " if good else "there is no good checkpoint yet. ")
            + "In another --output-dir, lower the learning rates, set max_grad_norm, or use bf16 in place of fp16"
            + (f"; --model {self.model_folder} goes on from the best model." if self.model_folder.is_dir() else ".")
        )

    def stopped(self) -> TrainingStoppedError:
        step = self.progress.step
        done = f": step {step} is saved in {self.folder}" if step else " before the first step, so nothing is saved"
        # The signal may have reached another process, and not this one.
        return TrainingStoppedError(f"Stopped{done}; go on with --resume.", self.asked_to_stop or signal.SIGTERM)

    def save_model(self, scores: dict[str, float]) -> None:
        """Write the folder for `from_pretrained`, with processor, scores and card."""
        state = self.accelerator.get_state_dict(self.model)  # Collective where weights are sharded.
        with all_or_none(self.accelerator):
            if not self.accelerator.is_main_process:
                return
            network = self.network
            if self.config.lora_rank:
                network = copy.deepcopy(network)
                merge_lora(network)
                state = network.state_dict()
            dtype = getattr(torch, self.config.save_dtype)
            state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
            with atomic_output(self.model_folder, overwrite=True) as folder:
                network.save_pretrained(folder, state_dict=state)
                self.processor.save_pretrained(folder)
                self.report(folder, self, scores)

    def save_pictures(self) -> None:
        count = min(self.config.pictures, len(self.validation))
        clips = [self.validation[index * len(self.validation) // count] for index in range(count)]
        picture = draw(self.model, clips, self.processor, self.accelerator.device)
        with all_or_none(self.accelerator):
            if self.accelerator.is_main_process:
                self.save_picture(picture)

    def save_picture(self, picture: np.ndarray) -> None:
        path = self.folder / "pictures" / f"step-{self.progress.step:06d}.png"
        with atomic_output(path, overwrite=True) as temporary:
            Image.fromarray(picture).save(temporary)
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                order = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"validation": picture[None]}, step=self.progress.step, **order)

    def log_training(self) -> None:
        seconds = time.perf_counter() - self.began
        clips = self.config.batch_size * self.config.gradient_accumulation_steps * self.accelerator.num_processes
        rates: dict[str, float] = {}
        for group in self.optimizer.param_groups:
            rates[group["part"]] = max(group["lr"], rates.get(group["part"], 0.0))
        self.log(
            {
                "loss": sum(self.losses) / len(self.losses),
                **{f"rate/{part}": rate for part, rate in rates.items()},
                "clips_per_second": clips * len(self.losses) / seconds,
                "memory_gb": memory(self.accelerator.device) / 1e9,
            }
        )
        self.began, self.losses = time.perf_counter(), []

    def open_log(self) -> None:
        """Forget what an earlier process logged of steps that are now taken again."""
        if not self.accelerator.is_main_process:
            return
        now = self.progress
        # The validation after the checkpoint's last step may have to be done again.
        entries = [
            entry
            for entry in read_log(self.folder)
            if entry["step"] < now.step
            or (entry["step"] == now.step and (entry["epoch"] <= now.epoch or "loss" in entry))
        ]
        with atomic_output(self.folder / LOG, overwrite=True) as path:
            path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    def log(self, values: dict[str, float]) -> None:
        """A line for people, a line of JSON for programs, and the trackers."""
        step = self.progress.step
        self.accelerator.log(values, step=step)
        self.say(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
        if self.accelerator.is_main_process:
            with (self.folder / LOG).open("a") as file:
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


def memory(device: torch.device) -> int:
    """Memory in bytes: the most of the GPU so far, else what the process has now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss


def outlive_signals(worker: int) -> None:
    """For processes that read clips: a signal to all processes of a run must not end them before the run is saved."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


__all__ = ["ENDING", "LOG", "Trainer", "TrainingStoppedError", "read_log"]
