"""Make the example clip, src/salfom_hf/assets/example.mp4, from free photographs that come with scikit-image.

Three shots with hard cuts between them, each with a camera that moves: a photograph of a cat slides across a coffee
table, a rocket lifts off, an astronaut smiles. Run `pip install scikit-image` and then this script from anywhere.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from salfom_hf.video.writing import VideoWriter

OUTPUT = Path(__file__).parents[1] / "src" / "salfom_hf" / "assets" / "example.mp4"
WIDTH, HEIGHT, RATE = 640, 360, Fraction(30)
OVERSAMPLING = 2  # Layers are put together at twice the size, which leaves their edges smooth.
# Found without importing the package, whose heavy dependencies are of no use here.
DATA = Path(find_spec("skimage").origin).parent / "data"

ROCKET_CENTRE, ENGINE = 322.3, 386  # Where the rocket stands in its photograph, and where its lower end is cut off.


def load(name: str) -> Image.Image:
    return Image.open(DATA / name).convert("RGB")


def mix(a: float, b: float, t: float) -> float:
    return a + (b - a) * t


def ease(t: float) -> float:
    """Start and stop gently: 0 at 0 and below, 1 at 1 and above."""
    t = min(max(t, 0.0), 1.0)
    return t * t * (3 - 2 * t)


class Camera:
    """Sees `width` units of the world, centred at `x`, `y`; one unit is one pixel of the shot's background."""

    def __init__(self, x: float, y: float, width: float) -> None:
        self.size = (WIDTH * OVERSAMPLING, HEIGHT * OVERSAMPLING)
        step = width / self.size[0]
        self.to_world = np.array(
            [[step, 0, x - step * self.size[0] / 2], [0, step, y - step * self.size[1] / 2], [0, 0, 1]]
        )

    def see(self, layer: Image.Image, place: np.ndarray | None = None) -> Image.Image:
        """Return what is seen of a layer; `place` maps the layer's pixels to the world."""
        to_layer = self.to_world if place is None else np.linalg.inv(place) @ self.to_world
        # Fractions of a pixel count, so slow movements do not jitter.
        return layer.transform(
            self.size, Image.Transform.AFFINE, tuple(to_layer[:2].ravel()), Image.Resampling.BICUBIC
        )


def placed(layer: Image.Image, x: float, y: float, scale: float, degrees: float) -> np.ndarray:
    cos, sin = (scale * f(math.radians(degrees)) for f in (math.cos, math.sin))
    middle = np.array([[1, 0, -layer.width / 2], [0, 1, -layer.height / 2], [0, 0, 1]])
    return np.array([[cos, -sin, x], [sin, cos, y], [0, 0, 1]]) @ middle


def finish(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))


def print_of(photo: Image.Image, border: int = 16, margin: int = 40) -> tuple[Image.Image, Image.Image]:
    """Return a paper print of a photograph and its shadow, both with room around them."""
    paper = ImageOps.expand(photo, border, (243, 240, 232))
    size = (paper.width + 2 * margin, paper.height + 2 * margin)
    inside = (margin, margin, margin + paper.width - 1, margin + paper.height - 1)
    layer = Image.new("RGBA", size, (243, 240, 232, 0))
    layer.paste(paper, (margin, margin))
    shadow = Image.new("L", size)
    ImageDraw.Draw(shadow).rectangle(inside, fill=150)
    return layer, shadow.filter(ImageFilter.GaussianBlur(9))


def coffee_table(frames: int) -> Iterator[np.ndarray]:
    table = load("coffee.png")
    card, shadow = print_of(load("chelsea.png").crop((20, 0, 380, 300)))
    for frame in range(frames):
        t = frame / (frames - 1)
        slid = 1 - (1 - min(t / 0.8, 1)) ** 3  # Pushed onto the table, it slows down and lies still.
        x, y, turn = mix(630, 490, slid), mix(20, 120, slid), mix(-38, 13, slid)
        camera = Camera(mix(232, 346, ease(t)), mix(196, 160, ease(t)), mix(452, 500, ease(t)))
        picture = camera.see(table)
        picture.paste((20, 8, 2), mask=camera.see(shadow, placed(shadow, x - 3, y + 6, 0.4, turn)))
        seen = camera.see(card, placed(card, x, y, 0.4, turn))
        picture.paste(seen, mask=seen)
        yield finish(picture)


def rocket_and_sky() -> tuple[Image.Image, Image.Image]:
    """Cut the rocket out of its photograph; return it as a layer of the same size, and the launch pad without it."""
    photo = load("rocket.jpg")
    fine = Image.new("L", (photo.width * 4, photo.height * 4))
    nose = [(x, 177 - 51 * (1 - (abs(x - ROCKET_CENTRE) / 11.2) ** 2.2)) for x in np.linspace(311.1, 333.5, 60)]
    nose = [(x, min(y, 158) if abs(x - ROCKET_CENTRE) > 11 else y) for x, y in nose]
    outline = [*nose, (333.2, 174), (330.4, 178), (330.4, ENGINE), (314.2, ENGINE), (314.2, 178), (311.4, 174)]
    ImageDraw.Draw(fine).polygon([(4 * x, 4 * y) for x, y in outline], fill=255)
    mask = fine.resize(photo.size, Image.Resampling.LANCZOS)
    rocket = photo.convert("RGBA")
    rocket.putalpha(mask)
    # Behind it there is sky alone, which hardly changes from its left to its right.
    hole = mask.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.GaussianBlur(0.8))
    smooth = np.asarray(photo.filter(ImageFilter.GaussianBlur(3)), dtype=np.float32)
    across = np.linspace(0, 1, photo.width)[None, :, None] * photo.width
    across = np.clip((across - 296) / (347 - 296), 0, 1)
    sky = smooth[:, 296:297] * (1 - across) + smooth[:, 347:348] * across
    sky += np.random.default_rng(0).normal(0, 1.5, (*sky.shape[:2], 1))
    pad = Image.composite(Image.fromarray(sky.clip(0, 255).astype(np.uint8)), photo, hole)
    return rocket, pad


def lift_off(frames: int) -> Iterator[np.ndarray]:
    rocket, pad = rocket_and_sky()
    rows, columns = np.mgrid[: pad.height, : pad.width].astype(np.float32)
    random = np.random.default_rng(1)
    puffs = [(random.uniform(-1, 1), random.uniform(0, 1), random.uniform(0.6, 1.3)) for _ in range(70)]
    for frame in range(frames):
        t = frame / (frames - 1)
        risen = 135 * max(t - 0.12, 0) ** 1.9
        power = ease(t / 0.2)
        below = rows - (ENGINE - risen)
        flicker = 1 + 0.12 * math.sin(2.1 * frame) + 0.08 * math.sin(5.3 * frame)
        length = (16 + min(risen * 1.1, 75)) * flicker
        spread = 5.5 + np.clip(below, 0, None) * 0.07
        along = np.exp(-np.clip(below, 0, None) / length) * (1 / (1 + np.exp(-np.clip(below, -30, 30) * 1.2)))
        light = 2.6 * power * along * np.exp(-(((columns - ROCKET_CENTRE) / spread) ** 2))
        distance = np.hypot(columns - ROCKET_CENTRE, below - 12)
        light += power * flicker * (0.55 * np.exp(-distance / 22) + 0.16 * np.exp(-distance / 90))
        smoke = np.zeros_like(light)  # How much of what is behind it each pixel hides.
        for side, height, size in puffs:
            age = max(t - 0.05 - 0.25 * abs(side), 0)
            radius = 4 + 30 * size * age
            x = ROCKET_CENTRE + side * (14 + 165 * age)
            y = 411 - height * (3 + 34 * age) * (1.2 - abs(side) * 0.7)
            inside = np.exp(-(((columns - x) / (radius * 1.25)) ** 2 + ((rows - y) / (radius * 0.8)) ** 2) * 1.4)
            smoke = 1 - (1 - smoke) * (1 - 0.75 * min(age * 6, 1) * inside)
        lit = 70 + 150 * power * np.exp(-np.hypot(columns - ROCKET_CENTRE, rows - 400) / (70 + 0.3 * risen))
        world = pad.convert("RGBA")
        moved = rocket.transform(rocket.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, risen), Image.Resampling.BICUBIC)
        world.alpha_composite(moved)
        colours = np.asarray(world.convert("RGB"), dtype=np.float32)
        smoke_colour = lit[..., None] * np.array([1.1, 0.93, 0.76], np.float32)
        colours = colours * (1 - smoke[..., None]) + smoke_colour * smoke[..., None]
        colours += light[..., None] * np.array([255, 178, 92], np.float32)
        seen = Image.fromarray(colours.clip(0, 255).astype(np.uint8))
        camera = Camera(mix(318, 322, ease(t)), mix(246, 222, ease(t)), mix(632, 590, ease(t)))
        yield finish(camera.see(seen))


def astronaut(frames: int) -> Iterator[np.ndarray]:
    portrait = load("astronaut.png")
    for frame in range(frames):
        t = ease(frame / (frames - 1) * 0.8 + 0.1)  # Already moving at the cut.
        yield finish(Camera(mix(268, 244, t), mix(172, 120, t), mix(488, 360, t)).see(portrait))


def main() -> None:
    OUTPUT.parent.mkdir(exist_ok=True)
    with VideoWriter(OUTPUT, WIDTH, HEIGHT, RATE, overwrite=True) as writer:
        number = 0
        for shot in (coffee_table(60), lift_off(54), astronaut(36)):
            for picture in shot:
                writer.write(picture, number / RATE)
                number += 1


if __name__ == "__main__":
    main()
