"""How much narrower maps of videos should be than the network learned: scores by `motion_sharpness`.

    python benchmarks/sharpness.py GAZEFOLDER --split validation --sharpness 1 1.25 1.5

Of each video, a frame in every so many is predicted from its window. Information gain is over a uniform map, in bits.
"""

import argparse

import numpy as np
import torch

from salfom_hf import SaliencyPredictor, metrics
from salfom_hf.data import load_gazefolder, open_sample
from salfom_hf.models.video_processing_salfom import pixels_of, resize_map


def scores(saliency: torch.Tensor, density: torch.Tensor, fixations: torch.Tensor) -> list[float]:
    """NSS, CC, SIM and information gain of a map, `(height, width)` each."""
    log_share = (saliency.double() / saliency.double().sum()).log2()
    gain = log_share[fixations].mean() + np.log2(saliency.numel())
    compared = [metrics.cc(saliency, density), metrics.sim(saliency, density)]
    return [float(value) for value in (metrics.nss(saliency, fixations), *compared, gain)]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a gazefolder, such as `salfom data make` writes")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--model", default="salfom")
    parser.add_argument("--sharpness", nargs="+", type=float, default=[1.0, 1.15, 1.25, 1.35, 1.5])
    parser.add_argument("--every", type=int, default=20, help="frames from one that is scored to the next")
    args = parser.parse_args()
    predictor = SaliencyPredictor.from_pretrained(args.model)
    model, processor = predictor.model, predictor.processor
    found: dict[float, list[np.ndarray]] = {value: [] for value in args.sharpness}
    for row in load_gazefolder(args.folder, args.split):
        sample, of_video = open_sample(row), {value: [] for value in args.sharpness}
        for last in range(20, sample.num_frames, args.every):
            fixations = torch.from_numpy(sample.fixations(last))
            if not fixations.any():
                continue
            window = sample.frames(last - processor.num_frames + 1, last + 1)
            pixels = torch.cat([processor.prepare_frames(pixels_of(frame)) for frame in window])
            features = model.encode_frames(pixels).transpose(0, 1).unsqueeze(0)
            density = torch.from_numpy(sample.density(last))
            for value in args.sharpness:
                model.center_prior.sharpness = value
                saliency = model.decode(features, tuple(pixels.shape[-2:])).sigmoid()[0]
                of_video[value].append(scores(resize_map(saliency, density.shape), density, fixations))
        for value, rows in of_video.items():
            found[value].append(np.mean(rows, axis=0))
    print("| sharpness | NSS | CC | SIM | IG |\n| --- | --- | --- | --- | --- |")
    for value, videos in found.items():
        nss, cc, sim, gain = np.mean(videos, axis=0)
        print(f"| {value:g} | {nss:.3f} | {cc:.4f} | {sim:.4f} | {gain:.3f} |")


if __name__ == "__main__":
    main()
