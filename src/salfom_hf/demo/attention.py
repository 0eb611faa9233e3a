"""What saliency maps say in words: where most would look, and where that goes."""

from collections.abc import Sequence
from itertools import groupby

from ..inference.table import CELLS, Attention

SHORTEST_STAY = 0.25  # seconds
MOST_STAYS = 8


def place(frame: Attention) -> str:
    """The ninth of the frame that the peak lies in, such as "top left", "right" or "centre"."""
    return CELLS[3 * min(int(frame.peak_y * 3), 2) + min(int(frame.peak_x * 3), 2)]


def path_in_words(timestamps: Sequence[float], frames: Sequence[Attention]) -> str:
    """Where the peak stays, one after the other; shorter stays than `SHORTEST_STAY` are passed over."""
    stays: list[tuple[float, str]] = []
    begin = 0
    for name, group in groupby(map(place, frames)):
        end = begin + len(list(group))
        lasts = timestamps[min(end, len(frames) - 1)] - timestamps[begin]
        if lasts >= SHORTEST_STAY and (not stays or stays[-1][1] != name):
            stays.append((timestamps[begin], name))
        begin = end
    stays = stays or [(timestamps[0], place(frames[0]))]
    words = [f"{name} from {time:.1f} s" for time, name in stays[:MOST_STAYS]]
    if len(stays) > MOST_STAYS:
        words.append(f"and {len(stays) - MOST_STAYS} more places")
    return ", ".join(words)
