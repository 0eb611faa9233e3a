"""
One clock that runs on for all streams of a file, whatever times its packets bear.

[`steadied`] holds packets back, in a queue for each stream, until it is clear what an odd time means. Then a packet is
moved by its stream's shift: 0 at first, and another number from each place on where the clock begins again.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from statistics import median
from typing import Any

# All in seconds, but for the numbers of packets.
_APART = 1  # by which streams may be apart in a file: what lies further beyond all of them may be a leap of the clock
_LAG = 0.5  # by which one stream may come later in the file than another
_STILL = 600  # for which a picture may stand, or sound be away, where no other stream tells what time it is
_STILL_MPEG = 10  # the same in MPEG and FLV files without sound, whose clocks leap more often than pictures stand
_SOUND_BACK = 0.1  # by which sound may step back without its clock being another
_REORDERED = 2  # from the time of decoding in which a picture is shown, if its time is right
_WINDOW = 2, 256  # seconds and packets of a stream that are looked at to tell what an odd time means
_BEGINNING = 4  # packets that tell whether the first one has the right time
_LAST = 4  # packets at the end of a stream that are taken for strays if they come too late


@dataclass
class _Track:
    """
    A stream: its packets that wait, and what is known of those that were given on. All times are in seconds on the
    clock that runs on, which means with `shift` added.
    """

    # Of each packet its number in the file, and its own time, not moved.
    waiting: deque[tuple[int, float | None, Any]] = field(default_factory=deque)
    shift: float = 0.0  # what is added to the packets' own times
    last: float | None = None  # the latest time of decoding
    end: float = 0.0  # the latest time at which something was shown, without strays
    steps: deque[float] = field(default_factory=lambda: deque(maxlen=5))  # between the last packets
    since: float | None = None  # what the other streams had got to when the first waiting packet was found to leap

    @property
    def step(self) -> float:
        """The usual time from one packet to the next."""
        return median(self.steps) if self.steps else 1 / 25

    def times(self) -> list[float]:
        """Of the waiting packets, as if nothing was wrong."""
        return [time + self.shift for _, time, _ in self.waiting if time is not None]

    def leap(self) -> float:
        """How far the first waiting packet lies beyond its place."""
        times = self.times()
        return times[0] - self.last - self.step if times and self.last is not None else 0.0

    def given_on(self, shift: float) -> Any:
        """Take out the first waiting packet, moved by so much."""
        _, time, packet = self.waiting.popleft()
        if ticks := round(shift / packet.time_base):
            for name in ("pts", "dts"):
                moved = getattr(packet, name)
                # A damaged file has some that FFmpeg's 64 bits cannot hold.
                fits = moved is not None and abs(moved + ticks) < 2**63
                setattr(packet, name, moved + ticks if fits else None)
        if time is not None:
            now = time + shift
            if self.last is not None and now > self.last:
                self.steps.append(now - self.last)
            self.last, self.since = max(now, self.last or now), None
            shown = now if packet.pts is None else float(packet.pts * packet.time_base)
            if shown < now + _REORDERED:
                self.end = max(self.end, shown)
        return packet

    def begin_again(self, first: "_Track") -> float:
        """Let the clock begin again at the first waiting packet: as the pictures' did, or right after what was."""
        if self is not first and self.shift != first.shift:
            self.shift = first.shift
        else:
            packet = self.waiting[0][2]
            begins = packet.dts if packet.pts is None else packet.pts
            self.shift = self.end + self.step - float(begins * packet.time_base)
        return self.shift


def steadied(packets: Iterable[Any], main: Any, others: Iterable[Any] = ()) -> Iterator[Any]:
    """Yield the packets of the streams `main` and `others`, each in its order, on a clock that runs on.

    A packet with an odd time waits for those that follow, which tell what it means:

    - a stray: later packets of its stream are back on the clock. It is set between its neighbours.
    - a new clock: times go back, as in joined recordings, or all streams leap by the same time, or one stream leaps
      while the others go on as before. What follows is moved so that it goes on, sound by as much as pictures.
    - a picture that stands, or a hole in the sound: the other streams have gone on to its time. It stays.

    Where no other stream tells, as without sound, a leap of more than `_STILL` is a new clock. Times that repeat or
    step back a little stay as they are.
    """
    tracks = {stream.index: _Track() for stream in (main, *others)}
    first, ends = tracks[main.index], []
    for number, packet in enumerate(chain(packets, [None])):
        if packet is not None and packet.stream.index not in tracks:
            continue
        if packet is not None and packet.size == 0 and packet.dts is None:  # Stands for the end of a stream.
            ends.append(packet)
            continue
        if packet is not None:
            # A time of decoding may be a guess from the packet before, and lies after that of showing where clocks
            # begin.
            ticks = packet.dts if packet.dts is None or packet.pts is None else min(packet.dts, packet.pts)
            time = None if ticks is None else float(ticks * packet.time_base)
            tracks[packet.stream.index].waiting.append((number, time, packet))
        while True:  # Of the pictures, just one is given on at a time: the others follow their clock.
            for track in tracks.values():
                rest = [other for other in tracks.values() if other is not track]
                while track.waiting and (shift := _shift(track, first, rest, packet is None)) is not None:
                    yield track.given_on(shift)
                    if track is first:
                        break
            if packet is not None or not any(track.waiting for track in tracks.values()):
                break
    yield from ends


def _shift(track: _Track, first: _Track, others: list[_Track], ended: bool) -> float | None:
    """What moves the first waiting packet of a track to its place, in seconds; None while others have to tell."""
    last, step, (number, time, packet) = track.last, track.step, track.waiting[0]
    if time is None:
        return track.shift
    if last is None:  # The first packet of all is to lie before those that follow it.
        if not ended and len(track.waiting) <= _BEGINNING:
            return None
        times = track.times()
        if len(times) < 3 or times[0] <= times[-1]:
            return track.shift
        return track.shift + times[-1] - (len(times) - 1) * max(times[-1] - times[-2], 0.0) - times[0]
    back = 2 * step if track is first else max(2 * step, _SOUND_BACK)
    now = time + track.shift
    if last - back <= now <= last + 3 * step:  # Nothing is odd.
        return track.shift
    times = track.times()
    if (between := _between_neighbours(times, last, step)) is not None:
        return track.shift + between - now
    if track is not first and track.shift != first.shift:  # The pictures' clock has begun again, here or before.
        if now < last and first.waiting and first.waiting[0][0] < number:
            return None  # The pictures' clock may do so once more: they come first.
        if now < last or abs(time + first.shift - last) <= _APART:
            return track.begin_again(first)
    seconds, packets = _WINDOW
    is_clear = ended or len(times) > packets or times[-1] - now > seconds
    reached = max((other.last for other in others if other.last is not None), default=last)
    if last <= now <= max(last, reached) + _APART:  # The others have gone on to here.
        return track.shift if is_clear else None
    if now > last:  # A leap forward; it is a new clock if another stream leaps as far.
        track.since = reached if track.since is None else track.since
        leaps = [other.leap() for other in others]
        if track is first and any(leap > _APART and abs(leap - track.leap()) <= _APART for leap in leaps):
            return track.begin_again(first)
    if not is_clear or (track is not first and first.waiting):
        return None
    if now > last:  # No other stream leaps with it: a picture stands, or sound is away, unless the others went on.
        is_mpeg = packet.stream.container.format.name in ("mpegts", "mpeg", "flv")
        if ended and is_mpeg and len(times) <= _LAST and others and abs(reached - last) <= _APART:
            return track.shift + last + step - now  # A stray: nothing else was there any more.
        others_went_on = track.since is not None and reached - track.since > _LAG
        still = _STILL_MPEG if is_mpeg and (not others or reached - last > _LAG) else _STILL
        if not others_went_on and (track.leap() < still or len(track.steps) < 3):
            return track.shift
    return track.begin_again(first)


def _between_neighbours(times: list[float], last: float, step: float) -> float | None:
    """The place of the first of the times if it is a stray, after which the clock leaps back to where it was."""
    # Where, `place` packets after the last one given on, do the times fall back from the strays to the clock?
    for place, (before, after) in enumerate(pairwise(times), 2):
        leaps = before - after > step or (before < last and after - before > 3 * step)
        # Where it would be if the packets from here on, or those before, had the right times.
        by_itself, by_others = times[0] + (place - 1) * step, last + place * step
        nearest = min(abs(after - by_itself), max(by_others - last, _SOUND_BACK))
        if leaps and after > last and abs(after - by_others) < nearest:
            return last + (after - last) / place
    return None
