"""PyTorch against onnxruntime, side by side in one run: milliseconds per map, frame by frame as on a stream.

    salfom export onnx salfom salfom-onnx
    salfom export onnx salfom salfom-int8 --int8
    python benchmarks/onnx_runtime.py --onnx salfom-onnx salfom-int8 --threads 2 -o docs/measured/onnx-runtime.json

The ways take turns with every eight frames of the package's example clip, so that whatever else the machine does meets
all of them; what counts is the ratio. Times are medians by the clock, without decoding and preprocessing.
"""

import argparse
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from salfom_hf import SaliencyPredictor
from salfom_hf.export.onnx import prepared_frames
from salfom_hf.export.onnx_runtime import OnnxPredictor
from salfom_hf.inference.benchmarking import EXAMPLE, circumstances, described, table, write_report
from salfom_hf.inference.cpu import keep_freed_memory
from salfom_hf.inference.sliding_window import open_stream

# Frames in a row: the threads of onnxruntime stay busy for a while after its last one, which slows the next way.
TURN = 8
COLUMNS = {"way": "{}", "size": "{}", "ms per map": "{:.1f}", "ratio": "{:.2f}", "least correlation": "{:.4f}"}


class Way:
    """A model that sees one frame after the other."""

    def __init__(self, predictor: SaliencyPredictor, frames: int):
        self.model = predictor.model
        self.frames = prepared_frames(predictor.processor, EXAMPLE, frames).to(self.model.dtype)
        self.stream = open_stream(self.model, tuple(self.frames.shape[-2:]))
        self.window = deque(maxlen=self.model.config.num_frames)
        self.seconds = []

    def run(self, index: int) -> np.ndarray:
        """The map of the next frame."""
        pixels = self.frames[index : index + 1]
        begin = time.perf_counter()
        if self.stream is None:
            self.window.extend([pixels[0]] * (1 if self.window else self.window.maxlen))
            saliency = self.model(torch.stack(tuple(self.window)).unsqueeze(0)).saliency
        else:
            encode, decoder = self.stream
            decoder.add_frame(encode(pixels)[0])
            saliency = decoder.maps([index])
        self.seconds.append(time.perf_counter() - begin)
        return saliency[0].float().numpy()


@torch.inference_mode()
def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="salfom")
    parser.add_argument("--onnx", nargs="+", default=[], metavar="FOLDER", help="exports of this model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=40, help="frames that are measured")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    about = circumstances(torch.device("cpu"), ["python", *sys.argv])
    keep_freed_memory()

    first = SaliencyPredictor.from_pretrained(args.model)
    warm_up = first.model.config.num_frames + 3
    total = warm_up + args.repeats
    ways = {"PyTorch float32": Way(first, total)}
    ways["PyTorch bfloat16"] = Way(SaliencyPredictor.from_pretrained(args.model, dtype=torch.bfloat16), total)
    ways |= {folder: Way(OnnxPredictor.from_pretrained(folder), total) for folder in args.onnx}
    correlations = {name: [] for name in ways}
    count = min(len(way.frames) for way in ways.values())
    for begin in range(0, count, TURN):
        turn = range(begin, min(begin + TURN, count))
        maps = {name: [way.run(index) for index in turn] for name, way in ways.items()}
        reference = next(iter(maps.values()))
        for name, found in maps.items():
            if found[0].shape == reference[0].shape:
                pairs = zip(found, reference, strict=True)
                correlations[name] += [float(np.corrcoef(*map(np.ravel, pair))[0, 1]) for pair in pairs]

    rows = []
    for name, way in ways.items():
        size = "×".join(map(str, way.frames.shape[-2:]))
        ms = 1000 * float(np.median(way.seconds[warm_up:]))
        ratio = rows[0]["ms per map"] / ms if rows else 1.0
        values = (name, size, ms, ratio, min(correlations[name], default=None))
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    told = f"{described(about)}, onnxruntime {onnxruntime.__version__}.\n\n{table(COLUMNS, rows)}"
    print(told)
    if args.output is not None:
        write_report(args.output, about | {"rows": rows, "markdown": told}, overwrite=True)


if __name__ == "__main__":
    main()
