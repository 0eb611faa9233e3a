"""
How steady maps are: the mean correlation (CC) of each map of a video with the one before, 1 for maps that are alike.

    python benchmarks/steadiness.py VIDEO... [--model salfom] [--duration 2]

Prints it for each video: with the window of frames, and of every frame by itself, as a still.
"""

import argparse
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from salfom_hf import SaliencyPredictor, metrics
from salfom_hf.inference.cpu import keep_freed_memory
from salfom_hf.inference.profiling import aligned
from salfom_hf.video.reading import read_frames


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Mean correlation of the maps of consecutive frames.")
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="a video, or a folder of images")
    parser.add_argument("--model", default="salfom", help="default: %(default)s")
    parser.add_argument("--duration", type=float, help="seconds of each video; default: all")
    return parser


def steadiness(maps: Iterator[np.ndarray]) -> float:
    tensors = map(torch.from_numpy, maps)
    return float(torch.stack([metrics.cc(one, other) for one, other in pairwise(tensors)]).nanmean())


def main() -> None:
    args = arguments().parse_args()
    keep_freed_memory()
    predictor = SaliencyPredictor.from_pretrained(args.model)
    values = []
    for video in args.videos:
        window = (frame.saliency for frame in predictor.stream(video, duration=args.duration))
        alone = (predictor.predict([frame.image])[0] for frame in read_frames(video, duration=args.duration))
        values.append((steadiness(window), steadiness(alone)))
    rows = [[video, *(f"{value:.4f}" for value in pair)] for video, pair in zip(args.videos, values, strict=True)]
    rows.append(["mean", *(f"{value:.4f}" for value in np.mean(values, axis=0))])
    print("\n".join(aligned(["video", "window", "last frame alone"], rows)))


if __name__ == "__main__":
    main()
