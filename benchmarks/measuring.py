"""What the benchmarks share: clocks, memory, and how their numbers are written down."""

import json
import multiprocessing
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch
import transformers

from salfom_hf import __version__
from salfom_hf.files import atomic_output
from salfom_hf.inference.profiling import aligned


def timed(function: Callable[[], torch.Tensor]) -> float:
    """Seconds of a call, until its result is there."""
    begin = time.perf_counter()
    function().cpu()
    return time.perf_counter() - begin


def memory_status(name: str) -> float | None:
    """MiB that this process holds (`VmRSS`), or held at its peak (`VmHWM`); `None` where Linux does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) / 1024


def in_own_process(function: Callable, *arguments):
    """
    What a function gives in a fresh process, whose peak memory is its own.

    Raises:
        BrokenProcessPool: the process ended without a result; the system may have run out of memory.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def machine_name(device: torch.device) -> str:
    """Such as `"AMD EPYC 9654"`, or the name of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def circumstances(device: str = "cpu") -> dict:
    """What a measurement's numbers depend on: where, with what, and next to what other work they are taken."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine_name(torch.device(device)),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "package": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def described(about: dict) -> str:
    """Circumstances in one line."""
    return (
        f"{about['machine']}, {about['processors']} processors, {about['threads']} threads, load average before "
        f"{about['load average']}; PyTorch {about['torch']}, salfom-hf {about['package']}"
    )


def table(columns: dict[str, str], rows: Sequence[dict]) -> str:
    """
    Rows in markdown.

    Args:
        columns: name to format.
        rows: name to value; `None` is printed as a dash.
    """
    cells = [["–" if row[name] is None else form.format(row[name]) for name, form in columns.items()] for row in rows]
    return "\n".join(aligned(list(columns), cells))


def tell(about: dict, told: str, output: Path | None, **numbers) -> None:
    """Print what was found; write it, with its circumstances and all numbers, to a JSON file if one is named."""
    print(told)
    if output is not None:
        report = about | numbers | {"markdown": told}
        with atomic_output(output, overwrite=True) as temporary:
            temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
