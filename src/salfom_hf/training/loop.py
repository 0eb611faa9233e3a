"""The training loop: batches in, a trained model, checkpoints, log lines and pictures out."""

import copy
import math
import os
import signal
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator, DistributedType, skip_first_batches
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import ConcatDataset, DataLoader

from ..data import MixtureDataset, collate_by_shape
from ..files import ENDING, atomic_output, on_signals
from ..inference.processes import all_or_none
from ..models.losses import saliency_loss
from ..models.modeling_salfom import SalFoMForVideoSaliencyPrediction
from ..models.video_processing_salfom import SalFoMVideoProcessor
from .card import write_report
from .checkpoints import CHECKPOINTS, Checkpoints, Progress
from .config import ConfigError, TrainingConfig
from .data import EpochSampler, TrainingClips
from .log import Log
from .model import merge_lora, resting, train_mode
from .optimizer import ExponentialMovingAverage, make_optimizer, set_rates
from .validation import draw, validate

MODEL = "model"  # in the folder of a run
# Greater is better, but for this one.
LESS_IS_BETTER = ("kldiv",)


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

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        model: SalFoMForVideoSaliencyPrediction,
        processor: SalFoMVideoProcessor,
        training: TrainingClips,
        validation: ConcatDataset,
    ):
        self.config, self.accelerator = config, accelerator
        self.folder = Path(config.output_dir)
        self.network, self.processor = model, processor
        self.dataset, self.validation = training, validation
        self.clips_per_step = config.batch_size * config.gradient_accumulation_steps * accelerator.num_processes
        # A mixture is in an order of its own, in which every step has its shares.
        seed = None if isinstance(training, MixtureDataset) else config.seed
        sampler = EpochSampler(len(training), self.clips_per_step, seed)
        if len(sampler) == 0:
            raise ConfigError(
                f"{len(training)} clips an epoch are fewer than the {self.clips_per_step} of one step; lower "
                "batch_size or gradient_accumulation_steps, or raise clips_per_video."
            )
        sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        for name in ("ema_decay", "average_with_start", "frozen_encoder_epochs", "lora_rank", "encoder_from_stills"):
            if sharded and getattr(config, name):
                raise ConfigError(f"Training with sharded weights has no {name}; leave it out.")
        # Counted now: later, a process may hold only its part. Adapters are merged before anything is saved.
        self.num_parameters = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name)
        # What rests for some epochs or clips; without LoRA, all of the encoder.
        self.encoder_parameters = [p for p in model.salfom.encoder.parameters() if p.requires_grad]
        self.encoder_rests = False
        loader = partial(
            DataLoader,
            batch_size=config.batch_size,
            collate_fn=collate_by_shape,
            num_workers=config.num_workers,
            worker_init_fn=outlive_signals,
        )
        # Workers begin as copies of this process. Those of the training data do so before it holds what training
        # needs; those of the validation data are made again each time, or they would keep what it held at the first.
        self.model, self.optimizer, self.loader, self.validation_loader = accelerator.prepare(
            model,
            make_optimizer(model, config),
            loader(training, sampler=sampler, persistent_workers=config.num_workers > 0),
            loader(validation),
        )
        self.average = None
        if config.ema_decay:
            self.average = ExponentialMovingAverage(model.parameters(), config.ema_decay)
        # Before a checkpoint is loaded: what the model was at step 0, also in a run that goes on.
        self.start = [p.detach().clone() for p in model.parameters()] if config.average_with_start else []
        steps = config.epochs * len(self.loader) // config.gradient_accumulation_steps
        self.total_steps = min(steps, config.max_steps or steps)
        self.progress = Progress(accelerator.num_processes)
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, config.keep_checkpoints, accelerator, self.average)
        self.asked_to_stop = 0  # by which signal

    @property
    def model_folder(self) -> Path:
        """Where the best model so far is."""
        return self.folder / MODEL

    def run(self) -> None:
        """Train to the end, or from where the last checkpoint is."""
        with on_signals(self.note_stop):
            if self.config.resume:
                self.progress = self.checkpoints.load_last() or self.progress
            progress = self.progress
            self.log = Log(self.folder, self.accelerator, progress, self.total_steps)
            self.log.say(
                f"{len(self.dataset)} clips an epoch, {len(self.validation)} to validate on; "
                f"optimizer steps {progress.step} to {self.total_steps}."
            )
            self.began, self.losses = time.perf_counter(), []
            with self.log.bar:
                if self.config.model and progress.step == 0:
                    # What training starts from may be better than anything that comes of it.
                    self.validate()
                while not progress.finished:
                    self.finish_epoch()

    def note_stop(self, number: int, _: object) -> None:
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
            self.log.say(f"No better {self.config.metric} for {self.config.patience} validations: the run ends here.")
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
        if self.average is not None:
            self.average.update()
        progress.step += 1
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
        good = [path for path in self.checkpoints.found() if path != self.checkpoints.path(self.progress)]
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
        """Score the model, or its average, and keep it if it is the best so far."""
        progress, config = self.progress, self.config
        if self.average is not None:
            self.average.swap()
        kept = [p.detach().clone() for p in self.network.parameters()] if self.start else []
        try:
            self.move_weights(self.start, config.average_with_start)
            scores = validate(self.model, self.validation_loader, self.accelerator, config.loss_weights, self.check)
            self.log.write({f"validation/{name}": value for name, value in scores.items()})
            value = scores[config.metric] * (-1 if config.metric in LESS_IS_BETTER else 1)
            value = -math.inf if math.isnan(value) else value  # Where the clips do not define the metric.
            if progress.best is None or value > progress.best:
                progress.best, progress.best_step, progress.validations_since_best = value, progress.step, 0
                self.save_model(scores)
            else:
                progress.validations_since_best += 1
            if config.pictures:
                self.save_pictures()
        finally:
            self.move_weights(kept)
            if self.average is not None:
                self.average.swap()
        self.began, self.losses = time.perf_counter(), []

    @torch.no_grad()
    def move_weights(self, others: list[torch.Tensor], share: float = 1.0) -> None:
        """Move the model's weights by a share of the way towards other ones; none: not at all."""
        if others:
            torch._foreach_lerp_(list(self.network.parameters()), others, share)

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
                write_report(folder, self, scores)

    def save_pictures(self) -> None:
        count = min(self.config.pictures, len(self.validation))
        clips = [self.validation[index * len(self.validation) // count] for index in range(count)]
        self.log.draw(draw(self.model, clips, self.processor, self.accelerator.device))


def outlive_signals(worker: int) -> None:
    """For processes that read clips: a signal to all processes of a run must not end them before the run is saved."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
