"""Make docs/overlay.jpg, the README's picture: frames of the example clip, and below them the predicted attention."""

from pathlib import Path

import numpy as np
from PIL import Image

from salfom_hf import SaliencyPredictor
from salfom_hf.video.drawing import overlay

HERE = Path(__file__).parent
CLIP = HERE.parent / "src" / "salfom_hf" / "assets" / "example.mp4"
SHOWN = (12, 50, 90, 145)  # Frame numbers: at least one of each shot.
WIDTH, HEIGHT = 400, 225


def main() -> None:
    columns = []
    for index, frame in enumerate(SaliencyPredictor.from_pretrained("salfom").stream(CLIP)):
        if index in SHOWN:
            pictures = (frame.image, overlay(frame.image, frame.saliency))
            small = [np.asarray(Image.fromarray(picture).resize((WIDTH, HEIGHT))) for picture in pictures]
            columns.append(np.concatenate(small))
    Image.fromarray(np.concatenate(columns, axis=1)).save(HERE / "overlay.jpg", quality=88)


if __name__ == "__main__":
    main()
