"""One clock that runs on for all streams of a file, whatever times its packets bear."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import Any

_LEAP = 10  # seconds in which no stream has anything: the clock has leapt
_HOLD = 3600  # the same in formats whose clocks are sound: slides stand for minutes
_OVERLAP = Fraction(1, 10)  # seconds that sound may step back without its clock being another
_REORDERED = 2  # seconds from the time of decoding in which a picture is shown, if its time is right
_STRAYS = 4  # packets that may have wrong times one after the other
_PATIENCE = 256  # packets of sound that wait to see whether the pictures' clock starts anew, too


@dataclass
class _Track:
    waiting: deque[Any] = field(default_factory=deque)
    shift: Fraction = Fraction(0)
    last: Fraction | None = None  # seconds, of the last packet's decoding
    end: Fraction = Fraction(0)  # seconds, the latest time of showing, without strays
    step: Fraction = Fraction(1, 25)


def steadied(packets: Iterable[Any], main: Any, others: Iterable[Any] = ()) -> Iterator[Any]:
    """Yield the packets of the streams `main` and `others`, each in its order, on a clock that runs on.

    Where the clock of `main` starts anew, as in joined recordings, or leaps, all that follows is moved so that it goes
    on, in the other streams too. Packets with times of their own, up to `_STRAYS` in a row, are set between their
    neighbours. Times that repeat or step back a little stay as they are.
    """
    tracks = {stream.index: _Track() for stream in (main, *others)}
    first = tracks[main.index]
    untimed = []
    for packet in packets:
        track = tracks.get(packet.stream.index)
        if track is None:
            continue
        if packet.size == 0 and packet.dts is None:  # Stands for the end of a stream.
            untimed.append(packet)
            continue
        track.waiting.append(packet)
        for other in tracks.values() if track is first else (track,):
            yield from _settled(other, tracks, first, _STRAYS)
    for track in tracks.values():
        yield from _settled(track, tracks, first, 0)
    yield from untimed


def _settled(track: _Track, tracks: dict[int, _Track], first: _Track, keep: int) -> Iterator[Any]:
    while len(track.waiting) > keep:
        packet, shift, last = track.waiting[0], track.shift, track.last
        now = _time_of(packet)
        if now is not None and last is None:
            shift = _before(now, track) - now
        elif now is not None and last is not None:
            small = 2 * track.step if track is first else Fraction(0)
            late = max(t.last for t in tracks.values() if t.last is not None) + _leap(packet)
            back = last - (small or _OVERLAP)
            if between := _between(now + shift, last, track, small, late):
                shift = between - now
            elif not back < now + shift <= late:
                if track is first:
                    begins = now if packet.pts is None else packet.pts * packet.time_base
                    shift = track.shift = track.end + track.step - begins
                elif shift != first.shift:
                    shift = track.shift = first.shift
                elif keep and len(track.waiting) < _PATIENCE:
                    return
                else:  # Its clock has leapt alone.
                    shift = track.shift = track.end + track.step - now
        track.waiting.popleft()
        _move(packet, shift)
        if now is not None:
            if last is not None and 0 < now + shift - last < _LEAP:
                track.step = now + shift - last
            track.last = now + shift
            shown = track.last if packet.pts is None else packet.pts * packet.time_base
            if shown < track.last + _REORDERED:
                track.end = max(track.end, shown)
        yield packet


def _move(packet: Any, shift: Fraction) -> None:
    ticks = round(shift / packet.time_base)
    if ticks:
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks


def _time_of(packet: Any) -> Fraction | None:
    if packet.dts is None:
        return None
    # A time of decoding may be a guess from the packet before, and then lies after that of showing where clocks begin.
    return min(packet.dts, packet.dts if packet.pts is None else packet.pts) * packet.time_base


def _between(now: Fraction, last: Fraction, track: _Track, small: Fraction, late: Fraction) -> Fraction | None:
    """Where a packet belongs whose time `now` is off the way from `last` to a later packet by more than `small`."""
    for place, packet in enumerate(islice(track.waiting, 1, 1 + _STRAYS), 2):
        time = _time_of(packet)
        later = last if time is None else time + track.shift
        if last < later <= late and not last - small < now <= later + small:
            return last + (later - last) / place
    return None


def _before(now: Fraction, track: _Track) -> Fraction:
    """When a first packet comes: one whose time lies after those that follow it belongs before them."""
    times = [time for packet in islice(track.waiting, 1, None) if (time := _time_of(packet)) is not None]
    if len(times) < 2 or now <= times[-1]:
        return now
    return times[-1] - len(times) * max(times[-1] - times[-2], Fraction(0))


def _leap(packet: Any) -> int:
    """Seconds without anything that are taken for a leap of the clock."""
    return _LEAP if packet.stream.container.format.name in ("mpegts", "mpeg", "flv") else _HOLD
