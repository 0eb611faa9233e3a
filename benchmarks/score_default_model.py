"""Score the packaged light model, and the baselines it has to beat, on recorded human gaze.

    python benchmarks/score_default_model.py --train train.parquet --dev dev.parquet --video CLIP [--model salfom]

Still images come from parquet files with the columns `dataset, image, width, height, fixation_x, fixation_y,
observer`; the video is a folder with `images/`, `maps/` (density) and `fixation/` (binary), as in the re-release of
UCF-Sports with DHF1K.

Protocol. A still stands for all 16 frames of the clip. Every map is scored at the size of its image. NSS: population
standard deviation (ddof 0), unique fixated pixels. CC: Pearson against the density; SIM: after min-max scaling. The
density of a still is its fixations blurred with a Gaussian of sigma 24 pixels at an image width of 512; the density of
a video frame is the one the data set ships. AUC-Judd: without jitter. Scores are means over images, or over frames.
"""

import argparse
import functools
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image

SIGMA, SIGMA_WIDTH = 24.0, 512  # blur of the fixations, in pixels of an image of that width
EPS = 1e-12


# ---------------------------------------------------------------------------------------------- maps and metrics
@functools.lru_cache(maxsize=64)
def blur_matrix(length: int, sigma: float, reflect: bool) -> torch.Tensor:
    """Matrix (length, length) of a Gaussian blur along one axis, cut off at four standard deviations."""
    radius = int(4 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    rows = torch.arange(length)[:, None].expand(length, 2 * radius + 1)
    columns = rows + torch.arange(-radius, radius + 1)
    values = kernel.expand(length, -1)
    if reflect:  # what falls off an end is folded back at the edge
        columns = columns % (2 * length)
        columns = torch.minimum(columns, 2 * length - 1 - columns)
    else:
        values = values * ((columns >= 0) & (columns < length))
        columns = columns.clamp(0, length - 1)
    return torch.zeros(length, length, dtype=torch.float64).index_put((rows, columns), values, accumulate=True)


def gaussian_blur(image: np.ndarray, sigma: float, reflect: bool = False) -> np.ndarray:
    """Separable Gaussian blur of one map; outside of it are zeros, or its mirror image."""
    vertical, horizontal = (blur_matrix(n, sigma, reflect) for n in image.shape)
    return (vertical @ torch.as_tensor(image, dtype=torch.float64) @ horizontal.T).numpy()


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of one map, antialiased."""
    tensor = torch.as_tensor(image, dtype=torch.float64)[None, None]
    return F.interpolate(tensor, (height, width), mode="bilinear", antialias=True)[0, 0].numpy()


def count_fixations(x, y, height: int, width: int) -> np.ndarray:
    """Number of fixations per pixel; a fixation on the border belongs to the outermost pixel."""
    counts = np.zeros((height, width))
    columns = np.clip(np.floor(x).astype(int), 0, width - 1)
    rows = np.clip(np.floor(y).astype(int), 0, height - 1)
    np.add.at(counts, (rows, columns), 1)
    return counts


def density(counts: np.ndarray) -> np.ndarray:
    """Fixation counts, blurred as the protocol says."""
    return gaussian_blur(counts, SIGMA * counts.shape[1] / SIGMA_WIDTH)


def nss(saliency: np.ndarray, fixated: np.ndarray) -> float:
    """Mean z-score of the map at the fixated pixels (ddof 0)."""
    return float((saliency[fixated].mean() - saliency.mean()) / (saliency.std() + EPS))


def cc(saliency: np.ndarray, target: np.ndarray) -> float:
    """Pearson correlation of the map and the density over the pixels."""
    return float(np.corrcoef(saliency.ravel(), target.ravel())[0, 1])


def sim(saliency: np.ndarray, target: np.ndarray) -> float:
    """Histogram intersection of the two maps, each min-max scaled and then divided by its sum."""

    def scale(m):
        m = (m - m.min()) / (m.max() - m.min() + EPS)
        return m / m.sum()

    return float(np.minimum(scale(saliency), scale(target)).sum())


def auc_judd(saliency: np.ndarray, fixated: np.ndarray) -> float:
    """AUC-Judd without jitter: every fixated value, in descending order, is a threshold."""
    thresholds = np.sort(saliency[fixated])[::-1]
    count, pixels = len(thresholds), saliency.size
    at_or_above = pixels - np.searchsorted(np.sort(saliency, axis=None), thresholds, side="left")
    rank = np.arange(1, count + 1)
    hits = np.concatenate([[0], rank / count, [1]])
    false_alarms = np.concatenate([[0], (at_or_above - rank) / (pixels - count), [1]])
    return float(np.trapezoid(hits, false_alarms))


def score(saliency: np.ndarray, counts: np.ndarray, target: np.ndarray) -> tuple[float, float, float, float]:
    """NSS, CC, SIM and AUC-Judd of one map."""
    saliency = np.asarray(saliency, dtype=np.float64)
    fixated = counts > 0
    return nss(saliency, fixated), cc(saliency, target), sim(saliency, target), auc_judd(saliency, fixated)


# ---------------------------------------------------------------------------------------------- baselines
def centre_gaussian(height: int, width: int, sigma: float = 0.22) -> np.ndarray:
    """A Gaussian in the middle of the frame whose standard deviations are a share of the width and of the height."""
    y = (np.arange(height) + 0.5) / height - 0.5
    x = (np.arange(width) + 0.5) / width - 0.5
    return np.exp(-0.5 * ((y[:, None] / sigma) ** 2 + (x[None] / sigma) ** 2))


def centre_prior(rows: list[dict], height: int = 384, width: int = 512) -> np.ndarray:
    """Kernel density estimate of all fixations, in coordinates relative to the image."""
    counts = np.zeros((height, width))
    for row in rows:
        x, y = np.array(row["fixation_x"]), np.array(row["fixation_y"])
        counts += count_fixations(x * width / row["width"], y * height / row["height"], height, width)
    prior = density(counts)
    return prior / prior.sum()


def spectral_residual(image: np.ndarray, working_width: int = 64, blur: float = 3.0) -> np.ndarray:
    """Spectral residual saliency (Hou and Zhang, 2007) of the grey image at a width of 64, blurred."""
    height, width = image.shape[:2]
    small = (working_width * height + width // 2) // width
    grey = resize(image.astype(np.float64) @ np.array([0.299, 0.587, 0.114]), small, working_width)
    spectrum = np.fft.fft2(grey)
    log_amplitude = np.log(np.abs(spectrum) + EPS)
    padded = torch.as_tensor(np.pad(log_amplitude, 1, mode="wrap"))[None, None]
    residual = log_amplitude - F.avg_pool2d(padded, 3, stride=1)[0, 0].numpy()
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    return resize(gaussian_blur(saliency, blur, reflect=True), height, width)


# ---------------------------------------------------------------------------------------------- the two data sets
def read_stills(path: str) -> list[dict]:
    return pq.read_table(path).to_pylist()


def score_stills(train: list[dict], dev: list[dict], predict=None) -> dict[str, dict[str, list[float]]]:
    """`{method: {subset: [NSS, CC, SIM, AUC]}}`; `predict` maps a list of frames to their maps."""
    prior = centre_prior(train)
    scores: dict[str, list] = {}
    for row in dev:
        image = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        height, width = image.shape[:2]
        x, y, observer = (np.array(row[k]) for k in ("fixation_x", "fixation_y", "observer"))
        counts = count_fixations(x, y, height, width)
        target = density(counts)
        own_prior = resize(prior, height, width)
        residual = spectral_residual(image)
        maps = {
            "centre prior (KDE of the training fixations)": own_prior,
            "spectral residual, blurred": residual,
            "spectral residual, blurred, times the prior": residual * own_prior,
        }
        if predict is not None:
            maps["**this model**"] = predict([image])[0]
        for name, saliency in maps.items():
            scores.setdefault(name, []).append(score(saliency, counts, target))
        # Every other observer predicts the rest.
        half = np.isin(observer, np.unique(observer)[::2])
        seen = count_fixations(x[half], y[half], height, width)
        held_out = count_fixations(x[~half], y[~half], height, width)
        name = "half of the observers predict the other half"
        scores.setdefault(name, []).append(score(density(seen), held_out, density(held_out)))
    subset = np.array([row["dataset"] for row in dev])
    chosen = {"pooled": subset == subset, "OSIE": subset == "osie", "crowd": subset == "crowd"}
    return {
        name: {key: np.array(values)[mask].mean(0).tolist() for key, mask in chosen.items()}
        for name, values in scores.items()
    }


def read_video(folder: str) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Frames (T, H, W, 3), and per frame the density and the binary fixation map."""
    root = Path(folder)
    images = sorted(p for p in (root / "images").iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    maps, fixations = ([root / part / f"{p.stem}.png" for p in images] for part in ("maps", "fixation"))

    def load(paths, mode):
        return [np.asarray(Image.open(p).convert(mode)) for p in paths]

    return np.stack(load(images, "RGB")), load(maps, "L"), load(fixations, "L")


def score_video(folder: str, predict=None) -> dict[str, list[float]]:
    """`{method: [NSS, CC]}`, means over the frames that have fixations."""
    frames, targets, fixations = read_video(folder)
    methods = {"centre Gaussian, sigma .22 of the frame": [centre_gaussian(*frames.shape[1:3])] * len(frames)}
    if predict is not None:
        methods["**this model**, last frame alone (repeated 16 times)"] = [predict([f])[0] for f in frames]
        methods["**this model**, window of the last 16 frames"] = predict(frames)
    result = {}
    for name, maps in methods.items():
        pairs = [
            (nss(np.float64(m), f > 0), cc(np.float64(m), np.float64(t)))
            for m, t, f in zip(maps, targets, fixations, strict=True)
            if f.any()
        ]
        result[name] = np.mean(pairs, axis=0).tolist()
    return result


def short(value: float) -> str:
    """Three decimals; no zero in front of the point, as this field prints scores."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:.3f}"


def table(stills: dict, video: dict | None) -> str:
    """One markdown table."""
    lines = [
        f"| still images, NSS / CC / SIM / AUC-Judd (density: sigma {SIGMA:g} px at width {SIGMA_WIDTH}) "
        "| pooled | OSIE | crowd |",
        "| --- | --- | --- | --- |",
    ]
    for name, by_subset in stills.items():
        cells = [" / ".join(short(v) for v in values) for values in by_subset.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if video:
        lines += ["| **video clip, NSS / CC** (shipped density) | | | |"]
        lines += [f"| {name} | {short(v[0])} / {short(v[1])} | | |" for name, v in video.items()]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="parquet file whose fixations make the centre prior")
    parser.add_argument("--dev", required=True, help="parquet file that is scored")
    parser.add_argument("--video", help="folder with images/, maps/ and fixation/")
    parser.add_argument("--model", default="salfom", help="name or folder of the model; 'none' for baselines only")
    parser.add_argument("--json", help="also write the unrounded scores to this file")
    args = parser.parse_args()

    predict = None
    if args.model != "none":
        from salfom_hf import SaliencyPredictor

        predict = SaliencyPredictor.from_pretrained(args.model).predict
    stills = score_stills(read_stills(args.train), read_stills(args.dev), predict)
    video = score_video(args.video, predict) if args.video else None
    print(table(stills, video))
    if args.json:
        protocol = {"sigma": SIGMA, "sigma_at_width": SIGMA_WIDTH, "nss_ddof": 0, "mean_over": "images or frames"}
        report = {"model": args.model, "protocol": protocol, "stills": stills, "video": video}
        Path(args.json).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
