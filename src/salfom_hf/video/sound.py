"""The sound of a video, put into another one."""

import sys
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
_STEP = Fraction(1, 50)  # seconds that sound may be off its time before silence is put in or something cut off


class Sound:
    """The sound of `source`, put into `output` bit by bit alongside the pictures so that little is held in memory.

    Args:
        output: opened with PyAV and all its video streams added, but nothing written.
        path: of the output, for its suffix and for messages.
        start, length: the range, in seconds, that is written; `start` becomes the beginning of the output.
    """

    def __init__(
        self, source: InputContainer, output: Any, path: Path, start: Fraction, length: Fraction | None
    ) -> None:
        self._output, self._path, self._start, self._length = output, path, start, length
        video = video_stream(source)
        self._origin = origin_of(source, video) + start
        known, encoder = _KNOWN[path.suffix.lower()]
        joined = video is not None and starts_anew(source, video)
        self._tracks: dict[int, _Copied | _Encoded] = {}
        for stream in source.streams.audio:
            context = stream.codec_context
            if context is None or not context.sample_rate or not context.layout.nb_channels:
                self._leave_out(stream, "it cannot be decoded")
                continue
            copied = context.codec.canonical_name in known and not (joined and _is_mixed(source, stream))
            track = _Copied(output, stream) if copied else _Encoded(output, stream, encoder)
            track.stream.disposition = stream.disposition.value
            if stream.language:
                track.stream.metadata["language"] = stream.language
            self._tracks[stream.index] = track
        output.start_encoding()  # Which settles the ticks of the streams.
        streams = [stream for stream in source.streams.audio if stream.index in self._tracks]
        clock = streams[:1] if video is None else [video]
        self._next: Any = None
        # In the page of Ogg that is found, FLAC has wrong times.
        found = max(self._origin - (_INTERLEAVED if source.format.name == "ogg" else 0), Fraction(0))
        # A search by time may end too late: then all is read from the beginning.
        for place in ((found,) if start and not joined else ()) + (Fraction(0),):
            with suppress(av.FFmpegError):
                if start:
                    source.seek(round(place * av.time_base))
            self._packets = steadied(demuxed(source, *clock, *streams), clock[0], streams) if streams else iter(())
            self._next = self._advance()
            if self._next is not None and self._time(self._next) < 1:
                break

    def _leave_out(self, stream: Any, why: str) -> None:
        self._tracks.pop(stream.index, None)
        print(f"salfom: sound track {stream.index} is not in {self._path} from here on: {why}.", file=sys.stderr)

    def _advance(self) -> Any:
        """Return the next packet that belongs in the range."""
        with suppress(av.FFmpegError):  # Sound that breaks off just ends; reading the pictures reports the file.
            for packet in self._packets:
                # What is torn is no sound that players could decode.
                torn = packet.pts is None or packet.is_corrupt
                if torn or (self._time(packet) < 0 and not self._primes(packet)):
                    continue
                decoded = packet.pts if packet.dts is None else packet.dts  # A picture's time may be wrong.
                if (
                    self._length is not None
                    and decoded * packet.time_base - self._origin > self._length + _INTERLEAVED
                ):
                    break  # No file has its streams further apart.
                if packet.stream.index in self._tracks and (self._length is None or self._time(packet) < self._length):
                    return packet
        return None

    def _primes(self, packet: Any) -> bool:
        """Whether a packet from before 0 starts up the sound of a whole file."""
        # MP4 and MOV keep such packets without playing them; elsewhere, one that ends before 0 would put off pictures.
        ends = self._time(packet) + (packet.duration or 0) * packet.time_base
        return not self._start and (ends > 0 or self._output.format.name in ("mp4", "mov"))

    def _time(self, packet: Any) -> Fraction:
        return packet.pts * packet.time_base - self._origin

    def mux_until(self, time: Fraction | None) -> None:
        """Write the sound up to `time` seconds of the output, or all that is left of it."""
        while self._next is not None:
            if time is not None and self._time(self._next) > time:
                return
            self._write(self._next.stream, self._next)
            self._next = self._advance()
        if time is None:
            for track in list(self._tracks.values()):
                self._write(track.source, None)

    def _write(self, stream: Any, packet: Any) -> None:
        """Write a packet of a track, or what remains of it."""
        try:
            self._tracks[stream.index].write(self._output, packet, self._origin)
        except (av.FFmpegError, ValueError) as error:
            if advice_for(error, ""):  # The disk is full, or the like.
                raise
            self._leave_out(stream, reason_of(error))


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
        self.source, self.stream = source, output.add_stream_from_template(source)
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
        self.source, self.stream = source, output.add_stream(name, rate=self._rate, layout=self._layout)
        self._resampler: Any = None
        self._input: tuple[Any, ...] = ()
        self._written = 0  # samples

    def write(self, output: Any, packet: Any, origin: Fraction) -> None:
        if packet is None:
            output.mux(self.stream.encode(None))
            return
        frames = []
        with suppress(av.error.InvalidDataError):
            frames = packet.decode()
        for frame in frames:
            at = None if frame.pts is None else round((frame.pts * frame.time_base - origin) * self._rate)
            kind = frame.format.name, frame.layout.name, frame.sample_rate
            if kind != self._input:  # As where recordings are joined.
                self._input = kind
                self._resampler = av.AudioResampler(self.stream.format.name, self._layout, self._rate)
            for part in self._resampler.resample(frame):
                at = self._put(output, part.to_ndarray(), at)

    def _put(self, output: Any, samples: np.ndarray, at: int | None) -> int:
        """Encode samples that belong `at` a number of samples from the beginning; return where the next ones do."""
        each = 1 if self.stream.format.is_planar else self.stream.codec_context.layout.nb_channels
        missing = 0 if at is None else at - self._written
        if abs(missing) > _STEP * self._rate or not self._written:
            while missing > 0:
                silence = np.zeros_like(samples, shape=(len(samples), min(missing, self._rate) * each))
                missing -= silence.shape[1] // each
                self._encode(output, silence, each)
            samples = samples[:, max(-missing, 0) * each :]
        at = self._written + samples.shape[1] // each
        if samples.size:
            self._encode(output, samples, each)
        return at

    def _encode(self, output: Any, samples: np.ndarray, each: int) -> None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), self.stream.format.name, self._layout)
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._written, Fraction(1, self._rate)
        self._written += samples.shape[1] // each
        output.mux(self.stream.encode(frame))
