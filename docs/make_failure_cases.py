"""
Make docs/failure-cases.jpg: pictures of the kinds that go wrong most easily, and what the weights make of them.

The photographs come with scikit-image and are free; the sign and the group of people are put together from them. Run
`pip install scikit-image` and then this script from anywhere. It prints the caption for the card.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from salfom_hf import SaliencyPredictor
from salfom_hf.video.drawing import overlay

HERE = Path(__file__).parent
# Found without importing the package, whose heavy dependencies are of no use here.
DATA = Path(find_spec("skimage").origin).parent / "data"

SIZE = (480, 320)  # of a picture that the model is shown, (width, height) in pixels
CELL = (336, 224)  # of a picture on the sheet
COLUMNS, GAP, LINE, TEXT = 2, 12, 30, 20

CAPTION = """\
Pictures that are hard for these weights, each next to the predicted attention (made by `docs/make_failure_cases.py`).
Sources, all from scikit-image's `skimage.data`: sign (made for this picture) on a wall, `brick.png`, CC0
(CC0Textures); astronaut Eileen Collins, `astronaut.png`, NASA, public domain; the group of faces is that photograph,
copied seven times onto the wall, and no photograph of a group; `grass.png`, CC0."""


def photograph(name: str) -> Image.Image:
    """Cut to the shape of the sheet's pictures, from the upper part, where heads are."""
    return ImageOps.fit(Image.open(DATA / name).convert("RGB"), SIZE, centering=(0.5, 0.0))


def sign() -> Image.Image:
    """A small sign at the right of a brick wall."""
    wall = photograph("brick.png")
    draw = ImageDraw.Draw(wall)
    draw.rectangle((300, 170, 460, 250), fill=(250, 246, 230), outline=(60, 40, 30), width=3)
    for number, text in enumerate(("Closed on", "Mondays")):
        draw.text((380, 195 + 32 * number), text, fill=(30, 30, 30), font=ImageFont.load_default(28), anchor="mm")
    return wall


def group() -> Image.Image:
    """Seven times the same face, of several sizes, some of them mirrored."""
    wall = photograph("brick.png")
    with Image.open(DATA / "astronaut.png") as astronaut:
        face = astronaut.convert("RGB").crop((165, 45, 285, 205))
    for number, (x, y, height) in enumerate(
        (
            (60, 120, 110),
            (150, 90, 90),
            (235, 130, 120),
            (320, 85, 90),
            (415, 125, 110),
            (110, 245, 130),
            (350, 245, 130),
        )
    ):
        one = ImageOps.mirror(face) if number % 2 else face
        one = one.resize((height * face.width // face.height, height))
        mask = Image.new("L", one.size)
        ImageDraw.Draw(mask).ellipse((2, 2, one.width - 3, one.height - 3), fill=255)
        wall.paste(one, (x - one.width // 2, y - one.height // 2), mask.filter(ImageFilter.GaussianBlur(2)))
    return wall


def stills(predictor: SaliencyPredictor) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Label, picture and map of each still."""
    pictures = {
        "Text": sign(),
        "A face": photograph("astronaut.png"),
        "Many faces (a montage)": group(),
        "Nothing to look at": photograph("grass.png"),
    }
    return [(label, np.asarray(picture), predictor.predict(picture)[0]) for label, picture in pictures.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw docs/failure-cases.jpg.")
    parser.add_argument("--model", default="salfom", help="a name or a folder; default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "failure-cases.jpg", help="default: %(default)s")
    args = parser.parse_args()
    predictor = SaliencyPredictor.from_pretrained(args.model)
    cases = stills(predictor)
    width, height = 2 * CELL[0] + GAP, LINE + CELL[1] + GAP
    sheet = Image.new("RGB", (COLUMNS * (width + GAP) - GAP, -(-len(cases) // COLUMNS) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (label, picture, saliency) in enumerate(cases):
        row, column = divmod(number, COLUMNS)
        left, top = column * (width + GAP), row * height
        draw.text((left, top + 3), label, fill=(20, 20, 20), font=ImageFont.load_default(TEXT))
        for place, shown in ((left, picture), (left + CELL[0], overlay(picture, saliency))):
            sheet.paste(ImageOps.fit(Image.fromarray(shown), CELL), (place, top + LINE))
    sheet.save(args.output, quality=85)
    print(CAPTION)


if __name__ == "__main__":
    main()
