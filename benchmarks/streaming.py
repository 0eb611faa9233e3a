"""What streaming gains: each window decoded by itself against the streaming decoder, side by side in one run.

    python benchmarks/streaming.py --threads 2 -o docs/measured/streaming.json

Both variants take turns, frame by frame, so that whatever else the machine does meets both; what counts is the ratio.
Times are medians in milliseconds, by the clock and of this process on all its processors.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from measuring import circumstances, described, table, tell
from salfom_hf import SalFoMForVideoSaliencyPrediction, SalFoMVideoProcessor
from salfom_hf.inference.cpu import keep_freed_memory
from salfom_hf.inference.encoder_graph import FrameEncoder
from salfom_hf.inference.shared_windows import StreamingDecoder

STAGES = ("preprocess", "encoder", "branches", "fusion", "total")
COLUMNS = {
    "dtype": "{}",
    "stage": "{}",
    "window, ms": "{:.1f}",
    "streaming, ms": "{:.1f}",
    "ratio": "{:.2f}",
    "window, processor ms": "{:.1f}",
    "streaming, processor ms": "{:.1f}",
    "ratio of processor time": "{:.2f}",
}


class Clock:
    """Wall-clock and processor time by (variant, stage)."""

    def __init__(self):
        self.times = defaultdict(list)

    def __call__(self, variant, stage, function, *args):
        wall, cpu = time.perf_counter(), time.process_time()
        result = function(*args)
        self.times[variant, stage].append((time.perf_counter() - wall, time.process_time() - cpu))
        return result

    def medians(self):
        """{variant: {stage: (wall, processor) in ms}}"""
        table = defaultdict(dict)
        for (variant, stage), times in self.times.items():
            table[variant][stage] = tuple(1000 * float(value) for value in np.median(times, axis=0))
        for stages in table.values():
            stages["total"] = tuple(np.sum(list(stages.values()), axis=0).tolist())
        return table


def branches_of(decoder: StreamingDecoder, time: int) -> None:
    """Compute what the fusion reads."""
    for place in decoder.branches:
        decoder.at(place, [time])


@torch.inference_mode()
def measure(name: str, size: tuple[int, int], dtype: torch.dtype, repeats: int) -> dict:
    model = SalFoMForVideoSaliencyPrediction.from_pretrained(name, dtype=dtype).eval()
    processor = SalFoMVideoProcessor.from_pretrained(name)
    length = model.config.num_frames
    video = np.random.default_rng(0).integers(0, 256, (length + 3 + repeats, *size, 3), dtype=np.uint8)
    clock = Clock()

    def prepared(image):
        pixels = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)
        return processor.prepare_frames(pixels, size=processor.size | {"height": size[0], "width": size[1]}).to(dtype)

    encoder, decoder = clock("prepare", "weights", lambda: (FrameEncoder(model.salfom), StreamingDecoder(model, size)))
    window, difference = [], 0.0
    for index, image in enumerate(video):
        if index == length + 3:  # The window is full, and everything has run once.
            prepare = clock.times.pop(("prepare", "weights"))
            clock.times.clear()
        pixels = clock("streaming", "preprocess", prepared, image)
        features = clock("streaming", "encoder", encoder, pixels)
        decoder.add_frame(features[0])
        clock("streaming", "branches", branches_of, decoder, index)
        streamed = clock("streaming", "fusion", decoder.maps, [index])

        clock("window", "preprocess", prepared, image)
        window = [*(window or []), clock("window", "encoder", model.encode_frames, pixels)][-length:]
        if index >= length:
            volume = torch.stack(window, dim=2)
            branches = clock("window", "branches", model.salfom.decode, volume)
            expected = clock("window", "fusion", lambda: model.fuse(branches, size).sigmoid().float())  # noqa: B023
            difference = max(difference, float((streamed - expected).abs().max()))
    return {"medians": clock.medians(), "prepare_ms": 1000 * prepare[0][0], "difference": difference}


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="salfom")
    parser.add_argument("--size", type=int, nargs=2, default=(288, 384), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20, help="frames that are measured")
    parser.add_argument("--default-malloc", action="store_true", help="leave glibc's allocator as it is")
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    about = circumstances()
    if not args.default_malloc:
        keep_freed_memory()

    rows, said = [], []
    for dtype in args.dtype:
        found = measure(args.model, tuple(args.size), getattr(torch, dtype), args.repeats)
        window, streaming = found["medians"]["window"], found["medians"]["streaming"]
        for stage in STAGES:
            plain, fast = window[stage], streaming[stage]
            times = (plain[0], fast[0], plain[0] / fast[0], plain[1], fast[1], plain[1] / fast[1])
            rows.append(dict(zip(COLUMNS, (dtype, stage, *times), strict=True)))
        said.append(
            f"- {dtype}: the maps differ by {found['difference']:.1e} at most; the weights are prepared, once for a "
            f"video, in {found['prepare_ms']:.0f} ms"
        )
    height, width = args.size
    told = f"{args.model}, {height}×{width}. {described(about)}.\n\n{table(COLUMNS, rows)}\n\n" + "\n".join(said)
    tell(about, told, args.output, rows=rows)


if __name__ == "__main__":
    main()
