"""Start-up: CPU and wall time of imports and commands, each in a fresh process; the median of several runs.

    python benchmarks/startup.py -o docs/measured/startup.json

The last lines are `salfom predict` from nothing to the first map of a clip of one frame, and of a picture of 640×360
to its overlay, both written as a file.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from PIL import Image

from measuring import circumstances, described, table, tell

SALFOM = ("-m", "salfom_hf.cli")
COLUMNS = {"": "{}", "processor time, s": "{:.1f}", "by the clock, s": "{:.1f}"}


def write_frame(path: Path) -> None:
    """A video of one frame of 640×360, and the same as a picture."""
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        pixels = np.random.default_rng(0).integers(0, 256, (360, 640, 3), dtype=np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    Image.fromarray(pixels).save(path.with_suffix(".jpg"))


def measured(arguments: tuple[str, ...]) -> tuple[float, float]:
    """(CPU time, wall time) in seconds of Python with these arguments."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="default %(default)s")
    parser.add_argument("--video", type=Path, help="predict its first 0.03 seconds; default: noise, 640×360")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    args = parser.parse_args(given)
    about = circumstances()
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.mp4"
        write_frame(frame)
        video = args.video or frame
        predict = ("predict", str(video), "-o", f"{folder}/map.npz", "--format", "npz", "--overwrite")
        commands = {
            "import torch": ("-c", "import torch"),
            "from transformers import PreTrainedModel": ("-c", "from transformers import PreTrainedModel"),
            "import salfom_hf": ("-c", "import salfom_hf"),
            "from salfom_hf import SaliencyPredictor": ("-c", "from salfom_hf import SaliencyPredictor"),
            "salfom --version": (*SALFOM, "--version"),
            "salfom --help": (*SALFOM, "--help"),
            "salfom predict --help": (*SALFOM, "predict", "--help"),
            "salfom predict, first map": (*SALFOM, *predict, "--duration", "0.03"),
            "salfom predict, a picture": (*SALFOM, "predict", f"{folder}/frame.jpg", "--overwrite"),
        }
        runs = {name: [] for name in commands}
        for _ in range(args.runs):
            for name, arguments in commands.items():
                runs[name].append(measured(arguments))
    rows = [
        dict(zip(COLUMNS, (f"`{name}`", *map(statistics.median, zip(*times, strict=True))), strict=True))
        for name, times in runs.items()
    ]
    told = f"Median of {args.runs} fresh processes. {described(about)}.\n\n{table(COLUMNS, rows)}"
    tell(about, told, args.output, rows=rows)


if __name__ == "__main__":
    main()
