"""The sound of a video, put into another one."""

import math
import sys
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer

from ..errors import advice_for, reason_of
from .reading import demuxed, origin_of, sampled, starts_anew, video_stream
from .timing import steadied

# Suffix: what players of the format know, which is copied; encoder for all other sound.
_KNOWN: dict[str, tuple[frozenset[str], str]] = {
    ".mp4": (frozenset({"aac", "mp3", "ac3", "eac3"}), "aac"),
    ".mov": (frozenset({"aac", "mp3", "ac3", "eac3"}), "aac"),
    ".mkv": (frozenset({"aac", "mp3", "ac3", "eac3", "opus", "vorbis", "flac"}), "aac"),
    ".webm": (frozenset({"opus", "vorbis"}), "libopus"),
}
_INTERLEAVED = 10  # seconds by which streams are at most apart in a file, as with pages of Ogg
_DRIFT = Fraction(1, 50)  # seconds that sound may be early or late before it is cut or silence is put in


class Sound:
    """
    The sound of `source`, from `start` for `length` seconds, put into `output` bit by bit alongside the pictures so
    that little is held in memory. `output` is opened with PyAV and has all its video streams, but nothing is written;
    `path` is its own, for its suffix and for messages.
    """

    def __init__(
        self, source: InputContainer, output: Any, path: Path, start: Fraction, length: Fraction | None
    ) -> None:
        self._output, self._path, self._start = output, path, start
        self._length = math.inf if length is None else length
        video = video_stream(source)
        self._origin = origin_of(source, video) + start  # what becomes 0, on the source's clock
        known, encoder = _KNOWN[path.suffix.lower()]
        joined = video is not None and starts_anew(source, video)
        self._tracks: dict[int, _Copied | _Encoded] = {}
        for stream in source.streams.audio:
            context = stream.codec_context
            if context is None or not context.sample_rate or not context.layout.nb_channels:
                self._leave_out(stream.index, "it cannot be decoded")
                continue
            copied = context.codec.canonical_name in known and not (joined and _is_mixed(source, stream))
            track = _Copied(output, stream) if copied else _Encoded(output, stream, encoder)
            track.stream.disposition = stream.disposition.value
            if stream.language:
                track.stream.metadata["language"] = stream.language
            self._tracks[stream.index] = track
        output.start_encoding()  # Which settles the ticks of the streams.
        # In the page of Ogg that is found, FLAC has wrong times.
        found = max(self._origin - (_INTERLEAVED if source.format.name == "ogg" else 0), Fraction(0))
        # A search by time may end too late: then all is read from the beginning.
        for place in (found, Fraction(0)) if start and not joined else (Fraction(0),):
            with suppress(av.FFmpegError):
                if start:
                    source.seek(round(place * av.time_base))
            self._packets = self._in_range(source, video)
            self._next = next(self._packets, None)  # when the packet that is written next is heard, and the packet
            if self._next is not None and self._next[0] < 1:
                break

    def _leave_out(self, index: int, why: str) -> None:
        self._tracks.pop(index, None)
        print(f"salfom: sound track {index} is not in {self._path} from here on: {why}.", file=sys.stderr)

    def _in_range(self, source: InputContainer, video: Any) -> Iterator[tuple[Fraction, Any]]:
        """When each packet that belongs in the range is heard, in seconds of the output, and the packet."""
        streams = [stream for stream in source.streams.audio if stream.index in self._tracks]
        if not streams:
            return
        clock = streams[0] if video is None else video
        packets = demuxed(source, clock, *streams)
        # MP4 and MOV keep packets from before 0, which start up the sound, without playing them.
        keeps = self._output.format.name in ("mp4", "mov")
        with suppress(av.FFmpegError):  # Sound that breaks off just ends; reading the pictures reports the file.
            for packet in steadied(packets, clock, streams):
                if packet.pts is None or packet.is_corrupt:  # What is torn is no sound that players could decode.
                    continue
                time = packet.pts * packet.time_base - self._origin
                # Elsewhere, one that ends before 0 would put off pictures.
                is_over = time < 0 and time + (packet.duration or 0) * packet.time_base <= 0
                if time < 0 and (self._start or (is_over and not keeps)):
                    continue
                # A picture's time may be wrong; that of decoding is not.
                decoded = time if packet.dts in (None, packet.pts) else packet.dts * packet.time_base - self._origin
                if decoded > self._length + _INTERLEAVED:
                    break  # No file has its streams further apart.
                if packet.stream.index in self._tracks and time < self._length:
                    yield time, packet

    def mux_until(self, time: Fraction | None) -> None:
        """Write the sound up to `time` seconds of the output, or all that is left of it."""
        while self._next is not None and (time is None or self._next[0] <= time):
            packet = self._next[1]
            self._write(packet.stream.index, packet)
            self._next = next(self._packets, None)
        for index in list(self._tracks) if time is None else ():
            self._write(index, None)

    def _write(self, index: int, packet: Any) -> None:
        """Write a packet of a track, or what remains of it."""
        try:
            self._tracks[index].write(self._output, packet, self._origin)
        except (av.FFmpegError, ValueError) as error:
            if advice_for(error, ""):  # The disk is full, or the like.
                raise
            self._leave_out(index, reason_of(error))


def _is_mixed(source: InputContainer, stream: Any) -> bool:
    """Whether joined recordings have sound of several rates or layouts, which one header could not describe."""
    kinds = set()
    for packet in sampled(source, stream):
        with suppress(av.FFmpegError):
            kinds.update((frame.sample_rate, frame.layout.name) for frame in packet.decode())
    return len(kinds) > 1


class _Copied:
    """A track whose packets stay as they are; one whose time does not increase comes a tick after the one before."""

    def __init__(self, output: Any, source: Any) -> None:
        self.stream = output.add_stream_from_template(source)
        self._last: int | None = None

    def write(self, output: Any, packet: Any, origin: Fraction) -> None:
        if packet is None:
            return
        tick = self.stream.time_base
        time, length = round((packet.pts * packet.time_base - origin) / tick), packet.duration or 0
        length = round(length * packet.time_base / tick)
        if self._last is not None and time <= self._last:
            if time + length <= self._last:
                return  # It has been heard.
            time = self._last + 1
        packet.stream, packet.time_base = self.stream, tick
        packet.pts = packet.dts = self._last = time
        packet.duration = length
        output.mux(packet)


class _Encoded:
    """A track that is encoded again, with silence where it has holes."""

    def __init__(self, output: Any, source: Any, name: str) -> None:
        rate, channels = source.codec_context.sample_rate, source.codec_context.layout.nb_channels
        self._rate = rate if rate in (av.Codec(name, "w").audio_rates or [rate]) else 48_000
        self._layout = "mono" if channels == 1 else "stereo"
        self.stream = output.add_stream(name, rate=self._rate, layout=self._layout)
        self._resampler: Any = None
        self._input: tuple[Any, ...] = ()  # format, layout and rate of what was decoded last
        self._written = 0  # samples of the output, per channel

    def write(self, output: Any, packet: Any, origin: Fraction) -> None:
        if packet is None:
            output.mux(self.stream.encode(None))
            return
        frames = []
        with suppress(av.error.InvalidDataError):
            frames = packet.decode()
        for frame in frames:
            # Where the frame belongs, in samples from the beginning of the output.
            at = None if frame.pts is None else round((frame.pts * frame.time_base - origin) * self._rate)
            kind = frame.format.name, frame.layout.name, frame.sample_rate
            if kind != self._input:  # As where recordings are joined.
                self._input = kind
                self._resampler = av.AudioResampler(self.stream.format.name, self._layout, self._rate)
            # Columns of each sample: planar ones are an array (channels, samples), all others (1, samples · channels).
            each = 1 if self.stream.format.is_planar else self.stream.codec_context.layout.nb_channels
            for part in self._resampler.resample(frame):
                samples = part.to_ndarray()
                missing = 0 if at is None else at - self._written
                if abs(missing) > _DRIFT * self._rate or not self._written:
                    for begin in range(0, missing, self._rate):
                        columns = min(missing - begin, self._rate) * each
                        self._encode(output, np.zeros_like(samples, shape=(len(samples), columns)), each)
                    samples = samples[:, max(-missing, 0) * each :]
                if samples.size:
                    self._encode(output, samples, each)
                at = self._written

    def _encode(self, output: Any, samples: np.ndarray, each: int) -> None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), self.stream.format.name, self._layout)
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._written, Fraction(1, self._rate)
        self._written += samples.shape[1] // each
        output.mux(self.stream.encode(frame))
