"""PyTorch against onnxruntime, side by side in one run: milliseconds per map of a video.

    salfom export onnx salfom salfom-onnx
    python benchmarks/onnx_runtime.py --onnx salfom-onnx --threads 2 -o docs/measured/onnx-runtime.json

Every way predicts some frames of the package's example clip in its turn; what counts is the ratio. Times are medians
of the rounds, without decoding.
"""

import argparse
import statistics
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from measuring import circumstances, described, table, tell, timed
from salfom_hf import SaliencyPredictor
from salfom_hf.export.onnx_runtime import OnnxPredictor
from salfom_hf.inference.benchmarking import EXAMPLE
from salfom_hf.inference.cpu import keep_freed_memory
from salfom_hf.video import read_frames

COLUMNS = {"way": "{}", "ms per map": "{:.1f}", "ratio": "{:.3f}", "least correlation": "{:.4f}"}


class WindowByWindow:
    """A network that is asked for whole windows, as exported ones are."""

    def __init__(self, model):
        self.config, self.device, self.dtype, self.network = model.config, model.device, model.dtype, model

    def __call__(self, clips: torch.Tensor):
        return self.network(clips)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="salfom")
    parser.add_argument("--onnx", required=True, metavar="FOLDER", help="export of this model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=8, help="predicted in each turn, default %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="after one to warm up; default %(default)s")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    about = circumstances()
    keep_freed_memory()

    torch_predictor = SaliencyPredictor.from_pretrained(args.model)
    windows = SaliencyPredictor.from_pretrained(args.model)
    windows.model = WindowByWindow(windows.model)
    exported = OnnxPredictor.from_pretrained(args.onnx)
    ways = {"PyTorch": torch_predictor, "PyTorch, each window by itself": windows, "onnxruntime": exported}
    images = [frame.image for frame in islice(read_frames(EXAMPLE), args.frames)]
    seconds, maps = {name: [] for name in ways}, {}
    for _ in range(args.rounds + 1):
        for name, predictor in ways.items():

            def predict(name=name, predictor=predictor) -> torch.Tensor:
                maps[name] = torch.from_numpy(predictor.predict(images))
                return maps[name]

            seconds[name].append(timed(predict))

    rows, first = [], maps["PyTorch"].flatten(1).double()
    for name, times in seconds.items():
        ms = 1000 * statistics.median(times[1:]) / args.frames
        pairs = zip(maps[name].flatten(1).double(), first, strict=True)
        least = min(float(np.corrcoef(*pair)[0, 1]) for pair in pairs)
        ratio = rows[0]["ms per map"] / ms if rows else 1.0
        rows.append(dict(zip(COLUMNS, (name, ms, ratio, least), strict=True)))
    told = f"{args.model}, float32. {described(about)}, onnxruntime {onnxruntime.__version__}."
    tell(about, f"{told}\n\n{table(COLUMNS, rows)}", args.output, rows=rows)


if __name__ == "__main__":
    main()
