"""A page that scores one predicted saliency map against where people looked."""

from pathlib import Path

import gradio as gr
import numpy as np
import torch
from PIL import Image

from salfom_hf import metrics
from salfom_hf.demo.runs import Bounds, check_picture
from salfom_hf.demo.serving import Page, in_one_sentence, serve
from salfom_hf.video.pictures import load_image

MAX_BYTES = 20 * 2**20
# Of each picture. With more, one score would take minutes and much of a small machine's memory.
MAX_PIXELS = 3840 * 2160
ABOUT = f"""# Saliency metrics

Scores a predicted saliency map as the field does. Give the **prediction** and, of the same frame, the **density** (the
blurred fixations), the **fixation map** (a black image with a bright pixel at each fixation), or both; up to
{MAX_BYTES >> 20} MB and {MAX_PIXELS // 10**6} megapixels each. They are deleted after about an hour.
"""
# The rows of the table, in order: the function and what its number means.
AGAINST_FIXATIONS = {
    "AUC-Judd": (metrics.auc_judd, "Do fixated pixels rank above the others? 0.5 is chance, 1 is best."),
    "NSS": (metrics.nss, "Mean of the standardised map at the fixations. 0 is chance, more is better."),
}
AGAINST_DENSITY = {
    "CC": (metrics.cc, "Correlation with the density, −1…1. 0 is chance, 1 is best."),
    "SIM": (metrics.sim, "Share of both maps that overlaps, 0…1. 1 is best."),
    "KLD": (metrics.kldiv, "Distance from the density in nats. 0 is best, more is worse."),
}
HEADERS = ["Metric", "Score", "What it says"]


def score(prediction: str | None, density: str | None, fixations: str | None) -> list[list[str]]:
    """
    The table of scores of uploaded pictures, given as their paths.

    Raises:
        gr.Error: a picture cannot be read or is too large, something is missing, or sizes differ.
    """
    return rows(*map(uploaded, (prediction, density, fixations)))


def uploaded(path: str | None) -> Image.Image | None:
    """
    A picture, within bounds.

    Raises:
        gr.Error: it cannot be read, or is too large.
    """
    if path is None:
        return None
    with in_one_sentence(path):
        check_picture(path, Bounds(path, MAX_PIXELS))
        return Image.fromarray(load_image(Path(path)))


def rows(
    prediction: Image.Image | None, density: Image.Image | None, fixations: Image.Image | None
) -> list[list[str]]:
    """
    The table of scores.

    Args:
        prediction, density, fixations: images of one size, read as grey; one of the last two may be missing.

    Returns:
        rows of name, score and explanation.

    Raises:
        gr.Error: something is missing, or sizes differ.
    """
    if prediction is None:
        raise gr.Error("Give the predicted map.", print_exception=False)
    if density is None and fixations is None:
        raise gr.Error(
            "Give the density, the fixation map, or both: there is nothing to compare with.", print_exception=False
        )
    found = []
    for name, truth, table in (
        ("fixation map", fixations, AGAINST_FIXATIONS),
        ("density", density, AGAINST_DENSITY),
    ):
        if truth is None:
            continue
        if truth.size != prediction.size:
            raise gr.Error(
                f"The prediction has {prediction.width}×{prediction.height} pixels, but the {name} has "
                f"{truth.width}×{truth.height}; resize the prediction to the size of the {name} first.",
                print_exception=False,
            )
        target = grey(truth)
        if truth is fixations:
            # Lossy compression leaves dark pixels around the fixated ones.
            target = target > target.max() / 2
        for metric, (function, meaning) in table.items():
            value = metrics.counted(function, grey(prediction), target).item()
            shown = f"undefined: the {name} is empty or of one value" if np.isnan(value) else f"{value:.4f}"
            found.append([metric, shown, meaning])
    return found


def grey(image: Image.Image) -> torch.Tensor:
    """Grey values 0…255, `(height, width)`."""
    return torch.from_numpy(np.array(image.convert("L"), dtype=np.float32))


def example(quality: str) -> tuple[Image.Image, Image.Image, Image.Image]:
    """
    A prediction with density and fixation map of an imagined frame.

    Args:
        quality: "good" looks where people looked, "center" at the middle.

    Returns:
        three grey images of 320×180 pixels.
    """
    width, height = 320, 180
    targets = np.array(((0.3, 0.4), (0.7, 0.55))) * (width, height)
    places = np.random.default_rng(0).normal(targets, 9, (12, 2, 2)).reshape(-1, 2).astype(int)
    fixations = np.zeros((height, width), np.uint8)
    fixations[places[:, 1], places[:, 0]] = 255
    if quality == "good":
        prediction = blobs(targets, 18, width, height)
    else:
        prediction = blobs([(width / 2, height / 2)], 45, width, height)
    return prediction, blobs(places, 12, width, height), Image.fromarray(fixations)


def blobs(centres, spread: float, width: int, height: int) -> Image.Image:
    """Sum of Gaussians around pixels (x, y) with a standard deviation in pixels, the maximum white."""
    y, x = np.mgrid[:height, :width]
    values = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * spread**2)) for cx, cy in centres)
    return Image.fromarray((255 * values / values.max()).round().astype(np.uint8))


# One at a time, whichever button was pressed.
alone = {"concurrency_limit": 1, "concurrency_id": "score"}

with Page("Saliency metrics", MAX_PIXELS) as demo:
    gr.Markdown(ABOUT)
    with gr.Row():
        pictures = [
            gr.Image(
                label=label,
                type="filepath",
                image_mode=None,
                format="png",
                height=240,
                sources=["upload", "clipboard"],
            )
            for label in ("Prediction", "Density", "Fixation map")
        ]
    with gr.Row():
        run = gr.Button("Score", variant="primary")
        good = gr.Button("Example: a good map")
        center = gr.Button("Example: only a centre bias")
    # Widths and height for which nothing is cut off on a phone.
    table = gr.Dataframe(
        headers=HEADERS,
        interactive=False,
        wrap=True,
        label="Scores",
        column_widths=["24%", "27%", "49%"],
        max_height=900,
    )
    run.click(score, pictures, table, api_name="score", **alone)
    for button, quality in ((good, "good"), (center, "center")):
        button.click(lambda quality=quality: example(quality), None, pictures, api_visibility="private").then(
            score, pictures, table, api_visibility="private", **alone
        )

if __name__ == "__main__":
    serve(demo, MAX_BYTES)
