"""What a hard cut costs: NSS in the frames after it, with another video before it and with the video's own past.

    python benchmarks/cuts.py GAZEFOLDER --split validation --model salfom

Of each video, some frames are shown from the middle of a shot on, once after 16 frames of another video of the folder
and once after their own. People had seen no cut: what is measured is what the old shot leaves in the maps.
"""

import argparse
import itertools

import numpy as np
import torch
from PIL import Image

from salfom_hf import SaliencyPredictor, metrics
from salfom_hf.data import load_gazefolder, open_sample

BEFORE, AFTER = 16, 16  # frames
GROUPS = ((0, 0), (1, 3), (4, 7), (8, 15))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a gazefolder, such as `salfom data make` writes")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--model", nargs="+", default=["salfom"])
    parser.add_argument("--cuts", type=int, default=4, help="in each video, evenly spaced; default %(default)s")
    args = parser.parse_args()
    samples = [open_sample(row) for row in load_gazefolder(args.folder, args.split)]
    for name in args.model:
        predictor = SaliencyPredictor.from_pretrained(name)
        scores = {kind: np.full((len(samples), args.cuts, AFTER), np.nan) for kind in ("cut", "own past")}
        for row, cut in itertools.product(range(len(samples)), range(args.cuts)):
            sample, other = samples[row], samples[(row + 1 + cut) % len(samples)]
            first = BEFORE + (sample.num_frames - BEFORE - AFTER) * (2 * cut + 1) // (2 * args.cuts)
            shown = list(sample.frames(first - BEFORE, first + AFTER))
            size = sample.size[::-1]
            start = (other.num_frames - BEFORE) // 2
            old = [np.asarray(Image.fromarray(frame).resize(size)) for frame in other.frames(start, start + BEFORE)]
            for kind, past in (("cut", old), ("own past", shown[:BEFORE])):
                maps = predictor.predict([*past, *shown[BEFORE:]])[BEFORE:]
                for place, saliency in enumerate(maps):
                    fixations = torch.from_numpy(sample.fixations(first + place))
                    if fixations.any():
                        scores[kind][row, cut, place] = metrics.nss(torch.from_numpy(saliency), fixations)
        print(f"\n{name}\n| frames after the cut | NSS after a cut | with the video's own past |\n| --- | --- | --- |")
        for low, high in GROUPS:
            means = [np.nanmean(scores[kind][:, :, low : high + 1]) for kind in ("cut", "own past")]
            print(f"| {low}–{high} | {means[0]:.2f} | {means[1]:.2f} |")


if __name__ == "__main__":
    main()
