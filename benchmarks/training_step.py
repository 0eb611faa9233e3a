"""
One training step: peak memory and samples per second, with and without gradient checkpointing, side by side.

    python benchmarks/training_step.py --threads 2 -o docs/measured/training-step.json
    python benchmarks/training_step.py --device cuda --model salfom-large --batch-size 1 8 --dtype bfloat16 --ddp

Steps are those of `salfom_hf.train`: mixed precision by accelerate, the paper's loss, clipped gradients, AdamW.
Weights and clips are random, and no data are read. Every combination runs in a process of its own; samples per second
are of the median step. Memory on a GPU is what tensors take at the peak, elsewhere what the process held (Linux).
"""

import argparse
import statistics
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from measuring import circumstances, described, in_own_process, memory_status, table, tell, timed
from salfom_hf.inference.benchmarking import random_model
from salfom_hf.models.losses import saliency_loss
from salfom_hf.training.config import TrainingConfig
from salfom_hf.training.model import train_mode
from salfom_hf.training.optimizer import make_optimizer

# Of the gradients' norm, as the presets have it.
LIMIT = 2.0
COLUMNS = {
    "model": "{}",
    "device": "{}",
    "dtype": "{}",
    "batch": "{}",
    "gradient checkpointing": "{}",
    "samples per second": "{:.3g}",
    "peak memory, GiB": "{:.2f}",
}


def measured(
    name: str,
    device: str,
    dtype: str,
    batch_size: int,
    checkpointing: bool,
    steps: int,
    threads: int | None,
    limit: float | None,
    ddp: bool,
) -> tuple[list[float], float] | None:
    """(seconds of each step, peak GiB of this process or of the device), or `None` if the memory is not enough."""
    if threads:
        torch.set_num_threads(threads)
    if device == "cpu" and limit:
        import resource

        # Rather an error of this process than the end of another one.
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 2**30),) * 2)
    try:
        seconds = step_times(name, device, dtype, batch_size, checkpointing, steps, ddp)
    except RuntimeError as error:
        # PyTorch has no class of its own for a CPU that runs out of memory.
        if "memory" not in str(error):
            raise
        return None
    peak = torch.cuda.max_memory_allocated() / 2**30 if device != "cpu" else memory_status("VmHWM") / 1024
    return seconds, peak


def step_times(
    name: str, device: str, dtype: str, batch_size: int, checkpointing: bool, steps: int, ddp: bool
) -> list[float]:
    """Seconds of each step but the first, which makes what the optimizer keeps."""
    accelerator = Accelerator(mixed_precision={"float32": "no", "bfloat16": "bf16"}[dtype], cpu=device == "cpu")
    model = random_model(name)
    if model.salfom.adapter.framewise:
        model.salfom.encoder.to(memory_format=torch.channels_last)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model, optimizer = accelerator.prepare(model, make_optimizer(model, TrainingConfig()))
    train_mode(model)
    config = model.config
    if ddp:
        # accelerate wraps models of several processes only.
        options = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
        dist.init_process_group("nccl" if device == "cuda" else "gloo", **options)
        model = DistributedDataParallel(model)
    height, width = config.image_height_width
    clips = torch.randn(batch_size, config.num_frames, 3, height, width, device=accelerator.device)
    density = torch.rand(batch_size, height, width, device=accelerator.device)

    def step() -> torch.Tensor:
        loss = saliency_loss(model(clips).logits, density)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), LIMIT)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return [timed(step) for _ in range(steps + 1)][1:]


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["salfom", "salfom-large"], help="names or folders")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1], help="clips per step, default 1")
    parser.add_argument("--steps", type=int, default=3, help="that are timed, after one more; default %(default)s")
    parser.add_argument("--ddp", action="store_true", help="wrapped as in training by several processes, but in one")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each combination, default %(default)s")
    parser.add_argument("--threads", type=int, help="default: PyTorch's choice")
    parser.add_argument(
        "--memory",
        type=float,
        default=20.0,
        help="GiB a process on the CPU may take, default %(default)s; 0: all",
    )
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    args = parser.parse_args(given)
    if args.threads:
        torch.set_num_threads(args.threads)  # For what is written down; other processes set their own.
    about = circumstances(args.device)

    combinations = list(product(args.model, args.dtype, args.batch_size, (False, True)))
    found = {combination: [] for combination in combinations}
    with tqdm(total=args.rounds * len(combinations), unit="run", disable=None) as bar:
        for _ in range(args.rounds):
            for name, dtype, batch_size, checkpointing in combinations:
                bar.set_description(f"{name} {dtype} batch {batch_size}{' checkpointing' * checkpointing}")
                run = partial(in_own_process, measured, name, args.device, dtype, batch_size, checkpointing)
                try:
                    result = run(args.steps, args.threads, args.memory, args.ddp)
                except BrokenProcessPool:  # The system has ended it.
                    result = None
                found[name, dtype, batch_size, checkpointing].append(result)
                bar.update()

    rows = []
    for (name, dtype, batch_size, checkpointing), runs in found.items():
        fine = [run for run in runs if run is not None]
        row = {"model": name, "device": args.device, "dtype": dtype, "batch": batch_size}
        row |= {
            "gradient checkpointing": "yes" if checkpointing else "no",
            "seconds": [second for run in fine for second in run[0]],
        }
        row |= {"samples per second": None, "peak memory, GiB": None}
        if len(fine) == len(runs):
            row["samples per second"] = batch_size / statistics.median(row["seconds"])
            row["peak memory, GiB"] = max(run[1] for run in fine)
        rows.append(row)
    told = f"Random weights and clips{', wrapped for DDP' * args.ddp}. {described(about)}.\n\n{table(COLUMNS, rows)}"
    if any(row["samples per second"] is None for row in rows):
        told += "\n\nA dash: the memory was not enough" + (
            f"; a process could take {args.memory:g} GiB." if args.memory and args.device == "cpu" else "."
        )
    tell(about, told, args.output, rows=rows)


if __name__ == "__main__":
    main()
