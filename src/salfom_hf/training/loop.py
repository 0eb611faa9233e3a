"""The training loop: batches in, a trained model, checkpoints, log lines and pictures out."""

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator, DistributedType, skip_first_batches
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ..data import MixtureDataset, collate_by_shape
from ..files import ENDING, atomic_output, on_signals
from ..inference.processes import all_or_none
from ..metrics import LOWER_IS_BETTER
from ..models.losses import saliency_loss
from .card import write_report
from .checkpoints import Checkpoints, Progress, checkpoints_of
from .config import TrainingConfig, demand
from .data import EpochSampler, build_clips
from .log import Log
from .model import build_model, merged_lora, resting, train_mode
from .optimizer import make_optimizer, set_rates
from .validation import draw, validate

MODEL = "model"  # in the folder of a run


class TrainingStoppedError(Exception):
    """The run ends before its time, with nothing lost; the message says why and how to go on."""

    def __init__(self, message: str, signal: int = 0):
        super().__init__(message)
        self.signal = signal  # that stopped it; 0 if none did


class Trainer:
    """
    One training run.

    Everything random is a function of the seed and of how far the run is, and checkpoints are written between
    optimizer steps, so a resumed run takes exactly the steps that an uninterrupted one takes.
    """

    def __init__(self, config: TrainingConfig, accelerator: Accelerator):
        self.config, self.accelerator, self.folder = config, accelerator, Path(config.output_dir)
        # The first process fills the caches, of the Hub and of the datasets; the others read them.
        for first in (True, False):
            with all_or_none(accelerator):
                if accelerator.is_main_process == first:
                    self.network, self.processor = build_model(config)
                    self.dataset, self.validation = build_clips(config, self.processor)
        model, clips = self.network, len(self.dataset)
        self.model_folder = self.folder / MODEL
        self.clips_per_step = config.batch_size * config.gradient_accumulation_steps * accelerator.num_processes
        # A mixture is in an order of its own, in which every step has its shares.
        seed = None if isinstance(self.dataset, MixtureDataset) else config.seed
        sampler = EpochSampler(clips, self.clips_per_step, seed)
        demand(
            len(sampler),
            f"{clips} clips an epoch are fewer than the {self.clips_per_step} of one step; lower batch_size or "
            "gradient_accumulation_steps, or raise clips_per_video.",
        )
        sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        for name in ("ema_decay", "average_with_start", "frozen_encoder_epochs", "lora_rank", "encoder_from_stills"):
            fine = not (sharded and getattr(config, name))
            demand(fine, f"Training with sharded weights has no {name}; leave it out.")
        # Counted now: later, a process may hold only its part. Adapters are merged before anything is saved.
        self.num_parameters = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)
        # What rests for some epochs or clips; without LoRA, all of the encoder.
        self.encoder_parameters = [p for p in model.salfom.encoder.parameters() if p.requires_grad]
        self.encoder_rests = False
        options: dict[str, Any] = {"batch_size": config.batch_size, "num_workers": config.num_workers}
        options |= {"collate_fn": collate_by_shape, "worker_init_fn": outlive_signals}
        # Workers begin as copies of this process. Those of the training data do so before it holds what training
        # needs; those of the validation data are made again each time, or they would keep what it held at the first.
        self.model, self.optimizer, self.loader, self.validation_loader = accelerator.prepare(
            model,
            make_optimizer(model, config),
            DataLoader(self.dataset, sampler=sampler, persistent_workers=config.num_workers > 0, **options),
            DataLoader(self.validation, **options),
        )
        # Averages over the steps, and, before a checkpoint is loaded, what the model was at step 0.
        self.weights: list[torch.Tensor] = list(model.parameters())
        self.trained = [p for p in self.weights if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.trained if config.ema_decay]
        self.start = [p.detach().clone() for p in self.weights if config.average_with_start]
        steps = config.epochs * len(self.loader) // config.gradient_accumulation_steps
        self.total_steps = min(steps, config.max_steps or steps)
        self.progress = Progress(accelerator.num_processes)
        self.checkpoints = Checkpoints(self.folder, config.keep_checkpoints, accelerator, self.averages)
        self.asked_to_stop = 0  # by which signal
        self.losses: list[float] = []  # since the last log line, which `began` is the time of

    def run(self) -> None:
        """Train to the end, or from where the last checkpoint is."""
        config = self.config
        with on_signals(self.note_stop):
            if config.resume:
                self.progress = self.checkpoints.load_last() or self.progress
            progress = self.progress
            self.log = Log(self.folder, self.accelerator, progress, self.total_steps)
            self.log.say(
                f"{len(self.dataset)} clips an epoch, {len(self.validation)} to validate on; "
                f"optimizer steps {progress.step} to {self.total_steps}."
            )
            self.began = time.perf_counter()
            with self.log.bar:
                if config.model and progress.step == 0:
                    # What training starts from may be better than anything that comes of it.
                    self.validate()
                while not progress.finished:
                    if progress.step < self.total_steps:
                        self.train_epoch()
                    trained = progress.step == self.total_steps
                    due = trained or (progress.epoch + 1) % config.evaluate_every == 0
                    if due:
                        # Before, not after: a validation may take long, and can be done again.
                        self.checkpoints.save(progress)
                        self.validate()
                    ended = 0 < config.patience <= progress.validations_since_best
                    if ended and not trained:
                        self.log.say(
                            f"No better {config.metric} for {config.patience} validations: the run ends here."
                        )
                    progress.epoch, progress.batch, progress.finished = progress.epoch + 1, 0, trained or ended
                    if due:
                        self.checkpoints.note(progress)

    def note_stop(self, number: int, _: object) -> None:
        if self.asked_to_stop and number == signal.SIGINT:
            os._exit(128 + number)  # Ctrl-C once more: at once. Launchers may well send SIGTERM several times.
        self.asked_to_stop = self.asked_to_stop or number

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
                set_rates(self.optimizer, progress.step, self.total_steps, config)
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
            clips = batch["pixel_values_videos"]
            rests = self.encoder_rests or (config.encoder_from_stills and clips.shape[1] > 1)
            with resting(self.encoder_parameters) if rests else nullcontext():
                logits = self.model(clips).logits
            loss = saliency_loss(logits, batch["labels"], **config.loss_weights, fixations=batch["fixations"])
            losses.append(loss * (len(clips) / total))
        if isinstance(self.model, DistributedDataParallel):
            # It waits for the gradient of every parameter. Stills have none for weights between frames, nor have clips
            # for an encoder that rests, and other processes may have other clips.
            losses += [0 * p.sum() for p in self.network.parameters() if p.requires_grad]
        return sum(losses[1:], losses[0])

    def finish_step(self, loss: torch.Tensor) -> None:
        """Update the weights, and do what is due after so many steps."""
        progress, config = self.progress, self.config
        if self.encoder_rests:
            for parameter in self.encoder_parameters:  # A gradient of 0 would let its weights decay.
                parameter.grad = None
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm or math.inf)
        # Gradients of float16 may overflow; the scaler then leaves the step out.
        fine = norm is None or self.accelerator.mixed_precision == "fp16" or bool(torch.isfinite(norm))
        mean, stop = self.agreed("The loss or its gradient", fine, loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        progress.step += 1
        if self.averages:
            # Less in the first steps, when it would hold on to the start.
            decay = min(config.ema_decay, (progress.step + 1) / (progress.step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.trained, 1 - decay)
        self.losses.append(mean)
        self.log.bar.update()
        if progress.step % config.log_every == 0 or progress.step == self.total_steps:
            self.log_training()
        if stop or (config.save_every and progress.step % config.save_every == 0):
            self.checkpoints.save(progress)
        if stop:
            raise self.stopped()

    def agreed(self, what: str, fine: bool, loss: torch.Tensor) -> tuple[float, bool]:
        """Of all processes the mean loss, and whether one is to stop; all fail where one finds no finite numbers."""
        flags = (loss.new_tensor(float(flag)) for flag in (fine, self.asked_to_stop > 0))
        mean, all_fine, stop = self.accelerator.reduce(torch.stack([loss.float(), *flags]), "mean").tolist()
        if all_fine == 1 and math.isfinite(mean):
            return mean, stop > 0
        # A checkpoint of this very step has the weights that have failed.
        good = [path for path in checkpoints_of(self.folder) if path != self.checkpoints.path(self.progress)]
        raise TrainingStoppedError(
            f"{what} is not a finite number after step {self.progress.step}; "
            + (f"{good[-1]} is the last good checkpoint. " if good else "there is no good checkpoint yet. ")
            + "In another --output-dir, lower the learning rates, set max_grad_norm, or use bf16 in place of fp16"
            + (f"; --model {self.model_folder} goes on from the best model." if self.model_folder.is_dir() else ".")
        )

    def log_training(self) -> None:
        seconds = time.perf_counter() - self.began
        rates: dict[str, float] = {}
        for group in self.optimizer.param_groups:
            name = f"rate/{group['part']}"
            rates[name] = max(group["lr"], rates.get(name, 0.0))
        on_gpu = self.accelerator.device.type == "cuda"
        memory = torch.cuda.max_memory_allocated() if on_gpu else psutil.Process().memory_info().rss
        loss, speed = sum(self.losses) / len(self.losses), self.clips_per_step * len(self.losses) / seconds
        self.log.write({"loss": loss, **rates, "clips_per_second": speed, "memory_gb": memory / 1e9})
        self.began, self.losses = time.perf_counter(), []

    def validate(self) -> None:
        """Score the weights that are to be saved, and keep them if they are the best so far."""
        progress, config = self.progress, self.config
        with self.averaged():
            scores = validate(self.model, self.validation_loader, self.accelerator, config.loss_weights, self.check)
            self.log.write({f"validation/{name}": value for name, value in scores.items()})
            value = scores[config.metric] * (-1 if config.metric in LOWER_IS_BETTER else 1)
            value = -math.inf if math.isnan(value) else value  # Where the clips do not define the metric.
            if progress.best is None or value > progress.best:
                progress.best, progress.best_step, progress.validations_since_best = value, progress.step, 0
                self.save_model(scores)
            else:
                progress.validations_since_best += 1
            if count := min(config.pictures, len(self.validation)):
                clips = [self.validation[index * len(self.validation) // count] for index in range(count)]
                self.log.draw(draw(self.model, clips, self.processor, self.accelerator.device))
        self.began, self.losses = time.perf_counter(), []

    @contextmanager
    @torch.no_grad()
    def averaged(self) -> Iterator[None]:
        """Inside, the model has its averages over the steps, and of these the mean with what it was at the start."""
        kept = [p.clone() for p in self.weights if self.averages or self.start]
        try:
            if self.averages:
                torch._foreach_copy_(self.trained, self.averages)
            if self.start:
                torch._foreach_lerp_(self.weights, self.start, self.config.average_with_start)
            yield
        finally:
            if kept:
                torch._foreach_copy_(self.weights, kept)

    def check(self, fine: bool) -> None:
        """Between the batches of a validation: whether to go on."""
        _, stop = self.agreed("A prediction", fine, torch.zeros((), device=self.accelerator.device))
        if stop:
            raise self.stopped()

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
            if self.config.lora_rank:
                state = merged_lora(self.network)
            dtype = getattr(torch, self.config.save_dtype)
            state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
            at = self.progress
            counts = {"step": at.step, "epoch": at.epoch + 1, "training_clips": len(self.dataset)}
            counts |= {"parameters": self.num_parameters, "clips_per_step": self.clips_per_step}
            with atomic_output(self.model_folder, overwrite=True) as folder:
                self.network.save_pretrained(folder, state_dict=state)
                self.processor.save_pretrained(folder)
                write_report(folder, self.config, self.accelerator, scores, counts, self.total_steps)


def outlive_signals(worker: int) -> None:
    """For processes that read clips: a signal to all processes of a run must not end them before the run is saved."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
