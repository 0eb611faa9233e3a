"""Dots over two axes, as SVG."""

import math
from collections.abc import Iterable, Iterator
from html import escape
from typing import NamedTuple

INK, GRID = "#16202c", "#d9dee5"
COLORS = ("#1d5fa8", "#c8680a", "#595959", "#00805f", "#8c3c96", "#967800")
DOT = 5


class Dots(NamedTuple):
    """Points `(x, y)` of one colour, with words next to some of them, by number; `joined` by lines or not."""

    points: list[tuple[float, float]]
    color: str
    words: dict[int, str] = {}  # noqa: RUF012
    joined: bool = False


def text(x: float, y: float, words: str, anchor: str = "middle", color: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{escape(words)}</text>'


def path(points: Iterable[tuple[float, float]], style: str) -> str:
    return f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}" fill="none" {style}/>'


def ticks(low: float, high: float) -> Iterator[float]:
    """Round numbers between two, four to ten of them."""
    power = 10 ** math.floor(math.log10((high - low) / 4))
    step = max(power * factor for factor in (1, 2, 5) if power * factor <= (high - low) / 4)
    return (number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1))


def panel(
    box: tuple[float, float, float, float],
    dots: list[Dots],
    across: str,
    upwards: str,
    low: float = 0.0,
    line: tuple[float, float] | None = None,
) -> list[str]:
    """
    The parts of a drawing with one pair of axes; the horizontal one begins at 0.

    Args:
        box: left, top, width and height.
        across, upwards: what the axes are.
        low: where the vertical axis begins.
        line: slope and intercept of a dashed line.
    """
    left, top, width, height = box
    bottom = top + height
    x_values, y_values = zip(*(point for one in dots for point in one.points), strict=True)
    widest, highest = 1.1 * max(x_values), low + 1.25 * (max(y_values) - low)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x / widest * width, bottom - (y - low) / (highest - low) * height

    drawn = [path([(left, top), (left, bottom), (left + width, bottom)], f'stroke="{INK}"')]
    for tick in ticks(0, widest):
        x, _ = place(tick, low)
        drawn += [path([(x, bottom), (x, bottom + 5)], f'stroke="{INK}"'), text(x, bottom + 20, f"{tick:g}")]
    for tick in ticks(low, highest):
        _, y = place(0, tick)
        drawn += [path([(left, y), (left + width, y)], f'stroke="{GRID}"'), text(left - 8, y + 5, f"{tick:g}", "end")]
    if line is not None:
        ends = [place(x, line[0] * x + line[1]) for x in (0, widest)]
        drawn.append(path(ends, f'stroke="{dots[0].color}" stroke-dasharray="6 4"'))
    written: list[tuple[float, float]] = []
    for points, color, words, joined in dots:
        places = [place(*point) for point in points]
        if joined:
            drawn.append(path(places, f'stroke="{color}"'))
        for number, (x, y) in enumerate(places):
            drawn.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{DOT}" fill="{color}"/>')
            if number in words:
                while any(abs(x - at_x) < 100 and abs(y - at_y) < 16 for at_x, at_y in written):
                    y += 4  # Below what is written there.
                written.append((x, y))
                drawn.append(text(x + 10, y + 16, words[number], "start", color))
    color = dots[0].color if len(dots) == 1 else INK
    return [*drawn, text(left + width / 2, bottom + 42, across), text(left, top - 12, upwards, "start", color)]


def drawing(width: float, height: float, title: str, parts: list[str]) -> str:
    """A whole SVG file."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
            'font-size="14" role="img">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )
