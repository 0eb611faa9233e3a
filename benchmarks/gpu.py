"""Everything that only a GPU can tell, in one command of less than eight minutes.

    python benchmarks/gpu.py docs/measured

Tests that need a GPU come first, then the paper's model with random weights, its training step, `salfom predict` on
the example clip, the light model, and the paper's model compiled. Each part is a process of its own with a limit of
time. Tables (gpu.md) and numbers (gpu.json) are written anew after every part, so that a run that is cut off leaves
what it had.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import ProfilerActivity

from measuring import circumstances, described, table, tell
from salfom_hf import SalFoMVideoProcessor, SaliencyPredictor
from salfom_hf.inference import predictor
from salfom_hf.inference.benchmarking import EXAMPLE
from salfom_hf.inference.cpu import exact_float32
from salfom_hf.inference.profiling import Profile
from salfom_hf.inference.results import write
from salfom_hf.inference.threads import ahead
from salfom_hf.models.video_processing_salfom import frames_of
from salfom_hf.video.reading import probe

HERE = Path(__file__).parent
TESTS = ("parity", "metrics", "predictor", "cli", "training_processes")
# Frames that are decoded before they are asked for, where that is tried.
AHEAD = 8
COLUMNS = {
    "dtype": "{}",
    "batch": "{}",
    "way": "{}",
    "frames per second": "{:.1f}",
    "GPU busy": "{:.0%}",
    "difference": "{:.1e}",
    "correlation": "{:.6f}",
}


def parts(device: str, model: str) -> dict[str, tuple[int, list[str]]]:
    """Name to (seconds that it may take, command without `python`), the most important first."""
    on, ways = ["--device", device], str(HERE / "ways.py")
    tests = [str(HERE.parent / "tests" / f"test_{name}.py") for name in TESTS]
    large = [ways, "--model", model, "--random-weights", *on, "--rounds", "1"]
    step = [str(HERE / "training_step.py"), "--model", model, *on, "--dtype", "bfloat16", "--memory", "0"]
    half = ["--dtype", "bfloat16", "--batch-size"]
    return {
        "Tests that need a GPU": (150, ["-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-k", "gpu", *tests]),
        "The paper's model": (60, [*large, *half, "1", "8", "16"]),
        "A training step of the paper's model": (110, [*step, "--batch-size", "8"]),
        "From file to file": (120, [str(HERE / "gpu.py"), "--file-to-file", *on]),
        "The light model": (60, [ways, *on, "--rounds", "1", "--batch-size", "1", "4", "16"]),
        "A training step, wrapped for several processes": (60, [*step, "--batch-size", "8", "--ddp"]),
        "The paper's model, compiled": (200, [*large, *half, "1", "8", "--compile", "default"]),
    }


def decoded_ahead(*arguments: object) -> Generator:
    """As [`frames_of`], by a thread that is some frames ahead."""
    return ahead(frames_of(*arguments), AHEAD)


def pinned(
    *arguments: object, prepare: Callable = SalFoMVideoProcessor.prepare_frames, **options: object
) -> torch.Tensor:
    """As `prepare_frames`, in memory that a GPU reads by itself."""
    return prepare(*arguments, **options).pin_memory()


# What each has in place of what is in use.
WAYS = {
    "as it is": (None, "", None),
    "windows share layers": (predictor, "can_share_windows", lambda _: True),
    "decoded ahead": (predictor, "frames_of", decoded_ahead),
    "from pinned memory": (SalFoMVideoProcessor, "prepare_frames", pinned),
}


def predict(network: SaliencyPredictor, output: Path, way: str) -> float:
    """Seconds for the overlay of the example clip."""
    begin = time.perf_counter()
    where, name, function = WAYS[way]
    with patch.object(where, name, function) if where else nullcontext():
        write(network.stream(EXAMPLE), output, "overlay", probe(EXAMPLE), overwrite=True)
    return time.perf_counter() - begin


def busy_share(network: SaliencyPredictor, output: Path, way: str) -> float | None:
    """The share of the time in which the GPU computes or copies; `None` without one."""
    if network.model.device.type == "cpu":
        return None
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as recorded:
        seconds = predict(network, output, way)
    on_device = sum(event.self_device_time_total for event in recorded.key_averages())
    return on_device / 1e6 / seconds


def file_to_file(device: str, output: Path | None) -> None:
    """`salfom predict` on the example clip: maps against the CPU's, speed, and where the time goes."""
    about = circumstances(device)
    exact_float32()
    info = probe(EXAMPLE)
    expected = SaliencyPredictor.from_pretrained("salfom").predict(EXAMPLE)
    rows, tables = [], []
    for dtype, batch_size in (("bfloat16", 16), ("float32", 16)):
        network = SaliencyPredictor.from_pretrained("salfom", device, getattr(torch, dtype), batch_size=batch_size)
        maps = network.predict(EXAMPLE)
        shared = {"dtype": dtype, "batch": batch_size, "difference": float(np.abs(maps - expected).max())}
        shared |= {"correlation": float(np.corrcoef(maps.ravel(), expected.ravel())[0, 1])}
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder) / "overlay.mp4"
            ways = [way for way in WAYS if way != "from pinned memory" or device != "cpu"]
            for way in ways:
                predict(network, video, way)  # What is tuned or allocated once does not count.
                found = [predict(network, video, way) for _ in range(2)]
                rate, busy = len(expected) / statistics.median(found), busy_share(network, video, way)
                rows.append(shared | {"way": way, "frames per second": rate, "GPU busy": busy, "seconds": found})
            with Profile() as profile:
                passed = predict(network, video, "as it is")
        tables.append(f"{dtype}, batch {batch_size}; the GPU is waited for after every stage\n"
                      + profile.table(len(expected), passed, info.frame_rate))  # fmt: skip
        told = f"salfom, the overlay of the example clip, {info.width}×{info.height}. {described(about)}."
        told += f"\n\n{table(COLUMNS, rows)}\n\n```text\n" + "\n\n".join(tables) + "\n```"
        tell(about, told, output, rows=rows)


def run(command: list[str], limit: float, log: Path) -> tuple[int | None, str]:
    """(exit code, or `None` where time ran out; output)."""
    with log.open("w") as opened:
        started = subprocess.Popen([sys.executable, *command], stdout=opened, stderr=opened, start_new_session=True)
        try:
            code = started.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(started.pid, signal.SIGKILL)  # With the processes that it has started, which hold the GPU.
            started.wait()
    return code, log.read_text()


def summary(lines: Iterable[str]) -> str:
    """Of pytest's output: what the tests have measured and how they ended."""
    return "\n".join(line for line in lines if re.search(r"correlation|passed|failed|FAILED|ERROR|Error", line))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, nargs="?", help="folder for gpu.md and gpu.json")
    parser.add_argument("--device", default="cuda", help="cpu to rehearse")
    parser.add_argument("--model", default="salfom-large", help="a small one to rehearse")
    parser.add_argument("--seconds", type=float, default=460, help="for all parts together, default %(default)s")
    parser.add_argument("--file-to-file", action="store_true", help="only that part, in this process")
    parser.add_argument("-o", dest="report", type=Path, help="JSON file of that part")
    args = parser.parse_args()
    if args.file_to_file:
        file_to_file(args.device, args.report)
        return
    args.output.mkdir(parents=True, exist_ok=True)
    about, end = circumstances(args.device), time.monotonic() + args.seconds
    found, told = {}, [f"{described(about)}."]
    with tempfile.TemporaryDirectory() as folder:
        for name, (limit, command) in parts(args.device, args.model).items():
            report, begin = Path(folder) / "part.json", time.monotonic()
            report.unlink(missing_ok=True)
            writes = [] if "pytest" in command else ["-o", str(report)]
            left = min(limit, end - begin)
            code, output = run([*command, *writes], left, Path(folder) / "log") if left > 0 else (None, "")
            print(f"== {name}: {code}, {time.monotonic() - begin:.0f} s\n{output[-3000:]}", flush=True)
            numbers = json.loads(report.read_text()) if report.exists() else {"output": output[-20000:]}
            found[name] = numbers | {"exit code": code, "seconds": time.monotonic() - begin}
            text = numbers.get("markdown") or f"```text\n{summary(output.splitlines())}\n```"
            if code:
                text += f"\n\nFailed with exit code {code}."
            elif code is None:
                text += "\n\nNot measured: time ran out."
            told.append(f"### {name}\n\n{text}")
            (args.output / "gpu.md").write_text("\n\n".join(told) + "\n", encoding="utf-8")
            document = about | {"markdown": "\n\n".join(told), "parts": found}
            (args.output / "gpu.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
